"""Exponential moving averages: of a network (Yazici et al. 2019), with its half-life in images, and of D's logits."""

import copy

import torch
from torch import Tensor, nn

from ganscale.parallel.collectives import sum_over_replicas


class MovingAverage:
    """A copy of `source` whose weights follow it slowly.

    Args:
        source: the network that is trained.
        half_life: images after which an old weight has half its influence; 0 copies the weights.
    """

    def __init__(self, source: nn.Module, half_life: float) -> None:
        self.module = copy.deepcopy(source).eval().requires_grad_(False)
        self.half_life = half_life
        self._pairs: tuple[list[Tensor], list[Tensor]] = (list(self.module.parameters()), list(source.parameters()))
        self._buffers: tuple[list[Tensor], list[Tensor]] = (list(self.module.buffers()), list(source.buffers()))

    @torch.no_grad()
    def update(self, images: int, half_life: float | None = None) -> None:
        """Move towards the source after an iteration of `images` images; buffers are copied.

        Args:
            images: of the iteration.
            half_life: in place of the initial one, where it follows a schedule.
        """
        half_life = self.half_life if half_life is None else half_life
        weight = 1.0 - 0.5 ** (images / half_life) if half_life else 1.0
        torch._foreach_lerp_(*self._pairs, weight)  # pyright: ignore[reportPrivateImportUsage]
        if self._buffers[0]:
            torch._foreach_copy_(*self._buffers)  # pyright: ignore[reportPrivateImportUsage]


class LogitAverages:
    """Moving averages of D's mean logits on real and fake examples over all replicas (Tseng et al. 2021, section 3.2).

    Args:
        decay: what an update leaves of the weight of the past.
        device: where they are kept.

    Attributes:
        totals: float64 `[3]`: both averages before the division by the weight of the updates so far, and that weight.
    """

    def __init__(self, decay: float = 0.99, device: torch.device | str = "cpu") -> None:
        self.decay = decay
        self.totals = torch.zeros(3, dtype=torch.float64, device=device)

    def means(self) -> tuple[Tensor, Tensor, Tensor]:
        """The averages of real and fake logits, and whether there are any: three `[]`; 0 before the first update."""
        real, fake, weight = self.totals
        some = weight.clamp_min(torch.finfo(torch.float64).tiny)
        return real / some, fake / some, weight > 0.0

    def update(self, sums: Tensor) -> None:
        """Move towards the means of a D update; a collective call.

        Args:
            sums: of real and of fake logits, and the rows, on this replica: float64 `[3]`.
        """
        total = sum_over_replicas([sums])[0]
        self.totals.lerp_(total / total[2], 1.0 - self.decay)
