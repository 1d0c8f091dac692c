"""`python -m benchmarks.speed flops`: operations and gradient bytes of one iteration, over the least possible."""

from collections.abc import Sequence
from dataclasses import asdict

import torch

from benchmarks.speed.command import configs_of, device_of, make_parser, positive, write_json
from benchmarks.speed.counting import count, flops_table


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = make_parser(
        "flops",
        "Count the operations of products and convolutions and the bytes reduced in one iteration, and compare\n"
        "them with the least that the loss needs (benchmarks/speed/ideal.py says how it is found). Nothing is timed.",
    )
    parser.add_argument("--world-size", type=positive, default=2, help="replicas to pretend (default: %(default)s)")
    parser.add_argument(
        "--iterations", type=positive, default=1, help="mean of so many, for lazy penalties (default: %(default)s)"
    )
    options = parser.parse_intermixed_args(arguments)
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
