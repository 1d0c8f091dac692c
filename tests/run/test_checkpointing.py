"""When checkpoints are due: `checkpoint.every: auto` measures once, keeps what came of it, and changes no result."""

import json
from pathlib import Path

import pytest
import torch

from ganscale.config import load as load_config
from ganscale.run import checkpointing
from ganscale.run.checkpointing import interval, read_interval
from ganscale.run.session import run_worker
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.failures import optimal_interval
from ganscale.storage.run_dir import RunDir
from tests.processes import final_state
from tests.run.test_stop_signal import RUN


def test_the_interval_is_a_multiple_of_a_tick() -> None:
    seconds = optimal_interval(2.0, 3600.0)
    assert interval(2.0, 1.0, 100.0, 60) == 60 * int(seconds * 100.0 / 60)
    assert interval(2.0, 1.0, 0.001, 60) == 60, "at least one tick"
    assert interval(0.0, 1.0, 100.0, 1) == int(optimal_interval(1e-3, 3600.0) * 100.0), "saving is never for nothing"


def test_what_was_decided_is_read_and_nonsense_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_interval(path) is None
    for text in ("", "{", "[]", '{"images": 0}', '{"images": "60"}', '{"images": 1.5}', "[" * 100_000):
        path.write_text(text)
        assert read_interval(path) is None
    path.write_text('{"images": 120}')
    assert read_interval(path) == 120


def run(folder: Path, name: str, *overrides: str) -> list[int]:
    """A run's checkpoints, by images."""
    config = load_config(overrides=(*RUN, "checkpoint.keep=99", f"run.dir={folder}", f"run.name={name}", *overrides))
    run_worker(config, folder / name, device=torch.device("cpu"), echo=False)
    return sorted(int(path.name) for path in CheckpointStore(folder / name / "checkpoints").folders())


def test_auto_measures_at_the_first_row_and_holds_for_later_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "interval", lambda *_: 180)
    assert run(tmp_path, "auto", "checkpoint.every=auto", "train.images=300") == [60, 180, 300]
    remembered = RunDir(tmp_path / "auto").interval
    assert json.loads(remembered.read_text())["images"] == 180
    monkeypatch.setattr(checkpointing, "interval", lambda *_: 60)
    assert run(tmp_path, "auto", "checkpoint.every=auto") == [60, 180, 300, 360, 540, 600]
    assert run(tmp_path, "fixed") == [120, 240, 360, 480, 600]
    assert final_state(tmp_path / "auto") == final_state(tmp_path / "fixed")


def test_auto_says_what_it_came_to(tmp_path: Path) -> None:
    made = run(tmp_path, "auto", "checkpoint.every=auto", "checkpoint.hours_between_faults=1e-3")
    said = RunDir(tmp_path / "auto").log.read_text(encoding="utf-8")
    assert "checkpoint.every = auto: " in said
    every = read_interval(RunDir(tmp_path / "auto").interval)
    assert every is not None
    assert every % 60 == 0
    assert made[0] == 60
    assert made[-1] == 600
