"""The order of a finite set: a permutation in each epoch, like a random one, at the cost of the rows asked for."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from ganscale.data import order
from ganscale.data.order import AHEAD, WINDOW, Blocks, Order, Weighted, _sides, class_counts

SIZES = [1, 2, 3, 5, 7, 16, 23, 122, 1000, 1023, 1024, 45_905, 60_000]


def epochs(order: Order, count: int) -> Tensor:
    """The first epochs' permutations: `[count, size]`."""
    return order.rows(0, count * order.size).view(count, order.size)


def deviation(counts: Tensor, constraints: int) -> float:
    """Pearson's chi-squared of counts expected to be equal, in standard deviations from its mean."""
    expected = counts.double().mean()
    freedom = counts.numel() - constraints
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    return (chi_squared - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("size", SIZES)
def test_every_epoch_is_a_permutation(size: int) -> None:
    shown = epochs(Order(3, size), 20)
    assert torch.equal(shown.sort(1).values, torch.arange(size).expand_as(shown))
    if size > 7:
        assert not torch.equal(shown[0], shown[1])
        assert not torch.equal(shown[0], epochs(Order(4, size), 1)[0])


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        (1000, [96, 725, 486, 356, 200, 704, 502, 923]),
        (60_000, [43310, 36689, 42938, 25152, 15293, 56725, 40147, 56041]),
    ],
)
def test_the_order_stays_the_same(size: int, rows: list[int]) -> None:
    """A run goes on with the order that it began with, also under a later version: from the 5th epoch into the 6th."""
    assert Order(7, size).rows(5 * size - 4, 5 * size + 4).tolist() == rows


@pytest.mark.parametrize("size", SIZES)
def test_sides_hold_the_set_and_little_more(size: int) -> None:
    left, right = _sides(size)
    assert left <= right or size == 2
    assert size <= left * right <= size + math.isqrt(size)
    assert left > 1 or size == 1, "a single left half would let places only turn in a circle"


def test_sizes_that_are_products_waste_nothing() -> None:
    assert _sides(60_000) == (240, 250)
    assert _sides(50_000) == (200, 250)


@pytest.mark.parametrize("size", [5, 7, 8, 23])
def test_two_places_hold_any_two_rows_alike(size: int) -> None:
    """Small sets: all ordered pairs in the first two places, and in two distant ones, over 20,000 epochs."""
    shown = epochs(Order(1, size), 20_000)
    apart = ~torch.eye(size, dtype=torch.bool)
    for other in (1, size // 2):
        pairs = torch.bincount(shown[:, 0] * size + shown[:, other], minlength=size * size).view(size, size)
        assert abs(deviation(pairs[apart], 1)) < 4.0


@pytest.mark.parametrize("size", [1024, 60_000])
def test_neighbors_do_not_know_of_each_other(size: int) -> None:
    """Differences of rows some places or an epoch apart, in 100 bins, are as even as those of random orders."""
    count = 2_400_000 // size
    shown = epochs(Order(0, size), count)
    left, right = _sides(size)
    for lag in (1, 2, left, right, 2 * right):
        differences = (shown[:, lag:] - shown[:, :-lag]) % size
        bins = torch.bincount((differences.flatten() - 1) * 93 // (size - 1), minlength=93)
        assert abs(deviation(bins, 1)) < 5.0, lag
    bins = torch.bincount(((shown[1:] - shown[:-1]) % size).flatten() * 64 // size, minlength=64)
    assert abs(deviation(bins, 1)) < 5.0


def test_batches_hold_a_class_as_often_as_chance_would() -> None:
    """The spread of a class's number in batches of 128, for classes that are blocks of rows or remainders."""
    shown = epochs(Order(0, 60_000), 40)[:, : 468 * 128].reshape(-1, 128)
    expected = 128 * 0.1 * 0.9 * (60_000 - 128) / 59_999
    for member in (shown < 6000, shown % 10 == 0):
        assert float(member.sum(1).double().var()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("stride", [10, 4096, 1_000_000])
def test_looking_ahead_changes_nothing(stride: int) -> None:
    """Expected reads, unexpected ones between them, and a jump back with a new expectation."""
    order, plain = Order(2, 1500), Order(2, 1500)
    for first in (0, 70):
        order.expect(lambda first=first: ((start, start + 10) for start in itertools.count(first, stride)))
        for start in itertools.islice(itertools.count(first, stride), AHEAD // 10 + 20):
            assert torch.equal(order.rows(start, start + 10), plain.rows(start, start + 10))
        assert torch.equal(order.rows(3, 33), plain.rows(3, 33))


def test_a_row_costs_the_same_in_any_epoch_and_stride(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rows are computed as are shown, rounded up to what is looked ahead, however far apart they are."""
    computed: list[int] = []
    whole = order._permuted
    monkeypatch.setattr(
        order, "_permuted", lambda functions, keys, *rest: computed.append(len(keys)) or whole(functions, keys, *rest)
    )
    for stride in (128, 1024 * 128):
        computed.clear()
        rows = Order(0, 60_000)
        rows.expect(lambda stride=stride: ((start, start + 128) for start in itertools.count(0, stride)))
        for start in itertools.islice(itertools.count(0, stride), 64):
            rows.rows(start, start + 128)
        assert computed == [AHEAD]


@pytest.mark.parametrize(("size", "block"), [(1, 1), (7, 3), (100, 1), (1000, 7), (1000, 50), (5000, 100)])
def test_blocks_show_every_row_once_per_epoch_at_any_position(size: int, block: int) -> None:
    blocks = Blocks(3, size, block)
    rows = blocks.rows_at(torch.arange(3 * size))
    for epoch in rows.split(size):
        assert sorted(epoch.tolist()) == list(range(size))
    pieces = [blocks.rows_at(torch.arange(start, min(start + 13, 3 * size))) for start in range(0, 3 * size, 13)]
    assert torch.equal(torch.cat(pieces), rows)
    assert size < 100 or not torch.equal(rows[:size], rows[size : 2 * size])


def test_a_window_has_few_blocks() -> None:
    rows = Blocks(0, 10_000, 20).rows_at(torch.arange(10_000))
    for window in rows.split(WINDOW * 20):
        assert len((window // 20).unique()) <= WINDOW + 1


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 2.0, 0.5], [3.0, 0.0, 1.0]])
def test_classes_have_exact_frequencies_and_all_their_rows(weights: list[float]) -> None:
    sizes = [5, 40, 300]
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))[torch.randperm(345)]
    counts = class_counts(sizes, weights)
    assert [count / sum(counts) for count in counts] == pytest.approx([w / sum(weights) for w in weights], abs=1e-3)
    weighted = Weighted(0, labels, counts)
    rows = weighted.rows_at(torch.arange(3 * sum(counts) + 3000 // sum(counts) * sum(counts)))
    for cycle in rows.split(sum(counts)):
        assert torch.bincount(labels[cycle], minlength=3).tolist() == counts
    for number in range(3):
        shown = rows[labels[rows] == number]
        for epoch in shown[: len(shown) // sizes[number] * sizes[number]].split(sizes[number]):
            assert len(epoch.unique()) == (sizes[number] if weights[number] else 0)
    assert torch.equal(weighted.rows_at(torch.arange(501, 777)), rows[501:777])


def test_a_class_without_rows_is_left_out() -> None:
    assert class_counts([3, 0, 2], [1.0, 1.0, 1.0]) == [1, 0, 1]
