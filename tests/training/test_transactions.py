"""Copies of a run's state between iterations: what a transaction that fails is done again from."""

import copy
from contextlib import suppress
from typing import Any

import pytest
import torch

from ganscale.run.health_monitor import TIMES
from ganscale.training import transactions as module
from ganscale.training.build import build
from ganscale.training.loop import train
from ganscale.training.statistics import Window
from ganscale.training.transactions import Pace, Transactions
from tests.fleet import Fleet
from tests.runs import BATCH_NORM, DCGAN, MLP, tiny

RUNS = {
    "mlp": (*MLP, "penalty.r1=1", "optim.d_steps=2"),
    "dcgan-ada": (
        *(*DCGAN, *BATCH_NORM, "augment.transforms=[flip]", "augment.adaptive=true", "augment.every=3"),
        *("penalty.lecam=0.3", "model.discriminator.spectral_norm=true"),
    ),
}
EVERY = 4


class LostError(RuntimeError):
    """Stands for a collective call that fails."""


def attempt(
    overrides: tuple[str, ...], transactions: Transactions | None, until: int, fails_in: int = -1
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """State and rows from a copy on, or from the start; optionally fails in an iteration once both networks moved."""
    experiment = build(tiny(*overrides))
    iterate, every = experiment.iterate, experiment.sampler.images_per_iteration

    def failing(*arguments: Any) -> Any:
        statistics = iterate(*arguments)
        if experiment.state.iteration == fails_in:
            raise LostError
        return statistics

    object.__setattr__(experiment, "iterate", failing)
    if transactions:
        transactions.restore(experiment.state)
    rows: list[dict[str, float]] = []
    with suppress(LostError):
        for tick in train(experiment, intervals={"log": EVERY * every}, until=until * every, transactions=transactions):
            rows += [{"images": tick.images, **{k: v for k, v in tick.metrics.items() if k not in TIMES}}]
    return copy.deepcopy(experiment.state.state_dict()), rows


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_iterations_that_fail_are_done_again_from_the_copy(overrides: tuple[str, ...]) -> None:
    expected, expected_rows = attempt(overrides, None, 10)
    transactions, rows = Transactions(), []
    for fails_in in (0, 5, 5, 7, -1):
        state, found = attempt(overrides, transactions, 10, fails_in)
        rows += found
    torch.testing.assert_close(state, expected, rtol=0.0, atol=0.0)
    assert rows == expected_rows


def test_the_count_moves_once_for_each_transaction_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SECONDS", 0.0)  # each iteration is one
    transactions = Transactions()
    counts = []
    for fails_in in (2, 2, 3):
        attempt(RUNS["mlp"], transactions, 10, fails_in)
        counts.append(transactions.count)
    assert counts == [3, 3, 4]


def of_a_first_group() -> tuple[int, int, int]:
    """What replicas tell the next group, before and after their first iterations."""
    transactions = Transactions()
    transactions.synchronize(0, 5)
    before = transactions.count
    attempt(RUNS["mlp"], transactions, 3)
    return before, transactions.count, transactions.group


@pytest.mark.multiprocess
def test_copies_belong_to_the_group_that_makes_them(fleet: Fleet) -> None:
    for before, count, group in fleet.run(of_a_first_group, 2):
        assert before == 0
        assert count > 1
        assert group == 5


def handed_over(overrides: tuple[str, ...]) -> tuple[dict[str, Any], list[dict[str, float]], int]:
    """One replica has half of a run behind it, the others none of it: they continue together."""
    replica, transactions = torch.distributed.get_rank(), Transactions()
    if replica == 1:
        from ganscale.parallel.collectives import alone
        from ganscale.parallel.replica import Replica

        one = Replica.current
        Replica.current = staticmethod(lambda: Replica())  # pyright: ignore[reportAttributeAccessIssue]
        with alone():
            attempt(overrides, transactions, 10, 5)
        Replica.current = one
    transactions.synchronize(1, 5)
    state, rows = attempt(overrides, transactions, 10)
    assert transactions.group == 5
    return state, rows, transactions.count


@pytest.mark.multiprocess
@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_a_copy_goes_to_all_replicas_with_the_sums_for_the_next_row(fleet: Fleet, overrides: tuple[str, ...]) -> None:
    expected, expected_rows = attempt(overrides, None, 10)
    for state, rows, count in fleet.run(handed_over, 3, overrides):
        torch.testing.assert_close(state, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(rows, expected_rows[1:], rtol=1e-9, atol=1e-9)
        assert 3 < count <= 10


class FakeGroup:
    """Collective calls of a replica that receives a copy, of which the last one may fail.

    Args:
        size: bytes of the copy; 0 for none.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def get_rank(self) -> int:
        return 1

    def broadcast(self, data: torch.Tensor, _: int) -> None:
        if data.dtype == torch.uint8:
            raise LostError
        data.fill_(self.size)


@pytest.mark.parametrize(("size", "expected"), [(100, (4, 2)), (0, (0, 9))])
def test_a_copy_is_of_a_new_group_only_once_it_has_come(
    monkeypatch: pytest.MonkeyPatch, size: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr("ganscale.training.transactions.dist", FakeGroup(size))
    transactions = Transactions()
    transactions.count, transactions.group = 4, 2  # of a replica that was away
    with suppress(LostError):
        transactions.synchronize(0, 9)
    assert (transactions.count, transactions.group) == expected


@pytest.mark.parametrize(
    ("copying", "training", "every"),
    [(0.0, 0.1, 1), (0.005, 0.02, 25), (0.005, 0.05, 10), (0.1, 0.3, 3), (1.0, 5.0, 1)],
)
def test_copies_take_a_hundredth_of_the_time_unless_a_fault_would_cost_too_much(
    copying: float, training: float, every: int
) -> None:
    pace = Pace()
    pace.agree(3 * copying, 3, 8 * training, 8)
    pace.tick()
    assert pace.every == every
    begins = [pace.begin(float(now), has_copy=False) for now in range(2 * every)]
    assert begins == ([True] + [False] * (every - 1)) * 2
    assert pace.begin(0.0, has_copy=True) is False
    assert [pace.begin(0.0, has_copy=False) for _ in range(every)] == [every == 1] * (every - 1) + [True]


def test_a_tick_ends_a_transaction() -> None:
    pace = Pace()
    pace.agree(0.005, 1, 0.02, 1)
    pace.tick()
    assert [pace.begin(0.0, has_copy=False) for _ in range(3)] == [True, False, False]
    pace.tick()
    assert pace.begin(0.0, has_copy=False)


def test_without_a_copy_and_an_iteration_nothing_is_chosen() -> None:
    pace = Pace()
    pace.agree(0.005, 1, 0.02, 1)
    pace.agree(0.0, 0, 0.02, 1)
    pace.agree(0.005, 1, 0.0, 0)
    assert pace.every == 25


def test_seconds_are_those_of_iterations_without_copies_and_ticks() -> None:
    pace = Pace()
    pace.begin(1.0, has_copy=False)
    pace.begin(3.0, has_copy=False)
    pace.tick()
    pace.begin(100.0, has_copy=False)
    pace.begin(104.0, has_copy=False)
    assert pace.measured() == (0.0, 0.0, 6.0, 2.0)
    pace.agree(*pace.measured())
    assert pace.measured() == (0.0, 0.0, 3.0, 1.0), "recent ones count more"


def few_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transactions be as long as possible: the first two have one iteration, as nothing is measured before."""
    monkeypatch.setattr(module, "COST", 1e-9)
    monkeypatch.setattr(module, "MOST_SECONDS", 1e9)


def test_several_iterations_of_one_transaction_are_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    few_copies(monkeypatch)
    expected, expected_rows = attempt(RUNS["dcgan-ada"], None, 12)
    transactions, rows, counts = Transactions(), [], []
    for fails_in in (0, 5, 7, 11, -1):
        state, found = attempt(RUNS["dcgan-ada"], transactions, 12, fails_in)
        rows += found
        counts.append(transactions.count)
    torch.testing.assert_close(state, expected, rtol=0.0, atol=0.0)
    assert rows == expected_rows
    assert counts == [1, 3, 3, 4, 4], "at 0, 1 and 4 and 8 images, the latter two after a tick"


def lost_on_the_way(copies: int) -> tuple[dict[str, Any], list[dict[str, float]], tuple[int, ...]]:
    """All replicas fail in the seventh iteration; or when one has begun so many transactions, and the other has not."""
    with pytest.MonkeyPatch.context() as patch:
        few_copies(patch)
        transactions = Transactions()
        transactions.synchronize(0, 1)
        is_ahead = torch.distributed.get_rank() == 0
        owner, name = (Pace, "copied") if is_ahead else (Window, "share")
        calls, act = [], getattr(owner, name)

        def failing(*arguments: Any) -> Any:
            found = act(*arguments)
            calls.append(1)
            if len(calls) == copies:
                raise LostError
            return found

        patch.setattr(owner, name, failing)
        _, rows = attempt(RUNS["dcgan-ada"], transactions, 12, -1 if copies else 6)
        counts = [0, 0]
        torch.distributed.all_gather_object(counts, transactions.count)
        transactions.synchronize(counts.index(max(counts)), 2)
        state, more = attempt(RUNS["dcgan-ada"], transactions, 12)
        return state, rows + more, tuple(counts)


@pytest.mark.multiprocess
@pytest.mark.parametrize(("copies", "counts"), [(0, (3, 3)), (3, (3, 2))], ids=["iteration", "between_copies"])
def test_replicas_fail_within_a_transaction_and_continue_from_the_newest_copy(
    fleet: Fleet, copies: int, counts: tuple[int, int]
) -> None:
    expected, expected_rows = attempt(RUNS["dcgan-ada"], None, 12)
    for state, rows, found in fleet.run(lost_on_the_way, 2, copies):
        assert found == counts
        torch.testing.assert_close(state, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(rows, expected_rows, rtol=1e-9, atol=1e-9)
