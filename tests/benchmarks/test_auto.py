"""The comparison of automatic settings with a sweep: what is trained, and what is compared."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import auto
from benchmarks.auto import AUTO, FRESH, SWEPT, TASKS, Run
from ganscale.sweep.score import SeedResult


def swept(task: str) -> dict[Run, float]:
    """Scores of the sweep: a setting's is its place in the list."""
    return {Run(task, setting, SWEPT): float(place) for place, setting in enumerate(auto.fixed())}


@pytest.mark.parametrize("task", TASKS)
def test_each_task_is_a_run_with_fixed_and_with_automatic_settings(task: str, tmp_path: Path) -> None:
    fixed = Run(task, "0.001/0.1", 2).config(tmp_path / "fashion.zip")
    assert (fixed.optim.lr_g, fixed.penalty.r1, fixed.run.seed) == (1e-3, 0.1, 2)
    found = Run(task, AUTO, 2).config(tmp_path / "fashion.zip")
    assert found.optim.auto
    assert found.penalty.auto
    assert found.train.images == fixed.train.images == found.eval.every


def test_there_are_24_fixed_settings() -> None:
    assert len(set(auto.fixed())) == 24


def test_finalists_are_the_best_of_the_whole_sweep() -> None:
    lower, higher = swept("mnist-mlp"), swept("ring")
    assert auto.finalists("mnist-mlp", lower) == auto.fixed()[:3]
    assert auto.finalists("ring", higher) == auto.fixed()[:-4:-1]
    ruined = {run: math.nan if run.setting == auto.fixed()[0] else score for run, score in lower.items()}
    assert auto.finalists("mnist-mlp", ruined) == auto.fixed()[1:4]
    lower.popitem()
    assert auto.finalists("mnist-mlp", lower) == []


def test_the_ratio_is_above_1_where_auto_is_worse() -> None:
    for task, expected in (("mnist-mlp", "1.250"), ("ring", "0.800")):
        scores = swept(task)
        for place, setting in enumerate(auto.finalists(task, scores)):
            scores |= {Run(task, setting, seed): 8.0 + (place if task == "mnist-mlp" else -place) for seed in FRESH}
        scores |= {Run(task, AUTO, seed): 9.0 + seed / 2.0 for seed in FRESH}
        assert f"against the best of the sweep: {expected} " in auto.report(scores)


def test_recorded_runs_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(config: object, metrics: tuple[str, ...]) -> SeedResult:
        trained.append(config)
        return SeedResult(0, 1, {metrics[0]: math.nan if len(trained) == 1 else float(len(trained))})

    monkeypatch.setattr(auto, "train", train)
    records = tmp_path / "records.jsonl"
    first = Run("ring", auto.fixed()[0], SWEPT)
    records.write_text(json.dumps({**first._asdict(), "score": 0.5}) + "\n")
    auto.train_missing(["ring"], records)
    assert len(trained) == 23 + 3 + 9
    assert math.isnan(auto.known(records)[Run("ring", auto.fixed()[1], SWEPT)])
    auto.train_missing(["ring"], records)
    assert len(trained) == 23 + 3 + 9
