"""Fixtures for the whole suite."""

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from ganscale.training.probe import NUM_HELD_OUT
from tests.fleet import Fleet, make_quick
from tests.trajectories import trajectory

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)  # networks here are tiny: threads only cost
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the commands that tests start, too


@lru_cache
def _starts_ray(file: str) -> bool:
    return "mark.ray" in (ROOT / file).read_text(encoding="utf-8")


class _ByFile(LoadScopeScheduling):
    """Keeps each file's tests in one process of `make test`, and all files whose tests start Ray in one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if _starts_ray(file) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Group the tests: xdist's own `loadgroup` does nothing under pytest 9.2, which has no `Item._nodeid`."""
    return _ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that start Ray, which take longest, and give them more time."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.timeout(1800))
    items.sort(key=lambda item: not _starts_ray(item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session", autouse=True)
def _quick_runs() -> Iterator[None]:
    """Most tests build a whole run; what its few iterations do not need would take longer than they do."""
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch.setattr)
        yield


@pytest.fixture(scope="module")
def all_held_out(_quick_runs: None) -> Iterator[None]:
    """D is shown as many held-out examples as in other processes, for modules that compare rows with theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ganscale.training.probe.NUM_HELD_OUT", NUM_HELD_OUT)
        yield


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Persistent worker processes: `fleet.run(function, world_size, *arguments)` returns each rank's result."""
    fleet = Fleet()
    yield fleet
    fleet.close()


@pytest.fixture(scope="session")
def alone(fleet: Fleet) -> Callable[[tuple[str, ...]], dict[str, Tensor]]:
    """The trajectory of one worker, computed once per run."""
    return lru_cache(lambda overrides: fleet.run(trajectory, 1, overrides)[0])
