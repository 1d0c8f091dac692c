"""What the bench's commands share: which runs they measure, on what, and where the figures go."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ganscale.config import Config, ConfigError, load, parse

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
    "flops": "operations and gradient bytes of an iteration over the least possible",
    "phases": "what an iteration's time goes into, percentiles, model FLOP utilization",
    "scaling": "weak and strong scaling over workers, and the prediction for more of them and a link",
    "growth": "what random numbers, sampler and log cost a replica in worlds of up to 1,024",
    "startup": "seconds from the command to the first training step, broken down",
    "variants": "bf16, channels_last and torch.compile beside float32 eager, in turn",
}
"""What can be measured; each is a module of this package with a `main`."""


class BenchError(RuntimeError):
    """A process that was measured failed; the message has its last words."""


def make_parser(command: str, description: str, *, presets: str = ",".join(PRESETS)) -> argparse.ArgumentParser:
    """A parser with the options that all commands have.

    Args:
        command: its name.
        description: what it measures.
        presets: what it measures unless told.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.speed {command}",
        description=description,
        epilog=_epilog() if command == "throughput" else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, help="YAML file of the run to measure; without it, --presets")
    parser.add_argument("--presets", default=presets, help="which runs to measure (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures there")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of every run measured")
    return parser


def add_blocks(parser: argparse.ArgumentParser, *, iterations: int, rounds: int) -> None:
    """Options of a command that measures in blocks that take turns.

    Args:
        parser: the command's.
        iterations: of a block unless told.
        rounds: of blocks unless told.
    """
    parser.add_argument("--iterations", type=positive, default=iterations, help="per block (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=rounds, help="of one block each (default: %(default)s)")


def _epilog() -> str:
    width = max(map(len, COMMANDS))
    return "commands, each with a --help of its own:\n" + "\n".join(
        f"  {name.ljust(width)}  {what}" for name, what in COMMANDS.items()
    )


def positive(text: str) -> int:
    """A whole number from 1."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def configs_of(options: argparse.Namespace) -> dict[str, Config]:
    """The runs to measure, by title.

    Raises:
        ConfigError: a preset or a setting is unknown.
    """
    if options.config:
        return {options.config.stem: load(options.config, options.overrides)}
    return {
        name: load(None, [*PRESETS[name], *options.overrides])
        for name in names_of(options.presets, list(PRESETS), key="--presets")
    }


def names_of(text: str, known: Sequence[str], *, key: str) -> list[str]:
    """The names in a list with commas.

    Raises:
        ConfigError: one is not known.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise ConfigError("unknown name", key=key, value=name, remedy=f"choose from {', '.join(known)}")
    return names


def changed(config: Config, **sections: Mapping[str, Any]) -> Config:
    """The run with other settings: keys and values by section.

    Raises:
        ConfigError: they do not fit.
    """
    plain = config.model_dump(mode="json")
    return parse(plain | {name: plain[name] | dict(settings) for name, settings in sections.items()})


def device_of(config: Config) -> torch.device:
    """Where a run is measured."""
    if config.train.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.train.device)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first row is its head, with columns of even width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def write_json(path: Path | None, report: Mapping[str, Any]) -> None:
    """Write the figures, if a file is named."""
    if path:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
