"""Averages of any width made of the snapshots of a few (Karras et al. 2024, EDM2, section 3.2 and appendix C).

An average weighs each update of the generator; those of the snapshots are combined so that their weights come nearest
to the wanted ones (Algorithm 3). Two things differ from the paper: inner products are sums over the run's updates, not
integrals, and the coefficients add up to 1, so that what all updates have in common is kept exactly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ganscale.config import ConfigError
from ganscale.config.schedules import exponent
from ganscale.storage.averages import Snapshot, SnapshotError, numbers, read, read_iteration
from ganscale.storage.store import Place

MAX_FIT = 0.03
"""Relative distance of the profiles up to which an average is given: the weights are then wrong by about 1e-3 at most
(docs/sampling.md)."""
WIDTHS = tuple(round(0.005 * step, 3) for step in range(1, 57))
"""That are tried where another one is refused, to name those that can be had."""
_CHUNK = 1 << 15
"""Updates that are summed over at a time."""


@dataclass(frozen=True)
class Average:
    """How an average was made.

    Attributes:
        width: standard deviation of its weights over the updates, relative to their number (sigma_rel).
        fit: relative distance of the combined weights of the updates from the wanted ones.
        num_snapshots: that it was made of, the checkpoint among them.
        kept: widths of the averages in the snapshots.
    """

    width: float
    fit: float
    num_snapshots: int
    kept: tuple[str, ...]

    def line(self) -> str:
        """For the user."""
        kept = ", ".join(self.kept)
        return f"average of width {self.width:g} from {self.num_snapshots} snapshots of {kept}: fit {self.fit:.2g}"


def profiles(widths: Sequence[float], ends: Sequence[int], start: int, stop: int) -> np.ndarray:
    """Weights that averages give to the updates `start` to `stop - 1`, from 1: float64 `[len(widths), stop - start]`.

    Update k of n has (k / n)^(g + 1) - ((k - 1) / n)^(g + 1), g the exponent of the average.

    Args:
        widths: of the averages.
        ends: n of each.
        start: first update.
        stop: update after the last.
    """
    powers = np.array([exponent(width) + 1.0 for width in widths])[:, None]
    updates, n = np.arange(start, stop, dtype=np.float64), np.array(ends, dtype=np.float64)[:, None]
    with np.errstate(divide="ignore"):
        weights = -np.expm1(powers * np.log1p(-1.0 / updates)) * np.minimum(updates / n, 1.0) ** powers
    return np.where(updates <= n, weights, 0.0)


def solve(
    widths: Sequence[float], ends: Sequence[int], wanted: Sequence[float], end: int
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients that make the average of each wanted width at `end` of others, and the fit of each.

    Args:
        widths: of the averages that are there.
        ends: updates in each, at most `end`.
        wanted: widths.
        end: updates in the wanted averages.

    Returns:
        Coefficients `[len(wanted), len(widths)]`, and relative distances of the weights `[len(wanted)]`.
    """
    num = len(widths)
    everything, limits = [*widths, *wanted], [*ends, *[end] * len(wanted)]
    gram = np.zeros((len(everything), len(everything)))
    for start in range(1, end + 1, _CHUNK):
        rows = profiles(everything, limits, start, min(start + _CHUNK, end + 1))
        gram += rows @ rows.T
    gram *= end  # of order 1
    bordered = np.ones((num + 1, num + 1))
    bordered[:num, :num], bordered[num, num] = gram[:num, :num], 0.0
    right = np.concatenate((gram[:num, num:], np.ones((1, len(wanted)))))
    found = np.linalg.lstsq(bordered, right, rcond=1e-13)[0][:num].T
    squared = np.einsum("ti,ij,tj->t", found, gram[:num, :num], found) - 2.0 * (found * gram[num:, :num]).sum(1)
    own = np.diagonal(gram)[num:]
    return found, np.sqrt(np.maximum(squared + own, 0.0) / own)


def reconstruct(folder: Place, images: int, newest: Snapshot, width: float) -> tuple[dict[str, Tensor], Average]:
    """The average of a width at a checkpoint.

    Args:
        folder: of the run's snapshots.
        images: of the checkpoint.
        newest: the averages in the checkpoint.
        width: of the wanted one.

    Returns:
        Parameters by name, and how they were made.

    Raises:
        ConfigError: the width cannot be had; the message names those that can. Or a snapshot is damaged.
        OSError: the storage fails.
    """
    earlier = [each for each in numbers(folder) if each < images]
    try:
        ends = [read_iteration(folder, each) for each in earlier] + [newest.iteration]
        kept = tuple(newest.averages)
        widths = [float(each) for each in kept] * len(ends)
        limits = [end for end in ends for _ in kept]
        known = WIDTHS[0] <= width <= WIDTHS[-1]
        found, fits = solve(widths, limits, [width if known else WIDTHS[0], *WIDTHS], newest.iteration)
        _check(width, float(fits[0]) if known else math.inf, fits[1:], len(ends), kept)
        total = {name: torch.zeros_like(each, dtype=torch.float64) for name, each in newest.averages[kept[0]].items()}
        for index, end in enumerate(ends):
            snapshot = newest if end == newest.iteration else read(folder, earlier[index])
            for number, part in enumerate(kept):
                share = float(found[0, index * len(kept) + number])
                for name, tensor in snapshot.averages[part].items():
                    total[name].add_(tensor, alpha=share)
    except SnapshotError as error:
        remedy = "remove the file, or restore it from a copy of the run"
        raise ConfigError(f"a snapshot is damaged: {error}", key="--ema", value=width, remedy=remedy) from None
    weights = {name: tensor.to(newest.averages[kept[0]][name].dtype) for name, tensor in total.items()}
    return weights, Average(width, float(fits[0]), len(ends), kept)


def _check(width: float, fit: float, fits: np.ndarray, num_snapshots: int, kept: tuple[str, ...]) -> None:
    """Refuse a width that the snapshots do not give."""
    if fit <= MAX_FIT:
        return
    good = [each for each, error in zip(WIDTHS, fits, strict=True) if error <= MAX_FIT]
    which = f"{good[0]:g} to {good[-1]:g}" if good else f"one of {', '.join(kept)}"
    problem = f"{num_snapshots} snapshots of {', '.join(kept)} do not give this width"
    remedy = f"use {which}; for others train with more widths in ema.profiles or a smaller ema.snapshot_every"
    raise ConfigError(problem, key="--ema", value=width, remedy=remedy)
