"""`python -m benchmarks.speed flops`: operations and gradient bytes of an iteration, compared with the minimum."""

import argparse
from dataclasses import asdict

import torch

from benchmarks.speed.command import configs_of, device_of, write_json
from benchmarks.speed.counting import count, flops_table


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: of `parsers`.

    Returns:
        The exit code.
    """
    torch.set_num_threads(options.threads)
    works = {
        title: count(config, world_size=options.world_size, device=device_of(config), iterations=options.iterations)
        for title, config in configs_of(options).items()
    }
    print(flops_table(works))
    report = {
        title: asdict(work) | {"flops_ratio": work.flops_ratio, "bytes_ratio": work.bytes_ratio}
        for title, work in works.items()
    }
    write_json(options.json, {"world_size": options.world_size, "flops": report})
    return 0
