"""The command line of the cluster check: table, JSON, exit codes, what it passes on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ganscale import doctor
from ganscale.config import Config, ConfigError
from ganscale.launch.doctor import collect
from ganscale.launch.doctor.checks import CHECKS, Facts
from tests.launch.doctor.test_checks import cluster
from tests.launch.doctor.test_links import report

Calls = list[tuple[Any, ...]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Calls of `collect`, which finds a healthy cluster."""
    made: Calls = []

    def find(config: Config, storage: Path | None, *, timeout: float, links: bool) -> Facts:
        print("a line of Ray")
        made.append((storage, timeout))
        return cluster() if not links else replace(cluster(), links=report(3, slow=("w2",)))

    monkeypatch.setattr(collect, "collect", find)
    return made


def test_a_healthy_cluster(calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([f"run.dir={tmp_path}/runs", "--timeout", "7"]) == 0
    assert doctor.main(["--storage", "elsewhere"]) == 0
    assert calls == [(tmp_path / "runs", 7.0), (Path.cwd() / "elsewhere", 60.0)]
    output = capsys.readouterr().out.splitlines()
    assert len(output) == 2 * (len(CHECKS) + 2)
    assert output[1].split() == ["green", "nodes", "3", "answer:", "head,", "w1,", "w2"]


def test_a_red_check_has_its_remedy_below(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["train.device=cuda"]) == 1
    lines = capsys.readouterr().out.splitlines()[1:]
    (row,) = [index for index, line in enumerate(lines) if line.startswith("red ")]
    assert lines[row].split()[:2] == ["red", "GPUs"]
    assert lines[row + 1].split()[0] == "remedy:"
    assert "\033" not in "".join(lines)
    assert all(line.split()[0] in ("green", "red", "remedy:", "1") for line in lines if line.strip()), (
        "no line is wrapped"
    )


@pytest.mark.parametrize(
    ("arguments", "check"),
    [(["--nodes", "4"], "nodes"), (["--min-bandwidth", "600"], "links"), (["--min-free", "200"], "free space")],
)
def test_limits_are_options(arguments: list[str], check: str, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([*arguments, "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert check in [each["check"] for each in printed["checks"] if each["status"] == "red"]
    assert not printed["ok"]
    assert printed["facts"]["nodes"][1]["bandwidth_mb"] == {"head": 500.0}


def test_invalid_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object, **__: object) -> Facts:
        raise ConfigError("no Ray cluster answers there", key="cluster.address", value="x:1", remedy="start one")

    monkeypatch.setattr(collect, "collect", refuse)
    assert doctor.main([]) == 2
    assert "cluster.address = x:1" in capsys.readouterr().err
    assert doctor.main(["train.nothing=1"]) == 2
    for wrong in (["--timeout", "0"], ["a.yaml", "b.yaml"]):
        assert doctor.main(wrong) == 2


def test_links_are_measured_on_request(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["run.dir=s3://bucket/runs", "--nccl"]) == 1
    assert calls[0][0] is None, "a bucket needs no folder then"
    lines = capsys.readouterr().out.splitlines()
    (row,) = [index for index, line in enumerate(lines) if line.startswith("red ")]
    assert lines[row].split()[:2] == ["red", "pairs"]
    assert "all links of w2" in lines[row]
    assert lines[-1].startswith("w0 - w1"), "the fastest pair"
    assert doctor.main(["run.dir=s3://bucket/runs", "--links", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["facts"]["links"]["pairs"]) == 3


def test_a_bucket_is_no_folder_to_check(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["run.dir=s3://bucket/runs"]) == 2
    assert "run.dir = s3://bucket/runs" in capsys.readouterr().err
    assert doctor.main(["run.dir=s3://bucket/runs", "--storage", "/tmp"]) == 0
    assert len(calls) == 1
