"""Folders of runs and sweeps as training writes them, without training, and a parser of the page."""

import json
from collections.abc import Sequence
from html.parser import HTMLParser
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


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        tags: name and attributes of each element.
        texts: of scripts and styles, in order.
        rows: texts of the cells of each row of a table.
        data: what the page's script reads.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self._open = ""
        self.feed(page)
        self.data: dict[str, Any] = json.loads(next(text for text in self.texts if text.startswith("{")))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag in ("th", "td", "script", "style"):
            self._open = tag

    def handle_endtag(self, tag: str) -> None:
        if self._open == tag in ("th", "td"):
            self.rows[-1][-1] = " ".join(self.rows[-1][-1].split())
        self._open = self._open * (self._open != tag)

    def handle_data(self, data: str) -> None:
        if self._open in ("th", "td"):
            self.rows[-1][-1] += data
        elif self._open:
            self.texts.append(data)

    def row(self, name: str) -> list[str]:
        """The first row whose first cell begins with `name`, without that cell."""
        return next(row[1:] for row in self.rows if row[0].startswith(name))
