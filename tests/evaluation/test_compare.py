"""Evaluations side by side."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ganscale.config import ConfigError
from ganscale.evaluation.compare import by_protocol, read_evaluations, save_plot, sheet, tables
from ganscale.evaluation.evaluator import store_evaluation
from ganscale.evaluation.metrics.result import Evaluation, Score


def made(images: int, frechet: float, precision: float = 0.5) -> Evaluation:
    scores = {"frechet": Score(frechet, 1.0), "precision": Score(precision, 0.9, 0.01)}
    return Evaluation(images, "mnist 28", 1000, 0, "mnist", "abcdef", scores, 2.0)


RUNS = {"good": [made(10, 50.0), made(20, 5.0)], "bad": [made(10, 60.0, 0.7), made(20, 70.0, 0.8)]}


def test_the_newest_of_each_run_is_shown_and_the_best_has_a_star() -> None:
    lines = tables(RUNS).splitlines()
    assert lines[0] == "1,000 samples of mnist 28, seed 0, through mnist (abcdef)"
    assert lines[1].split() == ["run", "images", "frechet", "precision"]
    assert lines[2].split() == ["good", "20", "5", "*", "0.5", "+-", "0.01"]
    assert lines[3].split() == ["bad", "20", "70", "0.8", "+-", "0.01", "*"]
    assert lines[4].split() == ["(floor)", "1", "0.9"]
    assert "cannot be compared" not in tables(RUNS)


@pytest.mark.parametrize(
    "other", [{"num_samples": 2000}, {"extractor": "pixels"}, {"extractor_sha256": "x"}, {"data": "mnist 32"}]
)
def test_unequal_protocols_never_share_a_table(other: dict[str, object]) -> None:
    runs = {"one": [made(10, 5.0)], "two": [replace(made(10, 6.0), **other)]}
    assert len(by_protocol(runs)) == 2
    text = tables(runs)
    assert text.count("(floor)") == 2
    assert text.endswith("differ.")
    assert "*" not in text


def test_what_is_not_finite_is_never_best() -> None:
    text = tables({"one": [made(10, math.nan)], "two": [made(10, 6.0)]})
    assert [line.split()[2:4] for line in text.splitlines()[2:4]] == [["nan", "0.5"], ["6", "*"]]


def test_a_sheet_has_value_error_floor_and_direction() -> None:
    text = sheet(made(10, 5.25))
    assert "frechet    5.25            1      lower" in text
    assert "precision  0.5    +- 0.01  0.9    higher" in text


def test_the_plot_is_a_picture_with_axes_for_every_metric(tmp_path: Path) -> None:
    save_plot(RUNS, tmp_path / "deep" / "plot.png")
    one = Image.open(tmp_path / "deep" / "plot.png").size
    save_plot({**RUNS, "other": [replace(made(10, 6.0), num_samples=9)]}, tmp_path / "plot.png")
    two = Image.open(tmp_path / "plot.png").size
    assert two[0] == one[0]
    assert two[1] == 2 * one[1]


def test_evaluations_are_read_by_images_and_damaged_ones_left_out(tmp_path: Path) -> None:
    for evaluation in reversed(RUNS["good"]):
        store_evaluation(evaluation, tmp_path / "evaluations")
    (tmp_path / "evaluations" / "x.json").write_text("{")
    (tmp_path / "evaluations" / "y.json").write_text(json.dumps({"scores": {}}))
    assert read_evaluations(tmp_path) == RUNS["good"]
    with pytest.raises(ConfigError, match="run python -m ganscale"):
        read_evaluations(tmp_path / "nowhere")
