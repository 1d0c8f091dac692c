"""`python -m benchmarks.speed live`: what `cluster.recovery=live` costs an iteration as long as nothing fails."""

import argparse
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.speed.command import configs_of, ratio_table, write_json
from benchmarks.speed.launching import on_torchrun
from benchmarks.speed.measure import Result, machine, summarize
from benchmarks.speed.scaling import resized
from ganscale.config import Config


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: of `parsers`.

    Returns:
        The exit code.
    """
    report: dict[str, Any] = {"machine": machine(torch.device("cpu")), "live": {}}
    for title, config in configs_of(options).items():
        results = compare(config, options.workers, iterations=options.iterations, rounds=options.rounds)
        what = f"{options.workers} workers, batch {config.train.batch_size} each"
        print(f"{title}: {what}\n\n{table(results)}\n", flush=True)
        report["live"][title] = [asdict(result) for result in results]
    write_json(options.json, report)
    return 0


def compare(config: Config, workers: int, *, iterations: int, rounds: int) -> list[Result]:
    """Measure a run with and without live recovery, alternating.

    Args:
        config: of the run on one worker.
        workers: number of workers, each with that batch.
        iterations: per block.
        rounds: number of rounds.
    """
    threads = config.cluster.cpus_per_worker
    together = resized(config, config.train.batch_size * workers, workers, threads)
    request = {"together": together.model_dump(mode="json"), "kinds": ["live", "together"]}
    answer = on_torchrun({**request, "iterations": iterations, "rounds": rounds}, workers, threads=threads)
    seconds = {"restart": answer["together"], "live": answer["live"]}
    return summarize(seconds, dict.fromkeys(seconds, together.train.batch_size))


def table(results: list[Result]) -> str:
    """Format the results as a Markdown table.

    Args:
        results: of `compare`.
    """
    header = ("cluster.recovery", "ms/iteration p50", "times that of restart, median [p10..p90]")
    return ratio_table(header, results, low="p10", high="p90")
