"""Values of a grid at the same draws."""

from pathlib import Path

import pytest

from ganscale.sweep.compare import Difference, differences
from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.record import TrialRow
from ganscale.sweep.score import SeedResult, standing
from ganscale.sweep.statistics import student_quantile
from ganscale.sweep.table import Entry
from tests.sweep.sweeps import ring_plan

DRAWS = {"loss.name": {"grid": ["hinge", "minimax", "least_squares"]}, "optim.lr_g": {"loguniform": [1e-4, 1e-2]}}


def plan(folder: Path, threshold: float | None = 10.0) -> SweepPlan:
    return ring_plan(folder, DRAWS, metrics=["frechet"], threshold=threshold, num_configs=4)


def entry(made: SweepPlan, index: int, successes: int, failure: str = "") -> Entry:
    """Configuration `index`, of whose three seeds so many reach the threshold."""
    values = [5.0] * successes + [50.0] * (3 - successes)
    seeds = tuple(SeedResult(n, 9, {"frechet": value}, failure) for n, value in enumerate(values))
    drawn = made.sampler[index]
    return Entry(
        index,
        drawn,
        "complete",
        "",
        (TrialRow(9, drawn, seeds, 1.0, True),),
        standing(seeds, ["frechet"], made.sweep.sweep),
    )


def compare(made: SweepPlan, entries: list[Entry]) -> list[Difference]:
    grid = next(p for p in made.space.parameters if p.kind == "grid")
    return differences(entries, grid, made.metrics, made.sweep.sweep, cells=len(made.sampler.cells))


def test_values_are_compared_within_their_draws(tmp_path: Path) -> None:
    made = plan(tmp_path)
    successes = {"hinge": (3, 1, 3, 0), "minimax": (2, 0, 2, 0), "least_squares": (0, 3, 0, 3)}
    entries = [entry(made, index, successes[made.sampler[index]["loss.name"]][index // 3]) for index in range(12)]
    found = {(each.better, each.worse): each for each in compare(made, entries)}
    assert set(found) == {("hinge", "minimax"), ("hinge", "least_squares"), ("least_squares", "minimax")}
    close = found["hinge", "minimax"]
    assert close.draws == 4
    assert close.share == pytest.approx(0.25)
    half = student_quantile(0.975, 3) * (1 / 6) / 2  # of 1/3, 1/3, 1/3 and 0: standard deviation 1/6
    assert close.interval == pytest.approx((0.25 - half, 0.25 + half))
    wide = found["hinge", "least_squares"].interval
    assert wide is not None
    assert wide[0] == -1.0 < wide[1] <= 1.0
    assert str(close).startswith("hinge over minimax: +0.25 (")


def test_failed_seeds_do_not_succeed_and_equal_draws_have_no_interval(tmp_path: Path) -> None:
    made = plan(tmp_path, None)
    entries = [
        entry(made, index, 3, "divergence" if made.sampler[index]["loss.name"] == "hinge" else "")
        for index in range(12)
    ]
    found = compare(made, entries)
    assert [(each.better, each.worse, each.share, each.interval) for each in found][:2] == [
        ("minimax", "hinge", 1.0, None),
        ("least_squares", "hinge", 1.0, None),
    ]
    assert str(found[0]) == "minimax over hinge: +1.00 on 4 draws"
    assert compare(made, entries[:3]) == [], "one draw says nothing"
