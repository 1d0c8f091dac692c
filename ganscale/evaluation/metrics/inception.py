"""Inception Score (Salimans et al. 2016, section 4) of class probabilities."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ganscale.evaluation.metrics.checks import check_features, check_probabilities


@dataclass(frozen=True)
class Score:
    """An Inception Score, in [1, number of classes]; higher is better.

    Attributes:
        mean: over the splits.
        std: over the splits, with their number in the denominator, as the paper's code has it.
    """

    mean: float
    std: float


def inception_score(probabilities: Tensor, *, splits: int = 10) -> Score:
    """exp(E_x KL(p(y|x) || p(y))) on each of `splits` runs of consecutive samples.

    Computed as exp(H(mean p) - mean H(p)), where probabilities of 0 need no care. The samples are split as they come:
    shuffle them first if their order means something.

    Args:
        probabilities: p(y|x) of each sample, rows that add up to 1: `[N, K]`, N >= splits.
        splits: at least 1.

    Raises:
        ValueError: empty, wrong shape, not probabilities, or fewer samples than splits.
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, not {splits}")
    check_features("probabilities", probabilities, at_least=splits, reason=f"a score of {splits} splits")
    check_probabilities("probabilities", probabilities)
    count = len(probabilities)
    scores = []
    for split in range(splits):
        part = probabilities[split * count // splits : (split + 1) * count // splits].double()
        conditional = torch.special.entr(part).sum(1).mean()
        scores.append((torch.special.entr(part.mean(0)).sum() - conditional).exp())
    stacked = torch.stack(scores)
    return Score(float(stacked.mean()), float(stacked.std(correction=0)))
