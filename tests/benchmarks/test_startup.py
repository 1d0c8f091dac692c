"""Start-up: marks of several processes, and a real start."""

import sys

import pytest

from benchmarks.speed import marks
from benchmarks.speed.__main__ import main
from benchmarks.speed.command import BenchError
from benchmarks.speed.launching import run_command
from benchmarks.speed.marks import MARKS, mark, read_marks
from benchmarks.speed.startup import divide, start, table
from ganscale.config import load
from tests.runs import MLP


def test_the_slowest_process_counts(tmp_path) -> None:
    for process, moment in ((7, 3.0), (8, 5.0)):
        (tmp_path / f"{process} first step").write_text(repr(moment))
    (tmp_path / "7 build").write_text("2.0")
    assert read_marks(tmp_path) == {"first step": 5.0, "build": 2.0}


def test_a_point_is_marked_once(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(marks.FOLDER, str(tmp_path))
    for moment in (1.0, 2.0):
        monkeypatch.setattr(marks.time, "time", lambda moment=moment: moment)
        mark("build")
    assert read_marks(tmp_path) == {"build": 1.0}
    monkeypatch.delenv(marks.FOLDER)
    mark("imports")
    assert read_marks(tmp_path) == {"build": 1.0}


def test_parts_add_up() -> None:
    found = divide("local", 10.0, {"python": 10.5, "imports": 12.0, "first step": 20.0})
    assert found.parts == {"python": 0.5, "imports": 1.5, "first step": 8.0}
    assert found.total == pytest.approx(sum(found.parts.values())) == 10.0
    assert len({len(line) for line in table([found]).splitlines()}) == 1


@pytest.mark.slow
def test_a_real_start_passes_all_marks() -> None:
    found = start(load(None, [*MLP, "train.batch_size=4", "train.device=cpu"]), "local")
    assert list(found.parts) == list(MARKS)
    assert min(found.parts.values()) >= 0.0


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.ray
@pytest.mark.parametrize("way", ["torchrun", "ray"])
def test_so_do_starts_of_two_workers(way: str) -> None:
    found = start(load(None, [*MLP, "train.batch_size=4", "train.device=cpu"]), way)
    assert list(found.parts) == list(MARKS)


def test_command_without_a_training_step(capsys) -> None:
    assert main(["startup", "--presets", "mlp", "--ways", "help", "--rounds", "1"]) == 0
    assert "| help " in capsys.readouterr().out


def test_a_command_that_fails_or_hangs_is_an_error() -> None:
    with pytest.raises(BenchError, match=r"exit code 3[\s\S]*its output"):
        run_command([sys.executable, "-c", "print('its output'); raise SystemExit(3)"], {}, 60.0)
    with pytest.raises(BenchError, match="timeout after"):
        run_command([sys.executable, "-c", "import time; time.sleep(60)"], {}, 0.2)
