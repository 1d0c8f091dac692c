"""docs/cluster.md: every command is one that the programs take, the table has every check."""

import ast
import re
import shlex
import subprocess

import pytest

from cluster import local_cluster
from cluster.nodes import LocalCluster
from ganscale import doctor
from ganscale.cli import split_words
from ganscale.config import load
from ganscale.launch.doctor.checks import Requirements, run_checks
from tests.k8s.manifests import ROOT
from tests.launch.doctor.test_checks import cluster
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "cluster.md"
LINES = [line for block in blocks(PAGE, "sh") for line in block.splitlines()]
LOCAL = [line for line in LINES if line.startswith("python cluster/local_cluster.py ")]
DOCTOR = [line for line in LINES if "ganscale.doctor" in line]
MAKE = [line for line in LINES if line.startswith("make ")]


def test_there_is_nothing_else() -> None:
    assert len(LOCAL) + len(DOCTOR) + len(MAKE) == len(LINES)


@pytest.mark.parametrize("line", MAKE)
def test_the_makefile_has_it(line: str) -> None:
    words = shlex.split(line, comments=True)
    found = subprocess.run([words[0], "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pytest" in found.stdout


@pytest.mark.parametrize("line", LOCAL)
def test_the_local_cluster_takes_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    options = local_cluster._parse(shlex.split(line)[2:])
    if options.command == "exec":
        words = [word for word in options.words if word != "--"]
        assert words[:3] == ["python", "-m", "ganscale.train"]
        load(words[3], words[4:])


def test_every_command_is_shown() -> None:
    shown = {local_cluster._parse(shlex.split(line)[2:]).command for line in LOCAL}
    assert shown == {"up", "down", "status", "exec", "add", "kill", "cut", "restore", "slow"}


@pytest.mark.parametrize("line", DOCTOR)
def test_the_doctor_takes_it(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)
    options = doctor.make_parser().parse_intermixed_args(words[words.index("ganscale.doctor") + 1 :])
    load(*split_words(options.words))
    assert options.nodes == (0 if "--links" in words else 3)


def test_the_table_has_every_check() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("| check | red when |")[2]
    rows = [cell.strip() for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE) for cell in row.split(",")]
    assert rows == [result.check for result in run_checks(cluster(), Requirements())]


def test_the_bounds_are_those_of_the_code() -> None:
    text, requirements = " ".join(PAGE.read_text(encoding="utf-8").split()), Requirements()
    for phrase in (
        f"`--min-bandwidth` MB/s (default {requirements.bandwidth_mb:g})",
        f"above {requirements.latency_ms:g} ms",
        f"`--min-free` GB (default {requirements.free_gb:g})",
        f"more than {requirements.skew:g} seconds apart",
        f"less than {requirements.memory_gb:g} GB available",
    ):
        assert phrase in text
    assert 0.25 <= requirements.shm_gb <= 0.256


def test_the_code_uses_what_there_is() -> None:
    (block,) = blocks(PAGE, "python")
    used = {
        node.func.attr
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert used == {"run", "kill", "add"}
    assert all(callable(getattr(LocalCluster, name)) for name in used)
