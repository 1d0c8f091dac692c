"""Folders of runs and sweeps as training leaves them, without training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganscale.config import dump, load
from ganscale.evaluation.evaluator import store_evaluation
from ganscale.evaluation.metrics.result import Evaluation, Score
from ganscale.tracking.images import write_png


def evaluation(images: int, frechet: float, **other: Any) -> Evaluation:
    scores = {"frechet": Score(frechet, 1.5, 0.25), "modes": Score(8.0, 10.0)}
    facts = {"data": "mnist 28", "num_samples": 1000, "seed": 0, "extractor": "mnist", "extractor_sha256": "abc"}
    return Evaluation(images=images, scores=scores, seconds=1.0, **{**facts, **other})


def run(
    folder: Path,
    *overrides: str,
    rows: Sequence[dict[str, Any]] = ({"images": 10, "loss_d": 1.0}, {"images": 20, "loss_d": 0.5}),
    evaluations: Sequence[Evaluation] = (),
    pictures: Sequence[int] = (),
    events: Sequence[dict[str, Any]] = (),
) -> Path:
    """A run's folder with these contents."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(load(overrides=overrides)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for one in evaluations:
        store_evaluation(one, folder / "evaluations")
    for images in pictures:
        write_png(folder / "samples" / f"{images:08d}.png", np.full((16, 16, 3), images % 256, np.uint8))
    if events:
        (folder / "health.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def seed(number: int, failure: str = "", **values: float | None) -> dict[str, Any]:
    return {"seed": number, "images": 20, "values": values, "failure": failure}


def trial(number: int, drawn: dict[str, Any], seeds: Sequence[dict[str, Any]], **facts: Any) -> dict[str, Any]:
    failures = sum(bool(one["failure"]) for one in seeds)
    means = {"modes": 5.0 + number}
    known = {"status": "complete", "reason": "", "images": 20, "spent": 60, "score": 1.0, "means": means}
    known |= {"bounds": {"modes": None}, "failures": failures, "successes": None, "rate_interval": None}
    return {"trial": number, "drawn": drawn, "seeds": list(seeds), **known, **facts}


def sweep(folder: Path, trials: Sequence[dict[str, Any]], **facts: Any) -> Path:
    """A sweep's folder with results and the rows of its trials."""
    results = {"sweep": "stability", "metrics": ["modes"], "images": 600, "winner": 0, "trials": list(trials)}
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({**results, **facts}))
    for one in trials:
        below = folder / "trials" / f"{one['trial']:04d}"
        below.mkdir(parents=True)
        rows = [{"images": images, "seeds": one["seeds"]} for images in (10, 20)]
        (below / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
