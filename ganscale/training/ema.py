"""Moving averages: of a network, exponential or by power functions of the run's length, and of D's logits."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ganscale.config.schedules import exponent
from ganscale.parallel.collectives import sum_over_replicas


class MovingAverage:
    """A copy of `source` whose weights follow it slowly (Yazici et al. 2019).

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


class PowerAverages:
    """Averages of a network's weights over its updates, n of them so far, update k weighted by k^(g+1) - (k-1)^(g+1).

    In the limit these are the power functions of exponent g of Karras et al. 2024 (EDM2, Eqs. 121 and 127), from which
    `ganscale.inference.averages` reconstructs others.

    Args:
        source: the network that is trained.
        widths: standard deviation of each average's weights over the updates, relative to n (sigma_rel).

    Attributes:
        weights: of each average, by the parameter's name.
    """

    def __init__(self, source: nn.Module, widths: Sequence[float]) -> None:
        self.widths = tuple(widths)
        self._source = [parameter.detach() for parameter in source.parameters()]
        names = [name for name, _ in source.named_parameters()]
        self.weights = [dict(zip(names, map(torch.clone, self._source), strict=True)) for _ in self.widths]

    def update(self, iteration: int) -> None:
        """Move towards the source after an update.

        Args:
            iteration: number of the update, from 1.
        """
        for width, weights in zip(self.widths, self.weights, strict=True):
            share = 1.0 - (1.0 - 1.0 / iteration) ** (exponent(width) + 1.0)
            torch._foreach_lerp_(list(weights.values()), self._source, share)  # pyright: ignore[reportPrivateImportUsage]

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The averages by their width as a text."""
        return {f"{width:g}": weights for width, weights in zip(self.widths, self.weights, strict=True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load all of them, in place.

        Args:
            state: of `state_dict`.

        Raises:
            KeyError: it has other widths or parameters.
        """
        for width, weights in self.state_dict().items():
            for name, tensor in weights.items():
                tensor.copy_(state[width][name])
