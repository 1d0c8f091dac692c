"""Fixtures for the whole suite."""

from collections.abc import Callable, Iterator
from functools import lru_cache

import pytest
import torch
from torch import Tensor

import ganscale.data.mnist
from tests.fleet import Fleet
from tests.trajectories import trajectory

torch.set_num_threads(1)  # networks here are tiny: threads only cost


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
