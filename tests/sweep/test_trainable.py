"""What a trial tells Ray Tune: its name, its numbers, and checkpoints that are states or references."""

import errno
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import Checkpoint

from ganscale.storage.store import LocalStore, StorePath
from ganscale.sweep.results import TrialRow, title
from ganscale.sweep.score import SeedResult
from ganscale.sweep.trainable import TrialActor, trial_number
from tests.sweep.sweeps import sweep


class FakeExecutor:
    """Writes and reads the states of a trial in place of the workers."""

    loaded = b""

    def run(self, spec: object, operation: str, argument: str) -> None:
        if operation == "save":
            Path(argument).write_bytes(b"states")
        else:
            self.loaded = Path(argument).read_bytes()


def test_states_pass_between_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep's folder is often NFS or a volume; Ray's temporary folder is on the node."""

    def rename(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    folder, temporary = tmp_path / "trial", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    actor: Any = TrialActor.__new__(TrialActor)
    actor._executor, actor._folder, actor._spec = FakeExecutor(), folder, None
    actor._job = SimpleNamespace(from_end=True)
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", rename)
    actor.save_checkpoint(str(temporary))
    assert not list(folder.iterdir())
    actor.load_checkpoint(str(temporary))
    assert actor._executor.loaded == b"states"
    assert not list(folder.iterdir())


@pytest.mark.parametrize("drawn", [{}, {"optim.lr_g": 2e-3, "loss.name": "hinge"}])
def test_a_trial_is_named_by_its_configuration(drawn: dict[str, Any]) -> None:
    name = title(12, drawn, list(drawn))
    assert name == ("0012 lr_g=0.002 name=hinge" if drawn else "0012")
    assert trial_number(name) == 12


class FakeGauges:
    """Keeps what is exported to Prometheus."""

    rows: dict[int, dict[str, float]]

    def __init__(self) -> None:
        self.rows = {}

    def log(self, images: int, metrics: dict[str, float]) -> None:
        self.rows[images] = metrics


def reporting_actor(tmp_path: Path, values: tuple[float, ...], *, from_end: bool) -> Any:
    """An actor whose next row has these values of `modes`, one per seed."""
    seeds = tuple(SeedResult(seed, 320, {"modes": value}) for seed, value in enumerate(values))
    row = TrialRow(320, {"optim.lr_g": 2e-3}, seeds, 1.0, True)
    actor: Any = TrialActor.__new__(TrialActor)
    actor._executor, actor._gauges, actor._next = SimpleNamespace(run=lambda *_: row), FakeGauges(), 0
    actor._job = SimpleNamespace(from_end=from_end, metrics=("modes",))
    actor._spec, actor._folder = SimpleNamespace(seeds=(3, 5)), tmp_path / "trials" / "0007"
    actor._sweep = sweep({"optim.lr_g": {"choice": [1e-3]}})
    return actor


@pytest.mark.parametrize("from_end", [False, True])
def test_tune_gets_plain_finite_numbers_and_the_settings(tmp_path: Path, from_end: bool) -> None:
    actor = reporting_actor(tmp_path, (6.0, 8.0), from_end=from_end)
    result = actor.step()
    assert (result["modes"], result["images"], result["spent"], result["failures"]) == (7.0, 320, 640, 0)
    assert (result["settings"], result["done"]) == ({"optim.lr_g": 2e-3}, True)
    assert result["should_checkpoint"] != from_end, "population-based training saves by itself"
    assert actor._gauges.rows[320]["modes"] == 7.0
    failed = reporting_actor(tmp_path, (math.nan, math.nan), from_end=from_end).step()
    assert "modes" not in failed
    assert math.isfinite(failed["score"])


def test_tunes_checkpoint_names_the_runs_and_restores_nothing(tmp_path: Path) -> None:
    actor = reporting_actor(tmp_path, (6.0, 8.0), from_end=False)
    actor._executor = None  # neither needs the workers
    actor.save_checkpoint(str(tmp_path))
    checkpoint = Checkpoint.from_directory(str(tmp_path))
    folder = str(tmp_path / "trials" / "0007")
    assert checkpoint.get_metadata() == {"path": folder, "runs": [f"{folder}/seed-3", f"{folder}/seed-5"]}
    actor.load_checkpoint(str(tmp_path))
    assert actor._next == 0, "the recorded rows are reported again"


def test_states_pass_through_a_bucket(tmp_path: Path) -> None:
    """The workers of a trial may run on other hosts than its actor."""
    store = LocalStore(tmp_path / "bucket")
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    other.mkdir()

    class Executor:
        loaded = b""

        def run(self, spec: object, operation: str, argument: StorePath) -> None:
            if operation == "save":
                argument.store.put(argument.key, b"states")
            else:
                self.loaded = argument.read_bytes()

    actor: Any = TrialActor.__new__(TrialActor)
    actor._executor, actor._folder, actor._spec = Executor(), StorePath(store, "trials/0000"), None
    actor._job = SimpleNamespace(from_end=True)
    actor.save_checkpoint(str(here))
    assert store.list() == []
    assert (here / "states.pt").read_bytes() == b"states"
    actor.load_checkpoint(str(here))
    assert actor._executor.loaded == b"states"
    assert store.list() == []
