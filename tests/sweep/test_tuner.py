"""Concurrency and requested room: a trial starts only with all of its workers, so that none waits for another."""

import logging
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ganscale.config import ConfigError
from ganscale.launch.placement import NodeResources
from ganscale.storage.lease import LeaseLostError
from ganscale.sweep import tuner
from ganscale.sweep.config import SweepSettings
from ganscale.sweep.tuner import concurrent_trials
from tests.sweep.sweeps import ring_plan


@pytest.mark.parametrize(
    ("settings", "nodes", "gpu", "expected"),
    [
        ({}, [NodeResources(8)], False, 8),
        ({"workers": 2}, [NodeResources(8)], False, 4),
        ({"workers": 3}, [NodeResources(8)], False, 2),
        ({"workers": 2, "cpus_per_worker": 3}, [NodeResources(8)], False, 1),
        ({"workers": 2, "cpus_per_worker": 3}, [NodeResources(8), NodeResources(4)], False, 1),
        ({"workers": 4}, [NodeResources(3), NodeResources(3), NodeResources(3)], False, 2),
        ({"max_concurrent": 3}, [NodeResources(8)], False, 3),
        ({"max_concurrent": 30}, [NodeResources(8)], False, 8),
        ({}, [NodeResources(8, 2)], True, 2),
        ({"gpus_per_worker": 0.25}, [NodeResources(16, 1)], True, 4),
        ({"gpus_per_worker": 0.25}, [NodeResources(3, 1)], True, 3),
        ({"gpus_per_worker": 0.3}, [NodeResources(16, 1)], True, 3),
        ({"workers": 2}, [NodeResources(8, 4), NodeResources(8)], True, 2),
    ],
)
def test_what_fits(settings: dict, nodes: list[NodeResources], gpu: bool, expected: int) -> None:
    assert concurrent_trials(SweepSettings(**settings), nodes, use_gpu=gpu) == expected


def test_what_never_fits_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sweep\.workers <= 4") as caught:
        concurrent_trials(SweepSettings(workers=5), [NodeResources(2), NodeResources(2)], use_gpu=False)
    assert caught.value.key == "sweep.workers"
    with pytest.raises(ConfigError, match="smaller"):
        concurrent_trials(SweepSettings(cpus_per_worker=4), [NodeResources(2), NodeResources(2)], use_gpu=False)


def test_pending_trials_make_the_cluster_grow() -> None:
    sweep = SweepSettings(workers=2, max_concurrent=6)
    assert concurrent_trials(sweep, [NodeResources(4)], use_gpu=False, autoscales=True) == 6
    with pytest.raises(ConfigError):
        concurrent_trials(sweep, [NodeResources(1)], use_gpu=False, autoscales=True)


def test_a_sweep_requests_room_for_all_concurrent_trials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    requested: list[tuple[Any, int]] = []
    monkeypatch.setattr(tuner, "PlacementRequest", lambda each, workers: requested.append((each, workers)))
    plan = ring_plan(tmp_path, workers=2, max_concurrent=3, cpus_per_worker=4)
    with caplog.at_level(logging.INFO, "ganscale"):
        tuner._request(plan, ConfigError("no room"))
    assert requested == [({"CPU": 4}, 6)]
    assert "no room" in caplog.text


def test_a_sweep_lies_in_a_folder_or_in_a_bucket(tmp_path: Path) -> None:
    plan = ring_plan(Path(), dir="s3://bucket/sweeps")
    folder = tuner.sweep_folder(plan)
    assert str(folder.root) == "s3://bucket/sweeps/try"
    assert str(folder.trials) == "s3://bucket/sweeps/try/trials"
    assert folder.path != folder.root
    assert folder.path.is_dir(), "a temporary folder for the driver's files"
    there = tuner.sweep_folder(ring_plan(Path(), dir=f"file://{tmp_path}"))
    assert (there.root, there.path) == (tmp_path / "try", tmp_path / "try")


@pytest.mark.parametrize("place", ["ftp://bucket/sweeps", "s3://key:secret@bucket/sweeps", "s3://"])
def test_an_impossible_place_is_refused_by_its_key(place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tuner.sweep_folder(ring_plan(Path(), dir=place))
    assert caught.value.key == "sweep.dir"
    assert "secret" not in str(caught.value)


def test_a_lost_lease_ends_the_search() -> None:
    problem: list[Any] = []
    stopper = tuner._LeaseStopper(SimpleNamespace(problem=lambda: problem[0] if problem else None))  # pyright: ignore
    assert not stopper.stop_all()
    problem.append(LeaseLostError("taken over"))
    assert stopper.stop_all()
    assert not stopper("0000", {})
    assert not pickle.loads(pickle.dumps(stopper)).stop_all(), "a copy, as Tune keeps one, has no lease"
