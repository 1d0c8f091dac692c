"""Which runs there are: one half to choose thresholds on, the other to score them on, with seeds of its own."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.health.faults import FAULTS
from benchmarks.health.setups import SETUPS

HALVES = {"chosen": 0, "scored": 1000}
"""First seed of each half."""
SOUND_RUNS = {"chosen": 4, "scored": 4}
"""Runs of each setup as it is."""
SPOILT_RUNS = 6
"""Runs of each fault in each half."""


@dataclass(frozen=True)
class Job:
    """A run to make: see `record.run`."""

    setup: str
    fault: str
    seed: int

    @property
    def name(self) -> str:
        """Setup and fault."""
        return f"{self.setup}/{self.fault or 'sound'}"


def half_of(seed: int) -> str:
    """The half that a run's seed belongs to."""
    return "scored" if seed >= HALVES["scored"] else "chosen"


def plan(half: str | None = None) -> list[Job]:
    """All runs of a half, or of both: every setup as it is, every fault in setups by turns."""
    return [job for name in HALVES if half in (None, name) for job in _half(name)]


def _half(half: str) -> Iterator[Job]:
    first = HALVES[half]
    for seed in range(first, first + SOUND_RUNS[half]):
        yield from (Job(setup, "", seed) for setup in SETUPS)
    for index, fault in enumerate(FAULTS.values()):
        fitting = [setup.name for setup in SETUPS.values() if fault.fits(setup)]
        for number in range(SPOILT_RUNS):
            place = (SPOILT_RUNS * index + number + (first > 0)) % len(fitting)
            yield Job(fitting[place], fault.name, first + 100 + number)
