"""Which worker is a straggler, by the times that all ranks measured."""

import pytest

from ganscale.health.stragglers import METRICS, find_straggler, time_metrics
from ganscale.parallel.clock import RankTimes


def tick(*own: tuple[float, float], rows: tuple[float, ...] = ()) -> list[RankTimes]:
    """Ranks with (compute, data), each of which waits for the slowest."""
    most = max(compute + data for compute, data in own)
    sizes = rows or (8.0,) * len(own)
    return [RankTimes(c, most - c - d, d, size) for (c, d), size in zip(own, sizes, strict=True)]


def test_a_row_has_medians_maxima_and_the_slowest_rank() -> None:
    ranks = tick((4.0, 0.0), (6.0, 1.0), (4.0, 8.0), (5.0, 1.0))
    assert time_metrics(ranks, 10, waits=True) == {
        "compute_seconds": 0.45,
        "compute_seconds_max": 0.6,
        "data_seconds": 0.1,
        "data_seconds_max": 0.8,
        "waiting_seconds": 0.55,
        "slowest_rank": 2.0,
    }
    assert set(time_metrics(ranks, 10, waits=True)) == set(METRICS)
    assert time_metrics(ranks[:1], 10, waits=True) == {"compute_seconds": 0.4, "data_seconds": 0.0}
    assert time_metrics(ranks, 10, waits=False) == {"data_seconds": 0.1, "data_seconds_max": 0.8}


@pytest.mark.parametrize(
    ("own", "rank", "phase", "ratio"),
    [
        (((4.0, 0.0), (6.5, 0.0), (4.0, 0.1)), 1, "compute", 6.5 / 4.1),
        (((4.0, 0.5), (4.0, 0.5), (4.5, 4.5)), 2, "data", 2.0),
        (((1.0, 0.0), (3.0, 0.0)), 1, "compute", 3.0),
        (((9.0, 0.0), (1.0, 0.0), (1.0, 0.0), (4.0, 0.0), (1.0, 0.0)), 0, "compute", 9.0),
    ],
    ids=["computes", "reads", "of two", "the worst of two"],
)
def test_the_straggler_is_named_with_its_phase(
    own: tuple[tuple[float, float], ...], rank: int, phase: str, ratio: float
) -> None:
    ticks = [tick(*own)] * 3
    found = find_straggler(ticks, factor=1.5)
    assert found
    assert (found.rank, found.phase, found.ratio) == (rank, phase, pytest.approx(ratio))
    assert found.lost == pytest.approx(3 * sum(own[rank]) * (1.0 - 1.0 / ratio))


@pytest.mark.parametrize(
    "ticks",
    [
        [tick((4.0, 0.0), (5.9, 0.0), (4.0, 0.0))] * 3,
        [tick((4.0, 0.0), (9.0, 0.0), (4.0, 0.0))] * 2 + [tick((4.0, 0.0), (4.0, 0.0), (9.0, 0.0))],
        [tick((0.01, 0.0), (0.09, 0.0), (0.01, 0.0))] * 3,
        [tick((8.0, 0.2), (4.0, 0.1), (4.0, 0.1), rows=(2.0, 1.0, 1.0))] * 3,
        [tick((4.0, 0.0))] * 3,
    ],
    ids=["below the factor", "in turn", "too little time", "more rows", "alone"],
)
def test_these_are_no_stragglers(ticks: list[list[RankTimes]]) -> None:
    assert find_straggler(ticks, factor=1.5) is None


def test_fewer_rows_are_no_excuse() -> None:
    """Much of an iteration does not depend on the rows."""
    assert find_straggler([tick((4.0, 0.0), (4.0, 0.0), (3.0, 0.0), rows=(2.0, 2.0, 1.0))] * 3, factor=1.5) is None
    found = find_straggler([tick((4.0, 0.0), (4.0, 0.0), (7.0, 0.0), rows=(2.0, 2.0, 1.0))] * 3, factor=1.5)
    assert found
    assert (found.rank, found.ratio) == (2, pytest.approx(1.75))
