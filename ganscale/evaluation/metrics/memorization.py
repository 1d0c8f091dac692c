"""Memorization: whether samples lie nearer to the training pictures than held-out pictures do (Meehan et al. 2020).

Distances are Euclidean and computed in float64 in blocks of fixed size, as in `manifold`: no matrix has N x M entries,
and any number of replicas finds the same numbers.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from ganscale.evaluation.metrics.extractors import Observed
from ganscale.evaluation.metrics.scores import Reference, Setting, Value
from ganscale.parallel.collectives import Replica

_ALONE = Replica()
_BLOCK = 1024


def nearest_distances(
    examples: Tensor, training: Tensor, *, own: Tensor | None = None, replica: Replica = _ALONE
) -> Tensor:
    """Distance of each example to the nearest training example: float64 `[N]`.

    Args:
        examples: features `[N, D]`; every replica holds all of them.
        training: features `[M, D]`, of any type; likewise.
        own: for each example its own row of `training`, which does not count, int64 `[N]`; None: all rows count.
        replica: this process among those that share the training examples; all call together.
    """
    center = training.mean(0, dtype=torch.float64)
    nearest = torch.full((len(examples),), torch.inf, dtype=torch.float64, device=examples.device)
    for start in range(replica.rank * _BLOCK, len(training), replica.world_size * _BLOCK):
        block = training[start : start + _BLOCK].double() - center
        norms, rows = block.square().sum(1), torch.arange(start, start + len(block), device=block.device)
        for first in range(0, len(examples), _BLOCK):
            some = slice(first, first + _BLOCK)
            wanted = examples[some].double() - center
            order = torch.addmm(norms, wanted, block.T, alpha=-2.0)  # |x - y|^2 less |x|^2
            if own is not None:
                order[own[some].to(rows.device).unsqueeze(1) == rows] = torch.inf
            least, at = order.min(1)
            # Only the search may round: the distance of a copy is 0.
            found = (wanted - block[at]).norm(dim=1).where(least < torch.inf, torch.inf)
            nearest[some] = nearest[some].minimum(found)
    if replica.world_size > 1:
        dist.all_reduce(nearest, dist.ReduceOp.MIN)
    return nearest


def nearer_share(samples: Tensor, held_out: Tensor) -> tuple[float, float]:
    """Probability that a sample is nearer to the training set than a held-out example, and its standard error.

    It is U / (N M) of Mann and Whitney, where a tie counts half, and 1 - Delta of Meehan et al. 2020 (section 3), whose
    test of data-copying takes U. The error is that of DeLong et al. 1988 (Eq. 5); examples that were drawn twice, whose
    distances are equal, count once in it.

    Args:
        samples: distance of each to its nearest training example, `[N]`.
        held_out: likewise of held-out examples, `[M]`.
    """
    of_samples, of_held_out = _share_above(samples, held_out), 1.0 - _share_above(held_out, samples)
    variance = of_samples.var() / len(samples) + of_held_out.var() / len(held_out.unique())
    return float(of_samples.mean()), float(variance.sqrt())


def _share_above(values: Tensor, others: Tensor) -> Tensor:
    """For each value the share of the others that are greater; equal ones count half."""
    ordered, values = others.sort().values, values.contiguous()
    below = torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)
    return 1.0 - below.double() / (2 * len(others))


def memorization(reference: Reference, judged: Observed, setting: Setting) -> Value:
    """The probability of `nearer_share`: 1/2 for fresh examples of the data's distribution, 1 for copies.

    Args:
        reference: distances of held-out examples.
        judged: distances of the samples.
        setting: not used.
    """
    assert judged.nearest is not None, "the evaluator computes it for this metric"
    assert reference.nearest is not None, "likewise"
    return Value(*nearer_share(judged.nearest, reference.nearest))
