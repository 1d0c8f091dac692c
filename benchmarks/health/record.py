"""Trains one run of the benchmark in memory and records its metrics and evaluations."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.health.faults import FAULTS, injected
from benchmarks.health.setups import SETUPS, overrides
from ganscale.config import ConfigError, load
from ganscale.config.load import recorded
from ganscale.evaluation.callback import make_evaluator
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.run.health_monitor import TIMES, numbers, weight_norms
from ganscale.run.session import Session
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from ganscale.training.build import build
from ganscale.training.loop import Tick
from ganscale.training.statistics import has_finite_weights

DIGITS = 5
"""Significant digits of the numbers in the file."""


@dataclass(frozen=True)
class Record:
    """A recorded run.

    Attributes:
        setup: name of the setup.
        fault: name of the fault; empty for none.
        seed: of the run.
        loss: `loss.name`.
        rows: of metrics, oldest first.
        evaluations: images and metrics of each evaluation, oldest first; the first is that of the untrained generator.
        seconds: duration of the run.
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
    config = load(overrides=(*overrides(chosen, seed), *injected(fault, chosen), *extra))
    experiment = build(config)
    evaluator = make_evaluator(config, experiment.sampler.source, device=experiment.device)
    if fault:
        FAULTS[fault].wrap(experiment)
    generator = experiment.state.ema.module

    def evaluate(tick: Tick) -> Evaluation | None:
        due = tick.is_due("eval", "end") and has_finite_weights(generator)
        return evaluator.evaluate(generator, tick.images) if due else None

    rows, evaluations = [], [{"images": 0.0} | evaluator.evaluate(generator, 0).numbers()]
    nothing = dict.fromkeys(list(evaluations[0])[1:], math.nan)
    session = Session(experiment, intervals={"log": config.log.every, "eval": config.eval.every}, evaluate=evaluate)
    for tick in session.ticks():
        metrics = {name: value for name, value in tick.metrics.items() if name not in TIMES}
        rows.append({"images": float(tick.images)} | metrics | weight_norms(experiment))
        if tick.is_due("eval", "end"):
            scores = session.evaluation.numbers() if session.evaluation else nothing
            evaluations.append({"images": float(tick.images)} | scores)
    seconds = time.perf_counter() - started
    return Record(setup, fault, seed, config.loss.name, tuple(rows), tuple(evaluations), seconds)


def from_folder(folder: RunDir, setup: str) -> Record:
    """The record of a run that was trained as usual, with evaluations.

    Args:
        folder: of the run.
        setup: name of its setup.

    Raises:
        ConfigError: it is not a run's folder, or no evaluation has the metrics of the run's config.
    """
    config = recorded(folder.config)
    rows = [
        {"images": float(row["images"])} | {name: value for name, value in numbers(row).items() if name not in TIMES}
        for row in read_metrics(folder)
    ]
    experiment = build(config)
    untrained = make_evaluator(config, experiment.sampler.source, device=experiment.device).evaluate(
        experiment.state.ema.module, 0
    )
    names = ("images", *untrained.numbers())
    scored = [{name: row[name] for name in names} for row in rows if set(names) <= row.keys()]
    if not scored:
        reason, remedy = "no row of metrics.jsonl is an evaluation", "name a run with evaluations"
        raise ConfigError(reason, key="--add", value=str(folder.path), remedy=remedy)
    evaluations = ({"images": 0.0} | untrained.numbers(), *scored)
    ticks = tuple({name: value for name, value in row.items() if name == "images" or name not in names} for row in rows)
    return Record(setup, "", config.run.seed, config.loss.name, ticks, evaluations, 0.0)


def write(path: Path, records: Sequence[Record]) -> None:
    """Write records as JSON, one list per metric; numbers are rounded to `DIGITS` significant digits.

    Args:
        path: of the file, which is compressed if the name ends in `.gz`.
        records: to write.
    """
    text = json.dumps([_as_json(record) for record in records], separators=(",", ":"))
    if path.suffix == ".gz":
        import gzip

        path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    else:
        path.write_text(text, encoding="utf-8")


def read(path: Path) -> list[Record]:
    """Read a file of `write`.

    Args:
        path: of the file.
    """
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
