"""Links between training workers: which pairs are measured at a time, and which of them are slow."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, median_high
from typing import Any

SLOW = 0.5
"""A pair is slow below this share of the usual bandwidth, or above the usual latency divided by its square."""
FEW = 6
"""With fewer pairs the fastest counts as usual: one slow worker of three makes two of three pairs slow."""
SMALLEST_LATENCY = 0.2
"""Milliseconds below which a latency is never slow."""


@dataclass
class PairReport:
    """An all-reduce of two workers; milliseconds by message size in bytes."""

    first: str
    second: str
    is_local: bool = False  # whether both are on one node
    milliseconds: dict[int, float] = field(default_factory=dict)
    problem: str = ""  # why it could not be measured

    @property
    def bandwidth(self) -> float:
        """MB/s of the largest message: an all-reduce of two sends each byte once each way."""
        size = max(self.milliseconds)
        return size / 1e3 / self.milliseconds[size]

    @property
    def latency(self) -> float:
        """Milliseconds of the smallest message."""
        return self.milliseconds[min(self.milliseconds)]


@dataclass
class LinkReport:
    """All-reduces of all workers together, and of each pair.

    Attributes:
        workers: names of the workers, in the order of their ranks.
        backend: gloo or nccl.
        milliseconds: of all workers together, by message size in bytes.
        pairs: of two workers each.
    """

    workers: tuple[str, ...] = ()
    backend: str = ""
    milliseconds: dict[int, float] = field(default_factory=dict)
    pairs: list[PairReport] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The measurements as text: a line per message size, then one per pair."""
        count = len(self.workers)
        for size, each in sorted(self.milliseconds.items()):
            speed = bus_bandwidth(count, size, each)
            yield f"all-reduce of {count} workers ({self.backend}), {_bytes(size)}: {each:.3g} ms, {speed:.4g} MB/s"
        for pair in sorted(
            self.pairs, key=lambda each: (bool(each.milliseconds), each.milliseconds and each.bandwidth)
        ):
            name = f"{pair.first} - {pair.second}"
            yield (
                f"{name}: {pair.bandwidth:.4g} MB/s, {pair.latency:.3g} ms"
                if pair.milliseconds
                else (f"{name}: {pair.problem}")
            )


def bus_bandwidth(workers: int, size: int, milliseconds: float) -> float:
    """MB/s over the slowest link that an all-reduce needs at least (nccl-tests, PERFORMANCE.md).

    Args:
        workers: their number, at least 2.
        size: bytes of the message.
        milliseconds: that the all-reduce took.
    """
    return 2 * (workers - 1) / workers * size / 1e3 / milliseconds


def rounds(workers: int) -> list[list[tuple[int, int]]]:
    """All pairs of ranks, in rounds in which each rank has at most one partner (the circle method).

    Args:
        workers: number of ranks.
    """
    ranks = [*range(workers), *([-1] if workers % 2 else [])]
    found = []
    for _ in range(len(ranks) - 1):
        pairs = [(ranks[index], ranks[-1 - index]) for index in range(len(ranks) // 2)]
        found.append([(min(pair), max(pair)) for pair in pairs if -1 not in pair])
        ranks = [ranks[0], ranks[-1], *ranks[1:-1]]
    return found


def slow_links(pairs: Sequence[PairReport]) -> Iterator[str]:
    """What is slow compared with the usual pair of its kind, on one node or between two, as text; the worst first.

    Args:
        pairs: those that were measured.
    """
    for is_local in (False, True):
        kind = [pair for pair in pairs if pair.is_local is is_local and pair.milliseconds]
        if len(kind) < 2:
            continue
        few = len(kind) < FEW
        usual = (max if few else median_high)([pair.bandwidth for pair in kind])
        quick = (min if few else median)([pair.latency for pair in kind])
        limit = max(quick / SLOW**2, SMALLEST_LATENCY)
        slow = [pair for pair in kind if pair.bandwidth < SLOW * usual or pair.latency > limit]
        yield from _common(kind, slow)
        for pair in sorted(slow, key=lambda each: each.bandwidth):
            yield (
                f"{pair.first} - {pair.second}: {pair.bandwidth:.3g} MB/s and {pair.latency:.3g} ms, "
                f"usual: {usual:.3g} MB/s and {quick:.3g} ms"
            )


def _common(kind: Sequence[PairReport], slow: Sequence[PairReport]) -> Iterator[str]:
    """A worker all of whose pairs are slow, though not all pairs are."""
    for name in sorted({name for pair in slow for name in (pair.first, pair.second)}):
        own = [pair for pair in kind if name in (pair.first, pair.second)]
        if 1 < len(own) < len(kind) and all(pair in slow for pair in own) and len(slow) < len(kind):
            yield f"all links of {name} are slow"


def assemble(
    workers: Sequence[tuple[str, str]], backend: str, answers: Mapping[str, Any], problems: Mapping[str, str]
) -> LinkReport:
    """The report of what the workers measured.

    Args:
        workers: name and node of each, in the order of their ranks.
        backend: gloo or nccl.
        answers: results of `measure_links` by the worker's name.
        problems: by the worker's name, why it has not answered.
    """
    names = [name for name, _ in workers]
    report = LinkReport(tuple(names), backend)
    report.milliseconds = next((answer["group"] for answer in answers.values()), {})
    for a, (first, node) in enumerate(workers):
        for b in range(a + 1, len(workers)):
            second, other = workers[b]
            found = answers.get(first, {}).get("pairs", {}).get(b) or answers.get(second, {}).get("pairs", {}).get(a)
            problem = "" if found else problems.get(first) or problems.get(second) or "not measured"
            report.pairs.append(PairReport(first, second, node == other, found or {}, problem))
    return report


def _bytes(size: int) -> str:
    for unit, each in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= each:
            return f"{size // each} {unit}"
    return f"{size} B"
