"""The table of random architectures: which runs are compared, and what is trained when it resumes."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import robustness
from ganscale.config import Config
from ganscale.sweep.plan import SweepPlan, load_plan
from ganscale.sweep.score import SeedResult

OBJECTIVES = ("gan", "wgan_gp", "rpgan_r1_r2", "rpgan_estimated")
CELLS = len(OBJECTIVES)


@pytest.fixture(scope="module")
def plan() -> SweepPlan:
    return load_plan(robustness.SWEEP, list(robustness.SETTINGS))


def row(trial: int, seed: int, score: float) -> dict:
    values = {"inception_score": score, "modes": 10.0, "frechet": 20.0}
    return {"trial": trial, **SeedResult(seed, 38_400, values).as_json(), "cpu_seconds": 1.0}


def test_only_draws_and_seeds_that_all_objectives_have_are_compared(plan: SweepPlan) -> None:
    rows = [row(trial, 0, 3.0) for trial in range(2 * CELLS - 1)]  # the second draw lacks its last objective
    rows += [row(trial, 1, 2.0) for trial in range(CELLS - 1)]  # the second seed too
    entries = robustness.comparable(plan, rows)
    assert [entry.index for entry in entries] == list(range(CELLS))
    assert [[seed.seed for seed in entry.rows[-1].seeds] for entry in entries] == [[0]] * CELLS


def test_the_table_counts_scores_that_are_missing_as_failures(plan: SweepPlan) -> None:
    scores = {0: 1.0, 1: math.nan, 2: 2.6, 3: 2.4}
    rows = [row(trial, seed, scores[trial % CELLS]) for trial in range(2 * CELLS) for seed in range(2)]
    text = robustness.report(plan, robustness.comparable(plan, rows), (2.0,))
    assert text.startswith("2 architectures, 16 runs\n")
    strict, loose = text.split("inception_score ")[1:]
    for part, successes in ((strict, (0, 0, 4, 0)), (loose, (0, 0, 4, 4))):
        found = re.findall(r"^ *objective +(\w+) +(\d) of 4", part, re.MULTILINE)
        assert found == [(name, str(count)) for name, count in zip(OBJECTIVES, successes, strict=True)]


def test_the_plots_are_those_of_a_sweep(plan: SweepPlan, tmp_path: Path) -> None:
    rows = [row(trial, 0, 2.0 + trial % CELLS / 4) for trial in range(2 * CELLS)]
    files = robustness.draw(plan, robustness.comparable(plan, rows), tmp_path)
    assert {"success.png", "success_curves.png"} <= {file.name for file in files}
    assert all(file.stat().st_size > 5000 for file in files)


def test_recorded_runs_are_not_trained_again(plan: SweepPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(config: Config, metrics: Sequence[str]) -> SeedResult:
        trained.append((config.loss.name, config.run.seed))
        return SeedResult(config.run.seed, 38_400, {"inception_score": float("nan"), "modes": 1.0, "frechet": 9.0})

    monkeypatch.setattr(robustness, "train", train)
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps(row(1, 0, 3.0)) + "\n")
    robustness.train_missing(plan, records, [0, 1])
    assert trained == [("non_saturating", 0), ("non_saturating", 1), ("wasserstein", 1)]
    robustness.train_missing(plan, records, [0, 1])
    assert len(trained) == 3
    assert [each["values"]["inception_score"] for each in robustness.read(records)] == [3.0, None, None, None]


def test_the_recorded_runs_are_of_this_sweep(plan: SweepPlan) -> None:
    """As many as there are: the file grows over days, and begins anew where an initialization changes."""
    rows = robustness.read(Path(robustness.RECORDS))
    assert {each["images"] for each in rows} <= {plan.config.train.images}
    assert all(0 <= each["trial"] < len(plan.sampler) for each in rows)
    assert len({(each["trial"], each["seed"]) for each in rows}) == len(rows)
