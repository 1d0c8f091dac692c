"""`python -m benchmarks.speed throughput`: ganscale and hand-written loops, alternating in one process."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.speed.baselines import BASELINES, check
from benchmarks.speed.command import configs_of, device_of, markdown, names_of, write_json
from benchmarks.speed.measure import Contender, Ganscale, Result, machine, measure
from benchmarks.speed.tracking import cost_table, tracking_cost
from benchmarks.speed.with_lightning import Lightning
from ganscale.config import Config
from ganscale.training.build import Experiment, build

LOOPS: dict[str, Callable[[Experiment, bool], Contender]] = {**BASELINES, "lightning": Lightning}
"""Baselines by name."""


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: of `parsers`.

    Returns:
        The exit code.
    """
    configs = configs_of(options)
    if options.tracking:
        return _tracking(options, configs)
    baselines = _baselines(options.baselines)
    if baselines:
        for config in configs.values():
            check(config)
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {name: getattr(options, name) for name in ("iterations", "rounds", "clock", "same_layers")}
    report["results"] = {}
    for title, config in configs.items():
        device = device_of(config)
        if "machine" not in report:
            report["machine"] = machine(device)
            print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
        experiment = build(config, device=device)
        contenders = [Ganscale(experiment), *(LOOPS[name](experiment, options.same_layers) for name in baselines)]
        results = measure(contenders, iterations=options.iterations, rounds=options.rounds, clock=options.clock)
        blocks = f"{options.rounds} rounds of {options.iterations} iterations, {options.clock} time"
        print(f"\n{title}: batch {config.train.batch_size}, {blocks}\n")
        print(table(results), flush=True)
        report["results"][title] = [asdict(result) for result in results]
    write_json(options.json, report)
    return 0


def _tracking(options: argparse.Namespace, configs: dict[str, Config]) -> int:
    """Measure and print the cost of tracking."""
    costs, device = [], torch.device("cpu")
    for title, config in configs.items():
        device = device_of(config)
        print(f"{title}: {options.rounds} periods of {config.log.samples_every:,} images", flush=True)
        costs.append(tracking_cost(title, config, periods=options.rounds, device=device))
    print("\n" + cost_table(costs))
    write_json(options.json, {"machine": machine(device), "tracking": [asdict(cost) for cost in costs]})
    return 0


def table(results: Sequence[Result]) -> str:
    """Format the results as a Markdown table.

    Args:
        results: of `measure`.
    """
    rows = [("loop", "images/s", "ms/iteration p50 (p10, p90)", "ganscale is faster by, median [min..max]")]
    for result in results:
        ms, ratio = result.milliseconds, result.ratio
        faster = "" if ratio is None else f"{ratio.median:.3f} [{ratio.min:.3f}..{ratio.max:.3f}]"
        speed = f"{result.images_per_second:,.0f}"
        rows.append((result.name, speed, f"{ms.median:.2f} ({ms.p10:.2f}, {ms.p90:.2f})", faster))
    return markdown(rows)


def _baselines(text: str) -> list[str]:
    return [] if text == "none" else names_of(text, list(LOOPS), key="--baselines")
