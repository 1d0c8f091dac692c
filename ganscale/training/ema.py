"""Exponential moving average of a network (Yazici et al. 2019), with its half-life in images."""

import copy

import torch
from torch import Tensor, nn


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
