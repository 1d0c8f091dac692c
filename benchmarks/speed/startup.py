"""`python -m benchmarks.speed startup`: time from the command to the first training step, by stage."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.command import changed, configs_of, markdown, names_of, write_json
from benchmarks.speed.launching import run_command
from benchmarks.speed.marks import MARKS, read_marks
from ganscale.config import Config, dump

TRAIN = ("-m", "ganscale.train")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@dataclass(frozen=True)
class Way:
    """A command to time.

    Attributes:
        command: words after the interpreter; `{config}` is replaced by the path of the config.
        marked: whether it trains; otherwise only its total time is measured.
    """

    command: tuple[str, ...]
    marked: bool = True


WAYS: dict[str, Way] = {
    "help": Way((*TRAIN, "--help"), marked=False),
    "dry-run": Way((*TRAIN, "{config}", "--dry-run"), marked=False),
    "local": Way((*TRAIN, "{config}", "--launcher", "local", "cluster.num_workers=1")),
    "torchrun": Way((*TORCHRUN, *TRAIN, "{config}", "--launcher", "torchrun", "cluster.num_workers=2")),
    "ray": Way((*TRAIN, "{config}", "--launcher", "ray", "cluster.num_workers=2", "cluster.address=local")),
}
"""torchrun and Ray start two workers."""


@dataclass(frozen=True)
class Start:
    """Times of one start.

    Attributes:
        way: of `WAYS`.
        total: seconds to the end of the first iteration, or to that of a command that does not train.
        parts: seconds of each stage, by the mark at its end (`marks.MARKS`); they add up to `total`.
    """

    way: str
    total: float
    parts: dict[str, float]


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: of `parsers`.

    Returns:
        The exit code.
    """
    ways = names_of(options.ways, list(WAYS), key="--ways")
    report: dict[str, Any] = {}
    for title, config in configs_of(options).items():
        found = []
        for way in ways:
            starts = [start(config, way) for _ in range(options.rounds + 1)][1:]
            found.append(sorted(starts, key=lambda each: each.total)[len(starts) // 2])
            print(f"{title}, {way}: {found[-1].total:.2f} s", flush=True)
        print(f"\n{table(found)}")
        report[title] = [asdict(each) for each in found]
    write_json(options.json, {"cpus": os.cpu_count(), "startup": report})
    return 0


def start(config: Config, way: str, *, timeout: float = 300.0) -> Start:
    """Time one start.

    Args:
        config: of the run.
        way: of `WAYS`.
        timeout: seconds.

    Raises:
        BenchError: the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file, marks = Path(folder) / "run.yaml", Path(folder) / "marks"
        file.write_text(dump(_short(config, folder)), encoding="utf-8")
        command = [sys.executable, *(word.format(config=file) for word in WAYS[way].command)]
        marks.mkdir()
        if WAYS[way].marked:
            command[command.index("ganscale.train")] = "benchmarks.speed.marks"
        began = time.time()
        run_command(command, os.environ | {"GANSCALE_MARKS": str(marks)}, timeout)
        if not WAYS[way].marked:
            return Start(way, time.time() - began, {})
        return divide(way, began, read_marks(marks))


def divide(way: str, began: float, marks: Mapping[str, float]) -> Start:
    """Divide the time at the marks.

    Args:
        way: of `WAYS`.
        began: time of the start, in seconds since the epoch.
        marks: times of `marks.read_marks`.
    """
    parts, before = {}, began
    for name in MARKS:
        if name in marks:
            parts[name] = marks[name] - before
            before = marks[name]
    return Start(way, before - began, parts)


def _short(config: Config, folder: str) -> Config:
    """The run, shortened to one iteration without evaluation and W&B."""
    images = config.train.batch_size * config.optim.d_steps
    return changed(config, train={"images": images}, eval={"every": 0}, run={"dir": folder}, wandb={"mode": "disabled"})


def table(starts: Sequence[Start]) -> str:
    """Format the starts as a Markdown table.

    Args:
        starts: one per way.
    """
    rows: list[Sequence[str]] = [("start", "total, s", *MARKS)]
    for each in starts:
        rows.append(
            (each.way, f"{each.total:.2f}", *(f"{each.parts[m]:.2f}" if m in each.parts else "" for m in MARKS))
        )
    return markdown(rows)
