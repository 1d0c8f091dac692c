"""Where this process's time goes: waiting in collectives, waiting for data, and the rest, which is computation.

All ranks take the same time for an iteration, as each waits for the slowest; only the time without waiting tells them
apart. A GPU's work is asynchronous, so that the host measures no waiting there.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ganscale.parallel.replica import Replica


class Stopwatch:
    """Adds up the seconds of its `with` blocks, which are neither nested nor in two threads at once.

    Attributes:
        seconds: so far.
    """

    __slots__ = ("_since", "seconds")

    def __init__(self) -> None:
        self.seconds, self._since = 0.0, 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._since


COMMUNICATION = Stopwatch()
"""Of this process's collectives on CPUs: waiting for others, and transfer."""
READING = Stopwatch()
"""Of reads from the data set, which wait where decoding is late."""


class RankTimes(NamedTuple):
    """Where the time of a rank went between two ticks.

    Attributes:
        compute: seconds in neither of the others.
        waiting: seconds in collectives.
        data: seconds of waiting for data.
        rows: of a D update on the rank, as shares may be uneven.
    """

    compute: float
    waiting: float
    data: float
    rows: float


class Lap:
    """This process's times since the lap began.

    Attributes:
        start: of the clocks, in seconds: all time, in collectives, for data.
    """

    def __init__(self) -> None:
        self.start = _read()

    def skip(self, since: "Lap") -> None:
        """Leave out the time since a later lap began.

        Args:
            since: that lap.
        """
        self.start = [a + now - b for a, now, b in zip(self.start, _read(), since.start, strict=True)]

    @property
    def times(self) -> list[float]:
        """Seconds of the lap: all, in collectives, for data."""
        return [now - start for now, start in zip(_read(), self.start, strict=True)]

    def resume(self, times: Sequence[float]) -> None:
        """Continue a lap of an earlier group of processes.

        Args:
            times: of that lap.
        """
        self.start = [now - spent for now, spent in zip(_read(), times, strict=True)]

    @property
    def seconds(self) -> float:
        """Seconds of the lap."""
        return time.perf_counter() - self.start[0]

    def of_all_ranks(self, rows: Tensor) -> Tensor:
        """The times of all ranks once these are summed over replicas: float64 `[*rows.shape, world_size, 4]`.

        Args:
            rows: of a D update on this rank, `[]`, or of each of its shards, `[S]`.
        """
        total, waiting, data = self.times
        replica = Replica.current()
        table = torch.zeros(rows.numel(), replica.world_size, 4, dtype=torch.float64, device=rows.device)
        table[0, replica.rank, :3] = table.new_tensor((total - waiting - data, waiting, data))
        table[0, replica.rank, 3] = rows.sum()
        return table.view(*rows.shape, replica.world_size, 4)


def _read() -> Sequence[float]:
    return time.perf_counter(), COMMUNICATION.seconds, READING.seconds
