"""The record of faults and what follows from it: pauses, the budget, the best interval between checkpoints."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest

from ganscale.storage.failures import (
    LONGEST,
    Failure,
    RestartBudget,
    append_failure,
    history,
    optimal_interval,
    pause,
    read_failures,
)


def fault(reached: int, resumed: int, seconds: float = 12.0) -> Failure:
    return Failure(1e9, "worker 1 died", 3, reached, resumed, seconds)


def test_what_is_noted_is_read_and_damaged_rows_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "faults.jsonl"
    assert read_failures(path) == []
    rows = [fault(700, 640), fault(900, 640), fault(100, 128)]
    for row in rows:
        append_failure(path, row)
    assert read_failures(path) == rows
    assert [json.loads(line)["images_lost"] for line in path.read_text().splitlines()] == [60, 260, 0]
    path.write_text("[1]\n{\n" + path.read_text() + '{"time": 1}\n' + "[" * 100_000)
    assert read_failures(path) == rows


def test_the_first_restart_comes_at_once_then_pauses_double() -> None:
    assert [pause(failures, 10.0) for failures in (1, 2, 3, 4, 5)] == [0.0, 10.0, 20.0, 40.0, 80.0]
    assert pause(30, 10.0) == LONGEST
    assert pause(3000, 0.0) == 0.0


def test_a_budget_counts_failures_without_a_new_checkpoint() -> None:
    budget = RestartBudget(3, 10.0)
    assert [budget.failed(0) for _ in range(3)] == [0.0, 10.0, 20.0]
    assert budget.failed(640) == 0.0, "it got further"
    assert [budget.failed(640) for _ in range(2)] == [10.0, 20.0]
    assert budget.failed(640) is None
    assert RestartBudget(0, 10.0).failed(640) is None


def test_a_week_of_faults_with_progress_is_survived() -> None:
    budget = RestartBudget(1, 10.0)
    assert all(budget.failed(images) == 0.0 for images in range(1000))
    assert budget.failed(999) is None


def test_a_checkpoint_that_turns_out_bad_does_not_forgive() -> None:
    budget = RestartBudget(2, 10.0)
    assert [budget.failed(images) for images in (640, 320, 640)] == [0.0, 10.0, None]


def waste(interval: float, cost: float, mean_time: float) -> float:
    """Daly 2006, equation 20 for exponential faults and no restart time: wall time over solve time."""
    return mean_time * math.expm1((interval + cost) / mean_time) / interval


@pytest.mark.parametrize(("cost", "mean_time"), [(1.0, 3600.0), (60.0, 86_400.0), (5.0, 60.0), (0.01, 600.0)])
def test_no_other_interval_wastes_less(cost: float, mean_time: float) -> None:
    """Within the formula's own error, which Daly gives as below 2 % for a cost of up to half the mean time."""
    best = optimal_interval(cost, mean_time)
    least = min(waste(best * factor / 100, cost, mean_time) for factor in range(20, 500))
    assert waste(best, cost, mean_time) <= least * 1.0005
    assert waste(best * 2, cost, mean_time) > waste(best, cost, mean_time) < waste(best / 2, cost, mean_time)


def test_young_is_the_limit_for_cheap_checkpoints() -> None:
    assert optimal_interval(1e-6, 1e6) == pytest.approx(math.sqrt(2.0), rel=1e-5)


def test_the_interval_grows_with_what_saving_costs_and_ends_at_the_mean_time() -> None:
    intervals = [optimal_interval(cost, 100.0) for cost in (0.01, 0.1, 1.0, 10.0, 30.0)]
    assert all(earlier < later for earlier, later in pairwise(intervals))
    assert optimal_interval(200.0, 100.0) == optimal_interval(1e9, 100.0) == 100.0


def test_the_history_names_the_newest_faults() -> None:
    assert history([]) == ""
    said = history([fault(images, 0) for images in range(1000, 9000, 1000)])
    assert said.startswith(
        "\n  failures of this run so far: 8\n    at 4,000 images: worker 1 died, 4,000 images and 12 s"
    )
    assert said.count("\n") == 6
