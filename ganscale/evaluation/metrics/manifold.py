"""Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) of features.

All four ask which samples of one set lie in the balls around the samples of the other, where a sample's ball reaches to
its k-th nearest neighbor in its own set. Balls are closed. Distances are computed in float64 in blocks of fixed size:
no matrix ever has N x N entries, and blocks do not depend on which replica computes them, so that replicas, which add
up only whole numbers and each other's radii, arrive at exactly what one alone does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ganscale.evaluation.metrics.checks import check_pair
from ganscale.parallel.collectives import Replica, all_reduce_sum

_ALONE = Replica()
_BLOCK = 1024


@dataclass(frozen=True)
class ManifoldScores:
    """How the fake samples lie among the real ones and the other way round; all in [0, 1] but density, in [0, N / k].

    Attributes:
        precision: share of the fakes in the ball of some real sample.
        recall: share of the real samples in the ball of some fake.
        density: mean over fakes of how many real samples' balls hold it, over k; about 1 for equal distributions.
        coverage: share of the real samples whose ball holds a fake.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(
    real: Tensor, fake: Tensor, *, precision_k: int = 3, density_k: int = 5, replica: Replica = _ALONE
) -> ManifoldScores:
    """All four scores with one pass over the distances: `precision_k` for the first two, `density_k` for the others.

    Args:
        real: features `[N, D]`, N > k; every replica holds all of them.
        fake: features `[M, D]`, M > k; likewise.
        precision_k: neighbor that the balls of precision and recall reach to, at least 1.
        density_k: neighbor that the balls of density and coverage reach to, at least 1.
        replica: this process among those that compute together.

    Raises:
        ValueError: too few samples for k, wrong shapes, or features that are not finite.
    """
    ks = (precision_k, density_k)
    if min(ks) < 1:
        raise ValueError(f"k must be at least 1, not {min(ks)}")
    check_pair(real, fake, at_least=max(ks) + 1, reason=f"a radius to neighbor {max(ks)}")
    center = real.mean(0, dtype=torch.float64)
    reals, fakes = _Points(real, center), _Points(fake, center)
    precise, recalled, in_balls, covered = _count(
        reals, fakes, _squared_radii(reals, ks, replica), _squared_radii(fakes, (precision_k,), replica), replica
    )
    return ManifoldScores(
        precision=precise / len(fake),
        recall=recalled / len(real),
        density=in_balls / (density_k * len(fake)),
        coverage=covered / len(real),
    )


class _Points:
    """Features in float64 with the real samples' mean subtracted, made block by block."""

    def __init__(self, features: Tensor, center: Tensor) -> None:
        self._features = features
        self._center = center
        self.slices = [slice(start, start + _BLOCK) for start in range(0, len(features), _BLOCK)]
        self.norms = torch.cat([self[rows].square().sum(1) for rows in self.slices])

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, rows: slice) -> Tensor:
        return self._features[rows].double() - self._center

    def share(self, replica: Replica) -> list[slice]:
        """The blocks of rows that a replica takes."""
        return self.slices[replica.rank :: replica.world_size]


def _distances(rows: Tensor, points: _Points, row_norms: Tensor, norms: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """|x - y|^2 = |x|^2 + |y|^2 - 2 x.y between `rows` and each block of `points`: `[B, B]`."""
    for columns in points.slices:
        yield columns, torch.addmm(norms[columns], rows, points[columns].T, alpha=-2.0).add_(row_norms[:, None])


def _squared_radii(points: _Points, ks: tuple[int, ...], replica: Replica) -> Tensor:
    """Squared distance of each point to its k-th nearest other point, for each of `ks`: `[N, len(ks)]`."""
    nearest = max(ks) + 1  # the point itself comes first
    radii = points.norms.new_zeros(len(points), len(ks))
    for block in points.share(replica):
        best = points.norms.new_empty(len(points.norms[block]), 0)
        for _, distances in _distances(points[block], points, points.norms[block], points.norms):
            candidates = distances.topk(min(nearest, distances.shape[1]), largest=False).values
            together = torch.cat((best, candidates), dim=1)
            best = together.topk(min(nearest, together.shape[1]), largest=False).values
        radii[block] = best[:, list(ks)]
    return all_reduce_sum(radii) if replica.world_size > 1 else radii


def _count(
    reals: _Points, fakes: _Points, real_radii: Tensor, fake_radii: Tensor, replica: Replica
) -> tuple[int, int, int, int]:
    """Fakes in a real ball, real samples in a fake ball, pairs of a fake in a real ball, real balls with a fake.

    The first two by the radii's first columns, the others by `real_radii`'s second. A sample on a ball's surface, as
    among copies and pixels it may well be, must not fall in or out by rounding: norms are shrunk by the error that a
    dot product of D numbers can have (Higham 2002, Eq. 3.5), so that every distance is taken for its lower bound.
    """
    shrink = 1.0 - 4.0 * (reals[:1].shape[1] + 4) * torch.finfo(torch.float64).eps
    row_norms, norms = reals.norms * shrink, fakes.norms * shrink
    precise = torch.zeros(len(fakes), dtype=torch.int64, device=norms.device)
    totals = torch.zeros(3, dtype=torch.int64, device=norms.device)
    for block in reals.share(replica):
        small, large = real_radii[block, :1], real_radii[block, 1:]
        recalled, covered = torch.zeros(2, len(small), dtype=torch.bool, device=norms.device).unbind()
        for columns, distances in _distances(reals[block], fakes, row_norms[block], norms):
            precise[columns] += (distances <= small).any(0)
            recalled |= (distances <= fake_radii[columns, 0]).any(1)
            inside = distances <= large
            covered |= inside.any(1)
            totals[1] += inside.count_nonzero()
        totals[0] += recalled.count_nonzero()
        totals[2] += covered.count_nonzero()
    if replica.world_size > 1:
        precise, totals = all_reduce_sum(precise), all_reduce_sum(totals)
    recalls, in_balls, covers = totals.tolist()
    return int(precise.count_nonzero()), recalls, in_balls, covers
