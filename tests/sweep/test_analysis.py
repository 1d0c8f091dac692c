"""What the results say of each setting."""

import math
from pathlib import Path

import pytest
from scipy import stats

from ganscale.sweep.analysis import Difference, audit, differences, importances, success_curve, success_rates
from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.results import Entry, TrialRow, read_entries
from ganscale.sweep.score import SeedResult, standing, wilson
from tests.sweep.made_up import made_up
from tests.sweep.sweeps import SETTINGS, ring_plan

DRAWS = {"loss.name": {"grid": ["hinge", "minimax", "least_squares"]}, "optim.lr_g": {"loguniform": [1e-4, 1e-2]}}


def plan(folder: Path, threshold: float | None = 10.0) -> SweepPlan:
    return ring_plan(folder, DRAWS, metrics=["frechet"], threshold=threshold, num_configs=4)


def entry(made: SweepPlan, index: int, successes: int, failure: str = "") -> Entry:
    """Configuration `index`, with `successes` of its three seeds at the threshold."""
    values = [5.0] * successes + [50.0] * (3 - successes)
    seeds = tuple(SeedResult(n, 9, {"frechet": value}, failure) for n, value in enumerate(values))
    drawn, summary = made.sampler[index], standing(seeds, ["frechet"], made.sweep.sweep)
    return Entry(index, drawn, "complete", "", (TrialRow(9, drawn, seeds, 1.0, True),), summary)


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
    half = stats.t.ppf(0.975, 3) * (1 / 6) / 2  # of 1/3, 1/3, 1/3 and 0: standard deviation 1/6
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
    assert compare(made, entries[:3]) == [], "one draw gives no difference"


def test_the_share_that_succeeds_is_a_function_of_the_threshold() -> None:
    found = [SeedResult(n, 10, {"modes": value, "frechet": value}) for n, value in enumerate((7.0, 3.0, 5.0))]
    found += [SeedResult(3, 10, {"modes": 9.0, "frechet": 1.0}, "collapse"), SeedResult(4, 10, {"modes": math.nan})]
    assert success_curve(found, "frechet") == ([3.0, 5.0, 7.0], [0.2, 0.4, 0.6])
    assert success_curve(found, "modes") == ([7.0, 5.0, 3.0], [0.2, 0.4, 0.6])


def test_importance_finds_the_settings_that_matter(tmp_path: Path) -> None:
    made, folder = made_up(tmp_path, num_configs=40)
    entries = [e for e in read_entries(folder.trials, made.metrics, made.sweep.sweep) if e.status == "complete"]
    found = {row.name: row for row in importances(entries, made.space.parameters)}
    assert set(found) == set(made.names)
    assert set(list(found)[:2]) == {"objective", "optim.lr_g"}
    for name in ("optim.lr_g", "objective"):
        assert found[name].explained > found[name].by_chance
        assert found[name].p < 0.01
    assert found["optim.lr_d"].p > 0.05
    assert found["optim.lr_d"].explained < found["optim.lr_d"].by_chance
    assert importances(entries, made.space.parameters) == list(found.values())
    # Without ties H of Kruskal and Wallis is (N - 1) times eta squared.
    by_value = [[e.standing.score for e in entries if e.drawn["objective"] == name] for name in ("gan", "wgan")]
    h = stats.kruskal(*by_value).statistic
    assert found["objective"].explained == pytest.approx(h / (len(entries) - 1))


def test_success_by_value(tmp_path: Path) -> None:
    made, folder = made_up(tmp_path)
    entries = read_entries(folder.trials, made.metrics, made.sweep.sweep)
    rates = {p.name: success_rates(entries, p, made.metrics, made.sweep.sweep) for p in made.space.parameters}
    assert [(row.value, row.runs, row.configs) for row in rates["objective"]] == [("gan", 36, 12), ("wgan", 36, 12)]
    for row in (row for rows in rates.values() for row in rows):
        assert row.interval == wilson(row.share * row.configs, row.configs, 0.95)
    assert [row.runs for row in rates["penalty.gp"]] == [12, 12, 12]


def with_verdicts(index: int, seeds: list[tuple[int, float, str, bool]], status: str = "complete") -> Entry:
    """A configuration from images, distance, verdict and `audited` of each seed."""
    results = tuple(SeedResult(n, im, {"frechet": v}, verdict, on) for n, (im, v, verdict, on) in enumerate(seeds))
    images = max(result.images for result in results)
    row = TrialRow(images, {}, results, 1.0, status == "complete")
    return Entry(index, {}, status, "", (row,), standing(results, ["frechet"], SETTINGS))


@pytest.mark.parametrize(("threshold", "expected", "false_alarms"), [(25.0, 25.0, 2), (10.0, 10.0, 0), (None, 30.0, 3)])
def test_false_alarms_are_seeds_that_succeed_after_a_verdict(
    threshold: float | None, expected: float, false_alarms: int
) -> None:
    entries = [
        with_verdicts(0, [(1000, 20.0, "collapse", True), (1000, 22.0, "collapse", True), (300, 90.0, "x", False)]),
        with_verdicts(1, [(1000, 28.0, "divergence", True), (1000, 15.0, "", True), (1000, 45.0, "", False)]),
        with_verdicts(2, [(1000, math.nan, "non-finite", True), (100, math.nan, "non-finite", False)]),
        with_verdicts(3, [(400, 1.0, "collapse", True), (100, 90.0, "collapse", False)], status="stopped"),
        with_verdicts(4, [(200, 90.0, "collapse", False)]),
    ]
    found = audit(entries, ["frechet"], SETTINGS.model_copy(update={"threshold": threshold}), images=1000)
    assert (found.seeds, found.ended, found.continued) == (11, 4, 4)
    assert found.images_saved == 700 + 900 + 300 + 800, "of a stopped trial up to its stop"
    assert (found.threshold, found.false_alarms) == (expected, false_alarms)
    assert found.interval == wilson(3 * false_alarms / 4, 3, 0.95), "three configurations"
    text = found.describe("frechet")
    assert "ended 4 of 11 seeds, saving about 2,700 images" in text
    assert f"{false_alarms} reached frechet {expected:g}" in text


def test_without_an_audited_verdict_false_alarms_are_unknown() -> None:
    found = audit([with_verdicts(0, [(200, 90.0, "collapse", False)] * 3)], ["frechet"], SETTINGS, images=1000)
    assert (found.ended, found.continued, found.threshold, found.interval) == (3, 0, None, (0.0, 1.0))
    assert "sweep.audit_share" in found.describe("frechet")
