"""How much of the difference between configurations each setting explains, and how much chance alone would."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganscale.sweep.space import Parameter
from ganscale.sweep.table import Entry

BINS = 3
"""A range is cut into so many parts with equally many configurations."""
PERMUTATIONS = 1000


@dataclass(frozen=True)
class Importance:
    """One setting's part.

    Attributes:
        name: of the setting.
        explained: share of the variance of the scores' ranks that lies between its values (eta squared), in [0, 1].
        by_chance: what 95 % of random assignments of the values stay below.
        p: share of random assignments that explain at least as much.
    """

    name: str
    explained: float
    by_chance: float
    p: float

    def as_json(self) -> dict[str, Any]:
        """Plain mappings."""
        return dict(self.__dict__)


def importances(entries: Sequence[Entry], parameters: Sequence[Parameter], *, seed: int = 0) -> list[Importance]:
    """Settings by what they explain of the ranks of the scores, the most important first.

    It is a one-way analysis of variance of ranks (Kruskal and Wallis 1952) with a permutation test: no interactions, no
    causes where settings were not drawn independently. Configurations to which a setting does not apply are left out of
    its row.

    Args:
        entries: complete configurations; with population-based training values are the last ones.
        parameters: of the space.
        seed: of the permutations.
    """
    found = []
    for parameter in parameters:
        own = [entry for entry in entries if parameter.name in entry.drawn]
        groups = _groups(own, parameter)
        if len(own) < 4 or len(np.unique(groups)) < 2:
            continue
        ranks = _ranks(np.array([entry.standing.score for entry in own]))
        explained = _eta_squared(ranks, groups)
        generator = np.random.default_rng(seed)
        chance = np.array([_eta_squared(ranks, generator.permutation(groups)) for _ in range(PERMUTATIONS)])
        p = (1 + int((chance >= explained - 1e-12).sum())) / (1 + PERMUTATIONS)
        found.append(Importance(parameter.name, explained, float(np.quantile(chance, 0.95)), p))
    return sorted(found, key=lambda importance: -importance.explained)


def _groups(entries: Sequence[Entry], parameter: Parameter) -> np.ndarray:
    """A number for each entry's value: of the option, or of the part of the range: `[N]`."""
    values = [entry.drawn[parameter.name] for entry in entries]
    if not parameter.is_number:
        return np.array([parameter.options.index(value) for value in values], dtype=int)
    if not values:
        return np.zeros(0, dtype=int)
    edges = np.quantile(np.array(values, dtype=float), np.linspace(0, 1, BINS + 1)[1:-1])
    return np.searchsorted(edges, np.array(values, dtype=float), side="left")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing their mean: `[N]`."""
    below = (values[None, :] < values[:, None]).sum(1)
    same = (values[None, :] == values[:, None]).sum(1)
    return below + (same - 1) / 2.0


def _eta_squared(ranks: np.ndarray, groups: np.ndarray) -> float:
    total = ((ranks - ranks.mean()) ** 2).sum()
    if total == 0:
        return 0.0
    between = sum(
        (groups == group).sum() * (ranks[groups == group].mean() - ranks.mean()) ** 2 for group in np.unique(groups)
    )
    return float(between / total)
