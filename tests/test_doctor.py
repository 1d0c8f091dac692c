"""The doctor's command line: table, JSON, exit codes, what it hands on."""

import json
from pathlib import Path
from typing import Any

import pytest

from ganscale import doctor
from ganscale.config import Config, ConfigError
from ganscale.diagnosis import Facts
from tests.test_diagnosis import cluster


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Calls of `_collect`, which finds a healthy cluster."""
    made: list[tuple[Any, ...]] = []

    def collect(config: Config, storage: Path, patience: float, *, quiet: bool) -> Facts:
        made.append((config, storage, patience, quiet))
        return cluster()

    monkeypatch.setattr(doctor, "_collect", collect)
    return made


def test_a_healthy_cluster(calls: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([f"run.dir={tmp_path}/runs", "--timeout", "7"]) == 0
    config, storage, patience, quiet = calls[0]
    assert (storage, patience, quiet) == (tmp_path / "runs", 7.0, False)
    assert config.run.dir == f"{tmp_path}/runs"
    output = capsys.readouterr().out.splitlines()
    assert output[0].split() == ["green", "nodes", "3", "answer:", "head,", "w1,", "w2"]
    assert len(output) == 15
    assert output[-1] == "nothing is red"
    assert doctor.main(["--storage", "elsewhere"]) == 0
    assert calls[1][1] == Path.cwd() / "elsewhere"


def test_a_red_line(calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["train.device=cuda"]) == 1
    output = capsys.readouterr().out
    assert "red     GPUs        the run asks for GPUs, the cluster has none\n" in output
    assert "\n                    remedy: add nodes with GPUs, or train.device=cpu\n" in output
    assert output.endswith("1 of 14 are red: mend them from the top\n")


@pytest.mark.parametrize(
    ("arguments", "check"),
    [(["--nodes", "4"], "nodes"), (["--min-bandwidth", "600"], "links"), (["--min-free", "200"], "free space")],
)
def test_bounds_are_the_users(
    arguments: list[str], check: str, calls: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main([*arguments, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert check in [line["check"] for line in said["lines"] if line["status"] == "red"]
    assert not said["ok"]
    assert said["facts"]["nodes"][1]["links"]["head"]["megabytes"] == 500.0


def test_what_cannot_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object, **__: object) -> Facts:
        raise ConfigError("no Ray cluster answers there", key="cluster.address", value="x:1", remedy="start one")

    monkeypatch.setattr(doctor, "_collect", refuse)
    assert doctor.main([]) == 2
    assert capsys.readouterr().err.startswith("ganscale: error: cluster.address = x:1: no Ray cluster answers there")
    assert doctor.main(["train.nothing=1"]) == 2
    for wrong in (["--timeout", "0"], ["a.yaml", "b.yaml"]):
        with pytest.raises(SystemExit):
            doctor.main(wrong)


def test_colors_are_for_terminals() -> None:
    (line,) = doctor.judge(Facts([]), doctor.Needs(nodes=1))
    assert "\033" not in doctor.table([line])
    assert doctor.table([line], color=True).startswith("\033[31mred   \033[0m  nodes  0 of 1")
