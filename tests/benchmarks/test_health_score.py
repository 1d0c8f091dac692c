"""Precision and recall of the detectors on the recorded runs; ground truth and rates of constructed ones."""

from pathlib import Path

import pytest

from benchmarks.health.plan import HALVES, half_of
from benchmarks.health.record import Record, read
from benchmarks.health.score import LEAST_PRECISION, LEAST_RECALL, WORSE, ScoredRun, rates, report, score_all, truth
from benchmarks.health.score import verdicts as verdicts_of
from ganscale.config import DETECTORS
from ganscale.health import detectors as health

RUNS = Path(__file__).parent.parent / "data" / "healthbench.json.gz"


@pytest.fixture(scope="module")
def scored_runs() -> list[ScoredRun]:
    return score_all(read(RUNS))


def test_verdicts_have_the_required_precision_and_recall_on_unseen_runs(scored_runs: list[ScoredRun]) -> None:
    scored = rates([run for run in scored_runs if half_of(run.record.seed) == "scored"])
    assert scored.recall >= LEAST_RECALL
    assert scored.precision >= LEAST_PRECISION


def test_no_row_of_a_healthy_run_is_suspect(scored_runs: list[ScoredRun]) -> None:
    """Rollback targets are chosen by this."""

    def has_suspect_row(run: Record) -> bool:
        return health.first_suspect_tick(run.rows, loss=run.loss) < len(run.rows)

    assert not any(has_suspect_row(run.record) for run in scored_runs if run.truth == "healthy")
    faulty = [run for run in scored_runs if run.record.fault == "rates-x100" and run.truth == "unhealthy"]
    assert sum(has_suspect_row(run.record) for run in faulty) > len(faulty) / 2


def test_there_are_enough_runs(scored_runs: list[ScoredRun]) -> None:
    total = rates(scored_runs)
    assert total.unhealthy >= 60
    assert total.healthy >= 60
    assert len({run.record.setup for run in scored_runs if run.truth == "healthy"}) >= 10
    assert RUNS.stat().st_size < 400_000


def test_the_report_has_both_halves_every_fault_and_every_verdict(scored_runs: list[ScoredRun]) -> None:
    text, passed = report([run.record for run in scored_runs])
    assert passed
    kinds = [kind for kind, detector in DETECTORS.items() if detector.rule is not None]
    for word in (*HALVES, *kinds, *{run.record.fault for run in scored_runs}):
        assert word in text


def record(fault: str = "", frechet: float = 1.0, modes: float = 8.0, rows: int = 4, **changes: float) -> Record:
    row = {"loss_d": 1.0, "diversity_real": 1.0, "diversity_fake": 1.0, "grad_norm_g": 1.0} | changes
    first, last = {"images": 0.0, "frechet": 9.0, "modes": 0.0}, {"images": 9.0, "frechet": frechet, "modes": modes}
    ticks = tuple(row | {"images": float(index)} for index in range(1, rows + 1))
    return Record("setup", fault, 0, "non_saturating", ticks, (first, last), 1.0)


HEALTHY = (record(frechet=2.0, modes=7.0), record(frechet=1.0))


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (record(), "healthy"),
        (record(frechet=5.0), "unclear"),
        (record("x"), "unclear"),
        (record("x", frechet=2.0 * WORSE, modes=7.0), "unclear"),
        (record("x", frechet=2.1 * WORSE), "unhealthy"),
        (record("x", modes=6.0), "unhealthy"),
        (record("x", frechet=float("nan")), "unhealthy"),
    ],
)
def test_truth_depends_on_the_last_evaluation(run: Record, expected: str) -> None:
    assert truth(run, HEALTHY) == expected


def test_truth_does_not_depend_on_verdicts() -> None:
    healthy = record(loss_d=float("nan"))
    assert verdicts_of(healthy) == ("non-finite",)
    assert truth(healthy, HEALTHY) == "healthy"


def test_verdicts_are_those_of_every_tick() -> None:
    run = record(rows=3, diversity_fake=0.0)
    good = run.rows[0] | {"diversity_fake": 1.0}
    assert verdicts_of(run) == ("mode-collapse",)
    assert verdicts_of(Record("s", "", 0, "hinge", (*run.rows, good), run.evaluations, 1.0)) == ("mode-collapse",)
    assert verdicts_of(Record("s", "", 0, "hinge", (*run.rows[:2], good), run.evaluations, 1.0)) == ()


def test_rates_ignore_runs_of_unclear_truth() -> None:
    bad, odd = record("x", modes=0.0), record("x")
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
