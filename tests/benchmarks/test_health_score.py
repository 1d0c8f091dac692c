"""The recorded runs of the benchmark pass the bars; truth and rates are what they say."""

from pathlib import Path

import pytest

from benchmarks.health.plan import HALVES, half_of
from benchmarks.health.record import Record, read
from benchmarks.health.score import (
    LEAST_PRECISION,
    LEAST_RECALL,
    WORSE,
    Judged,
    judge_all,
    rates,
    report,
    truth,
    verdicts,
)
from ganscale.config import DETECTORS
from ganscale.health import detectors as health

RUNS = Path(__file__).parent.parent / "data" / "healthbench.json.gz"
"""Recorded by `python -m benchmarks.health`."""


@pytest.fixture(scope="module")
def judged() -> list[Judged]:
    return judge_all(read(RUNS))


def test_the_verdicts_pass_the_bars_on_runs_they_were_not_chosen_on(judged: list[Judged]) -> None:
    scored = rates([run for run in judged if half_of(run.record.seed) == "scored"])
    assert scored.recall >= LEAST_RECALL
    assert scored.precision >= LEAST_PRECISION


def test_no_row_of_a_sound_run_is_gravely_bad(judged: list[Judged]) -> None:
    """By which states are chosen to go back to."""
    sound = [run.record for run in judged if run.truth == "sound"]
    assert not [each for each in sound if health.first_suspect_tick(each.rows, loss=each.loss) < len(each.rows)]
    sick = [run.record for run in judged if run.record.fault == "rates-x100" and run.truth == "sick"]
    assert sum(health.first_suspect_tick(each.rows, loss=each.loss) < len(each.rows) for each in sick) > len(sick) / 2


def test_there_are_enough_runs(judged: list[Judged]) -> None:
    total = rates(judged)
    assert total.sick >= 60
    assert total.sound >= 60
    assert len({run.record.setup for run in judged if run.truth == "sound"}) >= 10
    assert RUNS.stat().st_size < 400_000


def test_the_report_has_both_halves_every_fault_and_every_verdict(judged: list[Judged]) -> None:
    text, passed = report([run.record for run in judged])
    assert passed
    for word in (
        *HALVES,
        *(kind for kind, detector in DETECTORS.items() if detector.rule is not None),
        *{run.record.fault for run in judged},
    ):
        assert word in text


def record(fault: str = "", frechet: float = 1.0, modes: float = 8.0, rows: int = 4, **changes: float) -> Record:
    row = {"loss_d": 1.0, "diversity_real": 1.0, "diversity_fake": 1.0, "grad_norm_g": 1.0} | changes
    first, last = {"images": 0.0, "frechet": 9.0, "modes": 0.0}, {"images": 9.0, "frechet": frechet, "modes": modes}
    ticks = tuple(row | {"images": float(index)} for index in range(1, rows + 1))
    return Record("setup", fault, 0, "non_saturating", ticks, (first, last), 1.0)


TWINS = (record(frechet=2.0, modes=7.0), record(frechet=1.0))


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (record(), "sound"),
        (record(frechet=5.0), "unclear"),
        (record("x"), "unclear"),
        (record("x", frechet=2.0 * WORSE, modes=7.0), "unclear"),
        (record("x", frechet=2.1 * WORSE), "sick"),
        (record("x", modes=6.0), "sick"),
        (record("x", frechet=float("nan")), "sick"),
    ],
)
def test_truth_is_told_by_the_last_evaluation(run: Record, expected: str) -> None:
    assert truth(run, TWINS) == expected


def test_truth_knows_nothing_of_verdicts() -> None:
    healthy = record(loss_d=float("nan"))
    assert verdicts(healthy) == ("non-finite",)
    assert truth(healthy, TWINS) == "sound"


def test_verdicts_are_those_that_the_run_would_have_been_given_in_passing() -> None:
    run = record(rows=3, diversity_fake=0.0)
    well = run.rows[0] | {"diversity_fake": 1.0}
    assert verdicts(run) == ("mode-collapse",)
    assert verdicts(Record("s", "", 0, "hinge", (*run.rows, well), run.evaluations, 1.0)) == ("mode-collapse",)
    assert verdicts(Record("s", "", 0, "hinge", (*run.rows[:2], well), run.evaluations, 1.0)) == ()


def test_rates_count_what_is_clear() -> None:
    ill, odd = record("x", modes=0.0), record("x")
    found = rates(
        [
            Judged(ill, "sick", ("divergence",)),
            Judged(ill, "sick", ()),
            Judged(odd, "unclear", ("divergence",)),
            Judged(record(), "sound", ()),
            Judged(record(), "sound", ("oscillation",)),
            Judged(record(), "sound", ()),
        ]
    )
    assert found == (2, 3, 1, 1)
    assert found.recall == found.precision == 0.5
