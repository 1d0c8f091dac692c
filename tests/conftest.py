"""Fixtures for the whole suite."""

from collections.abc import Iterator

import pytest
import torch

from tests.fleet import Fleet

torch.set_num_threads(1)  # networks here are tiny: threads only cost


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Persistent worker processes: `fleet.run(function, world_size, *arguments)` returns each rank's result."""
    fleet = Fleet()
    yield fleet
    fleet.close()
