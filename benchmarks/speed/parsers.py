"""The command lines of the benchmarks; this module imports neither torch nor ray."""

import argparse
from importlib.util import find_spec
from pathlib import Path

PRESETS: dict[str, list[str]] = {
    "mlp": ["train.batch_size=128", "loss.label_smoothing=0"],
    "dcgan32": [
        "data.resolution=32",
        "model.generator.name=dcgan",
        "model.discriminator.name=dcgan",
        "train.batch_size=64",
        "loss.label_smoothing=0",
    ],
}

COMMANDS: dict[str, str] = {
    "throughput": "images/s next to hand-written loops (without a command: this one)",
    "flops": "operations and gradient bytes of an iteration, compared with the minimum",
    "phases": "the time of each phase of an iteration, percentiles, model FLOP utilization",
    "scaling": "weak and strong scaling over workers, and the prediction for more of them and a link",
    "growth": "cost of random numbers, sampler and log per replica for world sizes up to 1,024",
    "startup": "seconds from the command to the first training step, broken down",
    "processes": "processor seconds of each process until a run trains, and until it does again after a kill",
    "saving": "what saving checkpoints costs the training loop on slow storage, inline and in a thread",
    "evaluation": "what evaluation costs training, beside it and inline",
    "variants": "bf16, channels_last and torch.compile beside float32 eager, alternating",
    "shards": "processor time of train.shards = 2, 4, 8 over that of the same run without",
    "live": "time of an iteration with cluster.recovery=live over that with restart, without faults",
}
"""Each is a module of this package with `main(options)`."""
BASELINES = ("minimal", "textbook", "lightning")
WAYS = ("help", "dry-run", "local", "torchrun", "ray")
VARIANTS = ("float32", "channels_last", "bf16", "bf16+channels_last", "compile", "compile+bf16+channels_last")


def positive(text: str) -> int:
    """Parse a positive integer.

    Args:
        text: of the option.
    """
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def parse(command: str, arguments: list[str]) -> argparse.Namespace:
    """Parse the options of a command.

    Args:
        command: of `COMMANDS`.
        arguments: words after it.
    """
    description, presets, add = _PARSERS[command]
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name.ljust(width)}  {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.speed {command}",
        description=description,
        epilog=f"commands, each with its own --help:\n{rows}" if command == "throughput" else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, help="YAML file of the run to measure; without it, --presets")
    parser.add_argument("--presets", default=presets, help="which runs to measure (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of every run measured")
    add(parser)
    return parser.parse_intermixed_args(arguments)


def _blocks(parser: argparse.ArgumentParser, *, iterations: int, rounds: int) -> None:
    parser.add_argument("--iterations", type=positive, default=iterations, help="per block (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=rounds, help="of one block each (default: %(default)s)")


def _throughput(parser: argparse.ArgumentParser) -> None:
    baselines = ",".join(name for name in BASELINES if name != "lightning" or find_spec("lightning"))
    parser.add_argument("--baselines", default=baselines, help="or none (default: %(default)s)")
    _blocks(parser, iterations=25, rounds=30)
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor time of this process, which other programs do not affect (default: wall)",
    )
    parser.add_argument("--same-layers", action="store_true", help="build the baselines from our layers, not torch's")
    parser.add_argument(
        "--tracking",
        action="store_true",
        help="measure instead the cost of run directory, W&B and console, in --rounds periods of log.samples_every",
    )


def _flops(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--world-size", type=positive, default=2, help="simulated replicas (default: %(default)s)")
    parser.add_argument(
        "--iterations", type=positive, default=1, help="average over these, for lazy penalties (default: %(default)s)"
    )


def _scaling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", default="2", metavar="2,4", help="numbers to measure (default: %(default)s)")
    parser.add_argument("--predict", default="2,4,8,64", metavar="8,64", help="and to predict (default: %(default)s)")
    parser.add_argument("--latency", type=float, metavar="US", help="of the link to predict for, in microseconds")
    parser.add_argument("--bandwidth", type=float, metavar="GBIT", help="of that link, in Gbit/s")
    _blocks(parser, iterations=5, rounds=10)
    parser.add_argument("--ray", action="store_true", help="also compare Ray Train with torchrun, on 2 workers")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the efficiencies; the run's name is added")


def _startup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ways", default=",".join(WAYS), help="to start (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=3, help="of each, after a warm-up (default: %(default)s)")


def _processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ways", default="local,ray", help="to start (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=3, help="of each (default: %(default)s)")
    other = "another checkout of the repository; starts alternate with its own"
    parser.add_argument("--against", type=Path, metavar="FOLDER", help=other)


def _saving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=10.0, help="between two checkpoints (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=20.0, help="of the storage, in MB/s (default: %(default)s)")
    parser.add_argument("--intervals", type=positive, default=3, help="per block (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=5, help="of one block of each way (default: %(default)s)")


def _evaluation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=positive, default=3, help="of one run per way each (default: %(default)s)")
    parser.add_argument("--periods", type=positive, default=4, help="of eval.every per run (default: %(default)s)")


def _variants(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variants", default=",".join(VARIANTS), help="first: the base (default: %(default)s)")
    _blocks(parser, iterations=5, rounds=10)


def _shards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shards", default="2,4,8", help="numbers to compare with none (default: %(default)s)")
    _blocks(parser, iterations=3, rounds=15)


def _live(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=positive, default=2, help="number of workers (default: %(default)s)")
    _blocks(parser, iterations=30, rounds=10)


_PARSERS = {
    "throughput": (
        "Measure training throughput next to hand-written loops with the same networks and batch, alternating in one\n"
        "process. A ratio above 1 means that ganscale is faster.",
        ",".join(PRESETS),
        _throughput,
    ),
    "flops": (
        "Count the operations of products and convolutions and the bytes reduced in one iteration, and compare\n"
        "them with the minimum for the loss (derived in benchmarks/speed/ideal.py). Nothing is timed.",
        ",".join(PRESETS),
        _flops,
    ),
    "phases": (
        "Show the time of each phase of an iteration: discriminator and generator (forward and backward), penalties,\n"
        "optimizers, data, moving average, statistics for the log. `scaling` measures communication.",
        ",".join(PRESETS),
        lambda parser: _blocks(parser, iterations=10, rounds=10),
    ),
    "evaluation": (
        "Train the same run without evaluation, with eval.mode=async and inline, alternating, and compare wall time\n"
        "and processor time of the training process per period of eval.every images.",
        "mlp",
        _evaluation,
    ),
    "scaling": (
        "Measure weak and strong scaling with torchrun on this machine, check the prediction from one worker and the\n"
        "link against it, and predict more workers. Alone and together alternate within each group of processes.",
        "dcgan32",
        _scaling,
    ),
    "growth": (
        "Act as one of many replicas, each with train.batch_size rows, and measure the cost of random numbers, the\n"
        "order of the images and the log. No other process is started.",
        "mlp",
        lambda parser: parser.add_argument(
            "--repetitions", type=positive, default=30, help="timings to take the median of (default: %(default)s)"
        ),
    ),
    "startup": (
        "Time real commands from their start to the end of the first iteration, each in a folder of its own.",
        "mlp",
        _startup,
    ),
    "processes": (
        "Start a run with Ray (`ray`) or in one process (`local`), and add up the processor time of each process\n"
        "until its first row; with Ray then kill a worker and add up until the next row (`restart`). Linux only.",
        "mlp",
        _processes,
    ),
    "shards": (
        "Train the same run without shards and with several numbers of them, alternating in one process, and compare\n"
        "processor time, which other programs do not affect.",
        ",".join(PRESETS),
        _shards,
    ),
    "live": (
        "Train the same run with and without what live recovery adds (a copy of the state and an all-reduce every few\n"
        "iterations, and at the end of a block), alternating in one group of processes.",
        ",".join(PRESETS),
        _live,
    ),
    "saving": (
        "Train without saving, with saving inline and with saving in a thread, in alternating blocks, on storage that\n"
        "is slowed down by sleeping while a state is written.",
        "mlp",
        _saving,
    ),
    "variants": (
        "Measure one run in several precisions and memory layouts, eager and compiled. All variants start from the\n"
        "same weights and images and alternate in one process; a ratio above 1 means faster than the first one.",
        "dcgan32",
        _variants,
    ),
}
