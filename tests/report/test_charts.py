"""Which curves there are and what becomes of their points."""

import math
import random
from pathlib import Path

import pytest

from ganscale.report.charts import Chart, Curve, as_data, charts, thinned
from ganscale.report.record import RunRecord, read_run
from tests.report import folders


def record(name: str, *rows: dict[str, object]) -> RunRecord:
    return RunRecord(name, Path(name), rows=list(rows))


def test_what_belongs_together_shares_a_chart() -> None:
    row = {"images": 10, "iteration": 1.0, "loss_d": 1.0, "loss_g": 2.0, "penalty_r1": 3.0, "mine": 4.0}
    found = charts([record("a", row), record("b", row)])
    groups = [(c.title, c.group, len(c.curves)) for c in found]
    assert groups == [("Loss", "Training", 4), ("R1 penalty", "Training", 2), ("Mine", "Other", 2)]
    assert [(curve.run, curve.role) for curve in found[0].curves] == [(0, "D"), (0, "G"), (1, "D"), (1, "G")]
    assert [curve.role for curve in found[1].curves] == ["", ""]


def test_what_is_no_number_is_missing() -> None:
    rows = [{"images": i, "loss_d": v, "mine": None} for i, v in enumerate([1.0, None, "x", True, 2])]
    (chart,) = charts([record("a", *rows)])
    assert as_data([chart])["charts"][0]["curves"][0]["y"] == [1, None, None, None, 2]


def test_metrics_have_floor_error_and_a_chart_per_protocol(tmp_path: Path) -> None:
    one = [folders.evaluation(10, 9.0), folders.evaluation(20, 5.0)]
    two = [folders.evaluation(10, 9.0, num_samples=50), folders.evaluation(20, 8.0, num_samples=50)]
    rows = [{"images": 10, "frechet": 9.0, "frechet_floor": 1.5, "frechet_error": 0.1}]
    paths = [folders.run(tmp_path / name, rows=rows, evaluations=e) for name, e in (("a", one), ("b", two))]
    found = charts([read_run(path) for path in paths])
    runs_of = [(c.title, [curve.run for curve in c.curves]) for c in found]
    assert runs_of == [(title, [run]) for run in (0, 1) for title in ("Fréchet distance", "Modes found")]
    assert found[0].floor == 1.5
    assert found[0].curves[0].errors == [0.25, 0.25]
    assert "1,000 samples of MNIST at 28 × 28 through the MNIST classifier" in found[0].note
    assert as_data(found)["charts"][0]["curves"][0]["errors"] == [0.25, 0.25]


def test_a_single_evaluation_is_no_curve(tmp_path: Path) -> None:
    run = read_run(folders.run(tmp_path / "a", rows=[], evaluations=[folders.evaluation(10, 9.0)]))
    assert charts([run]) == []


def test_metrics_in_the_rows_alone_are_drawn() -> None:
    (chart,) = charts([record("a", {"images": 10, "frechet": 9.0}, {"images": 20, "frechet": 5.0})])
    assert (chart.title, chart.group, chart.floor) == ("Fréchet distance", "Quality", None)


@pytest.mark.parametrize("count", [4, 1000, 1001, 5000])
def test_thinning_keeps_ends_extremes_and_gaps(count: int) -> None:
    draw = random.Random(count)
    points = [(i, draw.random()) for i in range(count)]
    points[count // 2] = (count // 2, math.nan)
    points[count // 3] = (count // 3, 7.0)
    kept = thinned(points)
    assert len(kept) <= 1000
    assert len(kept) == count or len(kept) > 600
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert (count // 3, 7.0) in kept
    assert any(math.isnan(value) for _, value in kept)
    assert [i for i, _ in kept] == sorted({i for i, _ in kept})


def test_shared_axes_stand_once_and_digits_are_few() -> None:
    curves = [Curve(0, "D", [(10, 1 / 3), (20, 12345678.0)]), Curve(0, "G", [(10, 2.0), (20, 1e-9)])]
    data = as_data([Chart("x", "Other", "", [*curves, Curve(0, "H", [(10, 1.0)])])])
    assert data["axes"] == [[10, 20], [10]]
    assert [curve["x"] for curve in data["charts"][0]["curves"]] == [0, 0, 1]
    assert data["charts"][0]["curves"][0]["y"] == [0.33333, 12346000]


@pytest.mark.parametrize(("values", "log"), [([1.0, 2.0], False), ([1.0, 2e4], True), ([-1.0, 2e4], False)])
def test_wide_positive_curves_start_out_logarithmic(values: list[float], log: bool) -> None:
    chart = Chart("x", "Other", "", [Curve(0, "", list(enumerate(values)))])
    assert as_data([chart])["charts"][0]["log"] is log
