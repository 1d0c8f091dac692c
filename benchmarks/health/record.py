"""One run of the benchmark: trained in memory, its rows of metrics and its evaluations kept."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.health.faults import FAULTS
from benchmarks.health.setups import SETUPS, overrides
from ganscale.config import load
from ganscale.evaluation.callback import can_sample, make_evaluator
from ganscale.run.health_monitor import health_row
from ganscale.training.build import build
from ganscale.training.loop import train

DIGITS = 5
"""Significant digits of a number in the file."""


@dataclass(frozen=True)
class Record:
    """What is kept of a run.

    Attributes:
        setup: name of the setup.
        fault: name of the fault; empty for none.
        seed: of the run.
        loss: `loss.name`.
        rows: of metrics, oldest first.
        evaluations: images and numbers of each evaluation, oldest first; the first is of the untrained generator.
        seconds: that it took.
    """

    setup: str
    fault: str
    seed: int
    loss: str
    rows: tuple[dict[str, float], ...]
    evaluations: tuple[dict[str, float], ...]
    seconds: float


def run(setup: str, fault: str, seed: int, *, extra: Sequence[str] = ()) -> Record:
    """Train one run in this process.

    Args:
        setup: name of the setup.
        fault: name of the fault; empty for none.
        seed: of the run.
        extra: further overrides.
    """
    started = time.perf_counter()
    torch.set_num_threads(1)
    chosen = SETUPS[setup]
    spoilt = FAULTS[fault].settings(chosen) if fault else ()
    config = load(overrides=(*overrides(chosen, seed), *spoilt, *extra))
    experiment = build(config)
    evaluator = make_evaluator(config, experiment.sampler.source, device=experiment.device)
    if fault:
        FAULTS[fault].wrap(experiment)
    state = experiment.state
    rows, evaluations = [], [{"images": 0.0} | evaluator.evaluate(state.ema.module, 0).numbers()]
    intervals = {"log": config.log.every, "eval": config.eval.every}
    for tick in train(state, experiment.step, experiment.sampler, intervals=intervals, until=config.train.images):
        rows.append({"images": float(tick.images)} | health_row(tick, experiment))
        if tick.due & {"eval", "end"}:
            scores = dict.fromkeys(list(evaluations[0])[1:], math.nan)
            if can_sample(experiment):
                scores = evaluator.evaluate(state.ema.module, tick.images).numbers()
            evaluations.append({"images": float(tick.images)} | scores)
    seconds = time.perf_counter() - started
    return Record(setup, fault, seed, config.loss.name, tuple(rows), tuple(evaluations), seconds)


def write(path: Path, records: Sequence[Record]) -> None:
    """Write records as JSON by columns, compressed if the name ends in `.gz`; numbers keep `DIGITS` digits."""
    text = json.dumps([_as_json(record) for record in records], separators=(",", ":"))
    if path.suffix == ".gz":
        import gzip

        path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    else:
        path.write_text(text, encoding="utf-8")


def read(path: Path) -> list[Record]:
    """Read what `write` wrote."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        import gzip

        content = gzip.decompress(content)
    return [
        Record(**(raw | {"rows": _rows(raw["rows"]), "evaluations": _rows(raw["evaluations"])}))
        for raw in json.loads(content)
    ]


def _as_json(record: Record) -> dict[str, Any]:
    return vars(record) | {
        "rows": _columns(record.rows),
        "evaluations": _columns(record.evaluations),
        "seconds": round(record.seconds, 1),
    }


def _columns(rows: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [float(f"{row[name]:.{DIGITS}g}") for row in rows] for name in names}


def _rows(columns: dict[str, list[float]]) -> tuple[dict[str, float], ...]:
    return tuple(dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
