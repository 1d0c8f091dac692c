"""Shared by the commands: runs to measure, device, tables, JSON output."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.speed.parsers import PRESETS
from ganscale.config import Config, ConfigError, load, parse

if TYPE_CHECKING:
    from benchmarks.speed.measure import Result


class BenchError(RuntimeError):
    """A measured process failed; the message has the end of its output."""


def configs_of(options: argparse.Namespace) -> dict[str, Config]:
    """The runs to measure, by title.

    Args:
        options: of `parsers`.

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
    """Split a comma-separated list of names.

    Args:
        text: the list.
        known: valid names.
        key: of the option, for the error.

    Raises:
        ConfigError: a name is unknown.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise ConfigError("unknown name", key=key, value=name, remedy=f"choose from {', '.join(known)}")
    return names


def changed(config: Config, **sections: Mapping[str, Any]) -> Config:
    """A copy of a run's config with changed settings.

    Args:
        config: of the run.
        sections: changed keys and values by section.

    Raises:
        ConfigError: the result is invalid.
    """
    plain = config.model_dump(mode="json")
    return parse(plain | {name: plain[name] | dict(settings) for name, settings in sections.items()})


def device_of(config: Config) -> torch.device:
    """The device to measure a run on.

    Args:
        config: of the run.
    """
    if config.train.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.train.device)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table with columns of even width.

    Args:
        rows: cells; the first row is the header.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def ratio_table(header: Sequence[str], results: Sequence["Result"], *, low: str = "min", high: str = "max") -> str:
    """Format results as a Markdown table: name, milliseconds, and the ratio to the first with a range.

    Args:
        header: titles of the three columns.
        results: of `measure.summarize`.
        low: quantile of `measure.Spread` at which the range begins.
        high: quantile at which it ends.
    """
    rows = [tuple(header)]
    for each in results:
        ratio, spread = "", each.ratio
        if spread is not None:
            ratio = f"{spread.median:.3f} [{getattr(spread, low):.3f}..{getattr(spread, high):.3f}]"
        rows.append((each.name, f"{each.milliseconds.median:.2f}", ratio))
    return markdown(rows)


def write_json(path: Path | None, report: Mapping[str, Any]) -> None:
    """Write the figures as JSON.

    Args:
        path: of the file; None writes nothing.
        report: the figures.
    """
    if path:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
