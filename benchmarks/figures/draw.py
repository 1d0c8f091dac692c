"""Draws the README's figures from the recorded measurements."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

COLORS = ("#0072b2", "#d55e00", "#00795a", "#a3457f", "#8a6a00")
INK, QUIET = "#1b1f24", "#59636e"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.edgecolor": "#b8c0cc",
    "axes.labelcolor": QUIET,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "svg.hashsalt": "ganscale",
}
DPI = 140
THOUSANDS = FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value else "0")


RECORD = "record-sha256"
"""Of a PNG's texts: the hash of what it was drawn from."""


def digest(record: object) -> str:
    """SHA-256 of what a figure shows, as JSON.

    Args:
        record: JSON-compatible values.
    """
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def save(figure: Figure, path: Path, record: object) -> None:
    """Write a PNG whose bytes depend on the figure, its record and the version of matplotlib alone.

    Args:
        figure: to write.
        path: of the file.
        record: what it shows; its `digest` is in the PNG.
    """
    figure.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": None, RECORD: digest(record)})


def worlds(found: Mapping[str, Any], path: Path) -> None:
    """Two panels: the curves of ganscale on 1 to 5 workers, and those of the usual loop.

    Args:
        found: as `measure.worlds` returns.
        path: of the PNG.
    """
    with rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        figure = Figure(figsize=(9.6, 3.9), layout="constrained")
        panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
        same = len(set(found["sha256"].values())) == 1
        titles = ("ganscale", "the usual loop")
        notes = (
            f"weights on 1 to 5 workers: {'one' if same else len(set(found['sha256'].values()))} SHA-256",
            "per-rank seeds, shards and batch norm",
        )
        for axes, kind, title, note in zip(panels, ("ganscale", "usual"), titles, notes, strict=True):
            for place, (workers, curve) in enumerate(found[kind].items()):
                images, values = zip(*curve, strict=True)
                width = 9.5 - 1.9 * place if kind == "ganscale" else 1.8
                label = f"{workers} worker{'s' * (int(workers) > 1)}"
                axes.plot(images, values, color=COLORS[place], lw=width, label=label, solid_capstyle="round")
            axes.text(0.0, 1.005, note, transform=axes.transAxes, color=QUIET, fontsize=9.5, va="bottom")
            axes.set_title(title, pad=20)
            axes.set_xlabel("images shown to the discriminator")
            axes.xaxis.set_major_formatter(THOUSANDS)
            axes.grid(axis="y", color="#e3e7ec", lw=0.8)
        panels[0].set_ylabel("discriminator's loss")
        panels[1].legend(frameon=False, fontsize=9.5)
        save(figure, path, found)


def faults(found: Mapping[str, Any], path: Path) -> None:
    """The loss of a run that is killed and grown over the undisturbed one's, and below it the number of workers.

    Args:
        found: as `measure.faults` returns.
        path: of the PNG.
    """
    with rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        figure = Figure(figsize=(9.6, 4.4), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        images, losses = zip(*found["undisturbed"], strict=True)
        above.plot(images, losses, color="#b9c4d0", lw=7, label="one worker, undisturbed", solid_capstyle="round")
        images, losses = zip(*found["disturbed"], strict=True)
        above.plot(images, losses, color=COLORS[1], lw=1.6, label="killed, resumed, grown")
        (_, first), (resumed, second), (grown, third) = found["attempts"]
        above.axvline(found["killed"], color=COLORS[3], lw=1.2, ls="--")
        above.axvline(grown, color=COLORS[2], lw=1.2, ls="--")
        low, high = above.get_ylim()
        top = high + 0.08 * (high - low)
        above.set_ylim(low, top)
        above.text(found["killed"], top, " both workers killed", color=COLORS[3], va="top", fontsize=9.5)
        above.text(grown, top, " stopped, three workers", color=COLORS[2], va="top", fontsize=9.5)
        above.set_ylabel("discriminator's loss")
        above.grid(axis="y", color="#e3e7ec", lw=0.8)
        above.legend(frameon=False, fontsize=9.5, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))
        steps = [0, found["killed"], found["killed"], grown, grown, images[-1]]
        numbers = [first, first, second, second, third, third]
        below.fill_between(steps, numbers, color=COLORS[0], alpha=0.25, lw=0)
        below.plot(steps, numbers, color=COLORS[0], lw=1.4)
        below.set(ylabel="workers", xlabel="images shown to the discriminator", ylim=(0, 3.6), yticks=(0, 1, 2, 3))
        below.xaxis.set_major_formatter(THOUSANDS)
        above.set_title("A run that is killed, resumed on one worker and grown to three", pad=30)
        same = len(set(found["sha256"].values())) == 1
        note = f"resumed at {resumed:,} images; last states: {'one SHA-256' if same else 'different'}"
        above.text(0.0, 1.04, note, transform=above.transAxes, color=QUIET, fontsize=9.5, va="bottom")
        save(figure, path, found)


def success_table(page: str) -> list[tuple[str, int, int, float, float]]:
    """Objective, runs that succeeded, runs, and the interval's ends: the first table of docs/stability.md.

    Args:
        page: its text.

    Raises:
        ValueError: the table is not there.
    """
    rows = re.findall(r"^\| ([^|]+) \| (\d+) of (\d+) \| [\d.]+ \| ([\d.]+) to ([\d.]+) \|", page, flags=re.MULTILINE)
    table = page.partition("## Random architectures")[0]
    found = [(n, int(a), int(b), float(c), float(d)) for n, a, b, c, d in rows if f"| {n} | {a} of {b} |" in table]
    if not found:
        raise ValueError("docs/stability.md has no table of successes")
    return found


def success(page: str, path: Path) -> None:
    """Share of runs over random settings that succeed, by objective, with its interval.

    Args:
        page: text of docs/stability.md.
        path: of the PNG.
    """
    table = success_table(page)[::-1]
    with rc_context(STYLE):  # pyright: ignore[reportArgumentType]
        figure = Figure(figsize=(9.6, 2.7), layout="constrained")
        axes = figure.subplots()
        for place, (_, successes, runs, low, high) in enumerate(table):
            axes.barh(place, successes / runs, color=COLORS[0], alpha=0.85, height=0.6)
            axes.plot((low, high), (place, place), color=INK, lw=1.4)
            axes.text(min(high + 0.015, 0.93), place, f"{successes} of {runs}", va="center", fontsize=9.5, color=QUIET)
        axes.set_yticks(range(len(table)), [name for name, *_ in table])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set(xlim=(0, 1), xlabel="share of runs that reach a Fréchet distance of 60, with 95 % interval")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.grid(axis="x", color="#e3e7ec", lw=0.8)
        axes.set_axisbelow(True)
        axes.set_title("Eight random settings, three seeds each: which objective trains?")
        save(figure, path, table[::-1])
