"""The list of runs: one half to choose the thresholds, the other half, with other seeds, to score them."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.health.faults import FAULTS
from benchmarks.health.setups import SETUPS

HALVES = {"chosen": 0, "scored": 1000}
"""First seed of each half."""
HEALTHY_RUNS = {"chosen": 4, "scored": 4}
"""Runs of each setup without a fault."""
FAULTY_RUNS = 6
"""Runs of each fault in each half."""


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


def half_of(seed: int) -> str:
    """The half that a run belongs to.

    Args:
        seed: of the run.
    """
    return "scored" if seed >= HALVES["scored"] else "chosen"


def plan(half: str | None = None) -> list[Job]:
    """All runs: every setup without a fault, and every fault in several setups.

    Args:
        half: of `HALVES`; None for both.
    """
    return [job for name in HALVES if half in (None, name) for job in _half(name)]


def _half(half: str) -> Iterator[Job]:
    first = HALVES[half]
    for seed in range(first, first + HEALTHY_RUNS[half]):
        yield from (Job(setup, "", seed) for setup in SETUPS)
    for index, fault in enumerate(FAULTS.values()):
        fitting = [setup.name for setup in SETUPS.values() if fault.fits(setup)]
        for number in range(FAULTY_RUNS):
            place = (FAULTY_RUNS * index + number + (first > 0)) % len(fitting)
            yield Job(fitting[place], fault.name, first + 100 + number)
