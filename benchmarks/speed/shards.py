"""`python -m benchmarks.speed shards`: what `train.shards` costs in processor time, on one worker."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.speed.command import changed, configs_of, ratio_table, write_json
from benchmarks.speed.measure import Ganscale, Result, machine, measure
from ganscale.config import Config
from ganscale.training.build import Experiment, build


class ShardLoop(Ganscale):
    """The loop of a run with some number of shards.

    Args:
        experiment: the run.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.name = f"{experiment.config.train.shards} shards"


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: of `parsers`.

    Returns:
        The exit code.
    """
    report: dict[str, Any] = {"machine": machine(torch.device("cpu")), "shards": {}}
    for title, config in configs_of(options).items():
        counts = [0, *(int(count) for count in options.shards.split(","))]
        results = compare(config, counts, iterations=options.iterations, rounds=options.rounds)
        print(f"{title}: batch {config.train.batch_size}, processor time\n\n{table(results)}\n", flush=True)
        report["shards"][title] = [asdict(result) for result in results]
    write_json(options.json, report)
    return 0


def compare(config: Config, counts: Sequence[int], *, iterations: int, rounds: int) -> list[Result]:
    """Measure a run with several numbers of shards, alternating.

    Args:
        config: of the run.
        counts: numbers of shards; ratios are to the first.
        iterations: per block.
        rounds: number of rounds.

    Raises:
        ConfigError: the run cannot be cut into so many shards.
    """
    torch.set_num_threads(1)
    configs = [changed(config, train={"shards": count, "device": "cpu"}) for count in counts]
    return measure([ShardLoop(build(each)) for each in configs], iterations=iterations, rounds=rounds, clock="cpu")


def table(results: Sequence[Result]) -> str:
    """Format the results as a Markdown table.

    Args:
        results: of `compare`.
    """
    header = ("run", "CPU ms/iteration p50", "times that of the first, median [min..max]")
    return ratio_table(header, results)
