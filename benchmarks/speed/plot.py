"""Plots measured and predicted scaling efficiencies."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.points import Point
from benchmarks.speed.predict import Prediction

COLORS = {"weak": "#1f5ab4", "strong": "#c8502d"}


def scaling_plot(points: Sequence[Point], predictions: Sequence[Prediction], path: Path) -> None:
    """Draw efficiency over the number of workers: medians with the range over rounds, and the predicted range.

    Args:
        points: measured.
        predictions: for weak scaling.
        path: of the PNG.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for mode, color in COLORS.items():
        chosen = [point for point in points if point.mode == mode]
        if chosen:
            middle = [point.efficiency.median for point in chosen]
            error = [
                [m - point.efficiency.min for m, point in zip(middle, chosen, strict=True)],
                [point.efficiency.max - m for m, point in zip(middle, chosen, strict=True)],
            ]
            workers = [point.workers for point in chosen]
            axes.errorbar(workers, middle, yerr=error, fmt="o", color=color, capsize=4, label=f"{mode}, measured")
    ordered = sorted(predictions, key=lambda p: p.workers)
    if ordered:
        low, high = ([p.compute / s for p, s in zip(ordered, each, strict=True)] for each in _seconds(ordered))
        numbers = [p.workers for p in ordered]
        axes.fill_between(numbers, low, high, color=COLORS["weak"], alpha=0.2, label="weak, predicted")
        axes.plot(numbers, low, color=COLORS["weak"], lw=1)
    axes.axhline(1.0, color="black", lw=0.6)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("workers")
    axes.set_ylabel("efficiency")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _seconds(predictions: Sequence[Prediction]) -> tuple[list[float], list[float]]:
    return [p.seconds for p in predictions], [p.at_best for p in predictions]
