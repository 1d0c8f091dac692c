"""What the training thread does now, for the heartbeat: an attribute that code sets where a phase begins."""

from collections.abc import Iterator
from contextlib import contextmanager


class Phase:
    """Holds the name of the phase, e.g. "D backward" or "evaluation"."""

    def __init__(self) -> None:
        self.name = "starting"


WAITING = "waiting for evaluations"
"""Phase in which workers wait for a process that is none of them, for as long as it takes."""
PHASE = Phase()
"""Of this process: one thread trains."""


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Set the phase while the block runs.

    Args:
        name: for people, e.g. "saving".
    """
    before, PHASE.name = PHASE.name, name
    try:
        yield
    finally:
        PHASE.name = before
