"""The benchmark of evaluation: what it makes of a run's times, and a real run of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed.__main__ import main
from benchmarks.speed.evaluation import MODES, costs_of, periods_of, table
from tests.runs import MLP


def test_periods_are_between_evaluations_after_the_warm_up() -> None:
    rows = [(images, images / 10, images / 20) for images in range(50, 451, 50)]
    assert periods_of(rows, 100) == [(10.0, 5.0)] * 2


def test_costs_compare_with_no_evaluation_of_the_same_round() -> None:
    rounds = [
        {"none": [(10.0, 4.0)] * 3, "async": [(11.0, 4.1), (11.0, 4.1), (99.0, 4.1)], "inline": [(15.0, 8.0)] * 3},
        {"none": [(20.0, 4.0)] * 3, "async": [(20.0, 4.0)] * 3, "inline": [(40.0, 8.0)] * 3},
    ]
    counted = {"none": (0, 0), "async": (5, 1), "inline": (6, 0)}
    costs = {cost.mode: cost for cost in costs_of(rounds, 1000, counted)}
    assert tuple(costs) == MODES
    assert (costs["async"].wall.min, costs["async"].wall.max) == (0.0, pytest.approx(0.1))
    assert (costs["inline"].wall.min, costs["inline"].wall.max) == (0.5, 1.0)
    assert costs["inline"].cpu.median == 1.0
    assert costs["none"].milliseconds.median == 4000.0
    assert costs["inline"].images_per_second.max == pytest.approx(1000 / 15)
    lines = table(list(costs.values())).splitlines()
    assert "+75.0 % [+50.0..+100.0]" in lines[-1]
    assert "5, 1" in lines[3]


def test_a_run_is_measured_each_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganscale.run import session
    from tests.run.test_async_evaluation import Script

    real: Any = session.run_worker
    monkeypatch.setattr(
        "benchmarks.speed.evaluation.run_worker", lambda *a, **k: real(*a, **k, make_executor=Script(polls=1))
    )
    file = tmp_path / "found.json"
    short = ("train.batch_size=10", "log.every=20", "eval.every=40", "eval.num_samples=20", "eval.metrics=[frechet]")
    options = ["--rounds", "2", "--periods", "1", "--json", str(file), *MLP, *short, "eval.extractor=pixels"]
    assert main(["evaluation", *options]) == 0
    costs = json.loads(file.read_text())["evaluation"]["mlp"]
    assert [(cost["mode"], cost["evaluations"]) for cost in costs] == [
        ("none", [0, 0]),
        ("async", [8, 0]),
        ("inline", [8, 0]),
    ]
    assert "| async " in capsys.readouterr().out


def test_periods_that_end_between_two_rows_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluation", "log.every=300", "eval.every=400"]) == 1
    assert "no multiple" in capsys.readouterr().err
