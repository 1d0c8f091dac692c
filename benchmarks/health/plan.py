"""The list of runs, in rounds: each has every setup without a fault, and every fault in one setup."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.health.faults import FAULTS
from benchmarks.health.setups import SETUPS
from ganscale.parallel.random import permutation

ROUNDS = 15
FIRST_FAULTY = 1000
"""Seed of the first run with a fault."""


@dataclass(frozen=True)
class Job:
    """A run to train, with the arguments of `record.run`."""

    setup: str
    fault: str
    seed: int

    @property
    def name(self) -> str:
        """Setup and fault, for the log and for `--only`."""
        return f"{self.setup}/{self.fault or 'healthy'}"


def plan(rounds: int = ROUNDS) -> list[Job]:
    """All runs, round after round.

    Args:
        rounds: how many.
    """
    return [job for number in range(rounds) for job in _round(number)]


def _round(number: int) -> Iterator[Job]:
    yield from (Job(setup, "", number) for setup in SETUPS)
    for index, fault in enumerate(FAULTS.values()):
        fitting = [setup.name for setup in SETUPS.values() if fault.fits(setup)]
        order = permutation(index, "health/setups", len(fitting))
        yield Job(fitting[int(order[number % len(fitting)])], fault.name, FIRST_FAULTY + number)
