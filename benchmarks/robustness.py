"""How many random architectures does an objective train? `python -m benchmarks.robustness [--part I/N]`.

The protocol is that of Table 2 of WGAN-GP (Gulrajani et al. 2017), scaled to two CPU cores: each draw of
configs/sweeps/robustness_small.yaml is tried with each of its objectives. Each run that the records lack is trained to
its end, whatever health says of it, and appended to them as a line; so the table grows over days and machines.
`--score` only prints it.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.health.rescue import last_scores
from ganscale.config import Config
from ganscale.run.session import run_worker
from ganscale.sweep.analysis import differences, success_rates
from ganscale.sweep.plan import SweepPlan, load_plan
from ganscale.sweep.plots import save_all
from ganscale.sweep.results import Entry, TrialRow, columns
from ganscale.sweep.score import SeedResult, seed_from_json, standing

SWEEP = "configs/sweeps/robustness_small.yaml"
RECORDS = "benchmarks/robustness.jsonl"
SEEDS = 2
SETTINGS = (
    "health.response=warn",
    "log.samples_every=1e9",
    "log.details=false",
    "checkpoint.every=1e9",
    "wandb.mode=disabled",
)
"""Of all runs: verdicts end none, as the table must not depend on them, and nothing is written that is not read."""


def train(config: Config, metrics: Sequence[str]) -> SeedResult:
    """Train one run in a temporary folder and evaluate it at its end.

    Args:
        config: of the run.
        metrics: to read from its last evaluation; NaN where there is none.
    """
    with tempfile.TemporaryDirectory(prefix="run") as folder:
        path = Path(folder) / "run"
        run = config.run.model_copy(update={"dir": folder, "name": path.name})
        outcome = run_worker(config.model_copy(update={"run": run}), path, device=torch.device("cpu"), echo=False)
        scores = last_scores(path, config.train.images)
    values = {name: scores.get(name, math.nan) for name in metrics}
    return SeedResult(config.run.seed, config.train.images, values, outcome.diagnosis)


def train_missing(plan: SweepPlan, records: Path, trials: Iterable[int]) -> None:
    """Train what the records lack.

    Args:
        plan: of the sweep.
        records: file to which each run's result is appended.
        trials: numbers of the configurations, in the order of training.
    """
    known = {(row["trial"], row["seed"]) for row in read(records)}
    for index in trials:
        for seed in plan.seeds[:SEEDS]:
            if (index, seed) in known:
                continue
            started = time.process_time()
            config = plan.space.config(plan.sampler[index])
            run = config.run.model_copy(update={"seed": seed})
            result = train(config.model_copy(update={"run": run}), plan.metrics).as_json()
            row = {"trial": index, **result, "cpu_seconds": round(time.process_time() - started, 1)}
            with records.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
            print(row, flush=True)


def read(records: Path) -> list[dict[str, Any]]:
    """The recorded runs.

    Args:
        records: file of `train_missing`, which need not exist.
    """
    return [json.loads(line) for line in records.read_text("utf-8").splitlines()] if records.exists() else []


def comparable(plan: SweepPlan, rows: Sequence[dict[str, Any]]) -> list[Entry]:
    """Configurations of the draws that were tried with all objectives, with the seeds that all of them have.

    Args:
        plan: of the sweep.
        rows: of `read`.
    """
    runs: dict[int, dict[int, SeedResult]] = defaultdict(dict)
    for row in rows:
        runs[row["trial"]][row["seed"]] = seed_from_json(row)
    cells, found = len(plan.sampler.cells), []
    for first in range(0, len(plan.sampler), cells):
        trials = range(first, first + cells)
        seeds = sorted(set.intersection(*(set(runs[trial]) for trial in trials)))
        for trial in trials if seeds else ():
            results, drawn = tuple(runs[trial][seed] for seed in seeds), plan.sampler[trial]
            row = TrialRow(plan.config.train.images, drawn, results, 0.0, True)
            summary = standing(results, plan.metrics, plan.sweep.sweep)
            found.append(Entry(trial, drawn, "complete", "", (row,), summary))
    return found


def report(plan: SweepPlan, entries: Sequence[Entry], thresholds: Sequence[float]) -> str:
    """Success by objective and setting at the sweep's threshold, and by objective at others.

    Args:
        plan: of the sweep.
        entries: of `comparable`.
        thresholds: of the first metric.
    """
    cells, settings = len(plan.sampler.cells), plan.sweep.sweep
    parts = [f"{len(entries) // cells} architectures, {sum(len(entry.rows[-1].seeds) for entry in entries)} runs"]
    for threshold in (settings.threshold, *thresholds):
        goal = settings.model_copy(update={"threshold": threshold})
        shown = plan.space.parameters if threshold == settings.threshold else plan.space.parameters[:1]
        rows = [[f"{plan.metrics[0]} {threshold:g}", "", "succeeded", "share", "interval"]]
        for parameter in shown:
            for rate in success_rates(entries, parameter, plan.metrics, goal):
                interval = "{:.2f} to {:.2f}".format(*rate.interval)
                counts = f"{rate.successes} of {rate.runs}"
                rows.append([parameter.name, rate.value, counts, f"{rate.share:.2f}", interval])
        paired = differences(entries, plan.space.parameters[0], plan.metrics, goal, cells=cells)
        parts += [columns(rows), *(f"  {each}" for each in paired)]
    return "\n".join(parts)


def draw(plan: SweepPlan, entries: Sequence[Entry], folder: Path) -> list[Path]:
    """Draw the plots of a sweep's report.

    Args:
        plan: of the sweep.
        entries: of `comparable`.
        folder: for the PNGs.

    Returns:
        The files.
    """
    rates = {each.name: success_rates(entries, each, plan.metrics, plan.sweep.sweep) for each in plan.space.parameters}
    return save_all(plan, entries, (), rates, folder)


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness", description=__doc__)
    parser.add_argument("--records", type=Path, default=Path(RECORDS), help="file of the runs (%(default)s)")
    parser.add_argument("--part", default="0/1", help="I/N: only every N-th architecture from the I-th on")
    parser.add_argument("--draws", type=int, default=10**9, help="architectures to train at most")
    parser.add_argument("--score", action="store_true", help="train nothing")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="also draw the plots of a sweep")
    options = parser.parse_args(arguments)
    plan = load_plan(SWEEP, list(SETTINGS))
    if not options.score:
        torch.set_num_threads(1)
        part, parts = map(int, options.part.split("/"))
        cells = len(plan.sampler.cells)
        trials = range(min(len(plan.sampler), options.draws * cells))
        train_missing(plan, options.records, [trial for trial in trials if trial // cells % parts == part])
    entries = comparable(plan, read(options.records))
    print(report(plan, entries, (2.0, 3.0, 4.0)))
    if options.plots:
        draw(plan, entries, options.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
