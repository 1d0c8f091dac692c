"""Precision and recall of the detectors on the recorded runs; ground truth, limits and rates of constructed ones."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.health.fit import Fitter, maxima, store
from benchmarks.health.record import Record, read
from benchmarks.health.score import (
    CONFIDENCE,
    LEAST_PRECISION,
    LEAST_RECALL,
    WORSE,
    ScoredRun,
    healthy_runs,
    is_learning,
    rates,
    report,
    score_all,
    truth,
    verdicts,
)
from ganscale.config import DETECTORS
from ganscale.health import detectors as health
from ganscale.health import limits
from ganscale.health.signals import SIGNALS, Limit
from ganscale.sweep.score import wilson

RUNS = Path(__file__).parent.parent / "data" / "healthbench.json.gz"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return read(RUNS)


@pytest.fixture(scope="module")
def scored_runs(records: list[Record]) -> list[ScoredRun]:
    return score_all(records)


def test_verdicts_have_the_required_rates_in_setups_that_were_left_out(scored_runs: list[ScoredRun]) -> None:
    total = rates(scored_runs)
    assert total.recall >= LEAST_RECALL
    assert total.precision >= LEAST_PRECISION
    assert wilson(total.found, total.found + total.false, CONFIDENCE)[0] >= 0.9
    false = Counter(run.record.setup for run in scored_runs if run.truth == "healthy" and run.kinds)
    assert max(false.values(), default=0) <= 1
    dropped = [run for run in scored_runs if run.record.fault == "mode-dropping" and run.truth == "unhealthy"]
    assert rates(dropped).recall >= 0.8


def test_the_limits_are_those_of_the_recorded_runs(records: list[Record], tmp_path: Path) -> None:
    store(Fitter(healthy_runs(records)).limits(), tmp_path / "limits.py")
    assert (tmp_path / "limits.py").read_text() == Path(limits.__file__).read_text()


def test_no_healthy_run_has_a_verdict_or_a_suspect_row(scored_runs: list[ScoredRun]) -> None:
    """By the limits of all setups, which users have; rollback targets are chosen by suspect rows."""
    healthy = [run.record for run in scored_runs if run.truth == "healthy"]
    assert not [(run.setup, run.seed) for run in healthy if verdicts(run)]
    assert not [
        (run.setup, run.seed) for run in healthy if health.first_suspect_tick(run.rows, loss=run.loss) < len(run.rows)
    ]
    faulty = [run.record for run in scored_runs if "rates" in run.record.fault and run.truth == "unhealthy"]
    suspects = [health.first_suspect_tick(run.rows, loss=run.loss) < len(run.rows) for run in faulty]
    assert sum(suspects) > len(suspects) / 2


def test_there_are_enough_runs(scored_runs: list[ScoredRun]) -> None:
    total = rates(scored_runs)
    assert total.unhealthy >= 30
    assert total.healthy >= 60
    assert len({run.record.setup for run in scored_runs if run.truth == "healthy"}) >= 24
    assert len({run.record.fault for run in scored_runs}) > 16
    assert RUNS.stat().st_size < 2_000_000


def test_later_rounds_are_judged_by_limits_of_earlier_ones(records: list[Record]) -> None:
    odd = [replace(run, seed=2, rows=tuple(row | {"diversity_fake": 1e-6} for row in run.rows)) for run in records[:1]]
    later = [run for run in records if run.seed % 1000 < 2] + odd
    scored = score_all(later, since=2)
    assert [run.record for run in scored] == odd, "only the later round is judged"
    assert "mode-collapse" in scored[0].kinds, "its own runs do not widen the limits"


def test_the_report_has_every_fault_setup_and_verdict(records: list[Record]) -> None:
    text, _ = report(records)
    kinds = [kind for kind, detector in DETECTORS.items() if detector.rule is not None]
    for word in (*kinds, *{run.fault for run in records}, *{run.setup for run in records}):
        assert word in text


def record(setup: str = "setup", fault: str = "", frechet: float = 1.0, modes: float = 8.0, **changes: float) -> Record:
    row = {"loss_d": 1.0, "diversity_real": 1.0, "diversity_fake": 1.0, "grad_norm_g": 1.0, "weight_norm_g": 1.0}
    first, last = {"images": 0.0, "frechet": 9.0, "modes": 0.0}, {"images": 9.0, "frechet": frechet, "modes": modes}
    ticks = tuple(row | changes | {"images": float(index)} for index in range(1, 10))
    return Record(setup, fault, 0, "non_saturating", ticks, (first, last), 1.0)


HEALTHY = (record(frechet=2.0, modes=7.0), record(frechet=1.0))


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (record(), "healthy"),
        (record(frechet=5.0), "unclear"),
        (record(fault="x"), "unclear"),
        (record(fault="x", frechet=2.0 * WORSE, modes=7.0), "unclear"),
        (record(fault="x", frechet=2.1 * WORSE), "unhealthy"),
        (record(fault="x", modes=6.0), "unhealthy"),
        (record(fault="x", frechet=math.nan), "unhealthy"),
    ],
)
def test_truth_depends_on_the_last_evaluation(run: Record, expected: str) -> None:
    assert truth(run, HEALTHY) == expected


def test_a_run_is_learning_while_its_last_evaluation_is_its_best() -> None:
    assert is_learning(record(fault="x", frechet=4.0))
    assert not is_learning(record(fault="x", frechet=5.0)), "has not halved the first"
    run = record(fault="x", frechet=4.0)
    middle = {"images": 5.0, "frechet": 3.9, "modes": 8.0}
    assert not is_learning(replace(run, evaluations=(run.evaluations[0], middle, run.evaluations[1])))


def test_truth_does_not_depend_on_verdicts() -> None:
    healthy = record(loss_d=math.nan)
    assert verdicts(healthy) == ("non-finite",)
    assert truth(healthy, HEALTHY) == "healthy"


def test_verdicts_are_those_of_every_tick() -> None:
    run = record(diversity_fake=0.0)
    good = run.rows[0] | {"diversity_fake": 1.0}

    def changed(*rows: dict[str, float]) -> tuple[str, ...]:
        return verdicts(Record("s", "", 0, "hinge", rows, run.evaluations, 1.0))

    assert verdicts(run) == ("mode-collapse",)
    assert changed(*run.rows[:3], good) == ("mode-collapse",)
    assert changed(*run.rows[:2], good, *run.rows[3:5]) == ()


def test_a_setup_is_judged_by_limits_of_the_others() -> None:
    """Three setups like each other, and one whose healthy runs look like a collapse."""
    runs = [record(setup, diversity_fake=0.5) for setup in "abc"]
    odd = record("odd", diversity_fake=0.001)
    fitter = Fitter({run.setup: [run] for run in (*runs, odd)})
    floor = round(SIGNALS["low-diversity"].floor, 3)
    assert maxima(odd)["low-diversity"] == pytest.approx(math.log(1000.0))
    assert fitter.limits()["low-diversity"].value > math.log(1000.0)
    assert fitter.limits("odd")["low-diversity"] == Limit(floor, floor, 0.05)
    scored = {run.record.setup: run.kinds for run in score_all([*runs, odd])}
    assert scored == {"a": (), "b": (), "c": (), "odd": ("mode-collapse",)}


def test_limits_are_as_far_from_the_mean_as_was_chosen() -> None:
    runs = {str(value): [record(copies_fake=value)] for value in (0.9, 1.0, 1.1)}
    limit = Fitter(runs).limits()["copies"]
    assert limit.spread == pytest.approx(0.082, abs=1e-3)
    assert limit.value == limit.single == pytest.approx(1.0 + 4 * 0.0816, abs=1e-3)


def test_single_rows_reach_farther_than_rows_in_a_row() -> None:
    run = record()
    rows = (*run.rows, run.rows[0] | {"copies_fake": 0.9}, run.rows[0])
    limit = Fitter({"s": [Record("s", "", 0, run.loss, rows, run.evaluations, 1.0)]}).limits()["copies"]
    assert (limit.value, limit.single) == (0.2, 0.9)


def test_rates_ignore_runs_of_unclear_truth() -> None:
    bad, odd = record(fault="x", modes=0.0), record(fault="x")
    found = rates(
        [
            ScoredRun(bad, "unhealthy", ("divergence",)),
            ScoredRun(bad, "unhealthy", ()),
            ScoredRun(odd, "unclear", ("divergence",)),
            ScoredRun(record(), "healthy", ()),
            ScoredRun(record(), "healthy", ("oscillation",)),
            ScoredRun(record(), "healthy", ()),
        ]
    )
    assert found == (2, 3, 1, 1)
    assert found.recall == found.precision == 0.5
