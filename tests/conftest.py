"""Fixtures for the whole suite."""

import os
from collections.abc import Callable, Iterator
from functools import lru_cache

import pytest
import torch
from torch import Tensor

import ganscale.data.mnist
from tests.fleet import Fleet
from tests.trajectories import trajectory

torch.set_num_threads(1)  # networks here are tiny: threads only cost
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in the commands that tests start, too


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each file's tests in one process of `make test`, and all that start Ray in one, which begins with them."""
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else item.location[0]
        item.add_marker(pytest.mark.xdist_group(group))
        if group == "ray":
            item.add_marker(pytest.mark.timeout(1800))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@pytest.fixture(scope="session", autouse=True)
def _read_mnist_once() -> Iterator[None]:
    """Most tests build a whole run; reading and resizing the digits each time would take longer than they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ganscale.data.mnist, "load_mnist", lru_cache(ganscale.data.mnist.load_mnist))
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
