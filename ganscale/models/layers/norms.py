"""Normalizations by name, the exact cross-replica batch norm and class-conditional scales and shifts among them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ganscale.models.layers.batch_statistics import normalize
from ganscale.models.layers.precision import upcast
from ganscale.parallel.collectives import num_replicas


class _Statistics(Protocol):
    update_statistics: bool


class BatchNorm(nn.Module):
    """Batch normalization over the images of *all* replicas (Ioffe and Szegedy 2015, Algorithm 1).

    Sum, sum of squares and count go through one all-reduce that is differentiable twice, so N replicas compute what one
    would, gradient penalties included, on CPU and GPU. (`torch.nn.SyncBatchNorm` refuses CPU tensors and has no double
    backward.) Alone it is the same mathematics by torch's own kernel.

    Args:
        num_features: channels C of inputs `[N, C]` or `[N, C, H, W]`.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
        across_replicas: False for statistics of this replica's own rows only.
        affine: False for no scale and shift.

    Attributes:
        frozen: whether the running statistics stay as they are for good (`model.freeze_d`).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        across_replicas: bool = True,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.across_replicas = across_replicas
        self.update_statistics, self.frozen = True, False
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `[N, C, ...]` per channel; in eval mode with the running statistics."""
        if not self.training:
            return self._native(x, self.running_mean, self.running_var)
        if x.numel() == x.shape[1] or (self.across_replicas and num_replicas() > 1):
            return self._by_sums(x)  # also for one row, where torch would make the running variance infinite
        if self.update_statistics:
            return self._native(x, self.running_mean, self.running_var)
        return self._native(x, None, None)

    def _native(self, x: Tensor, mean: Tensor | None, variance: Tensor | None) -> Tensor:
        """torch's kernel, differentiable twice; in training it updates the running statistics that it is given."""
        arguments = (self.training, self.momentum, self.eps, torch.backends.cudnn.enabled)
        return torch.batch_norm(x, self.weight, self.bias, mean, variance, *arguments)

    def _by_sums(self, x: Tensor) -> Tensor:
        shift = self.running_mean.clone()
        y, moments = normalize(x, self.weight, self.bias, shift, self.eps, across_replicas=self.across_replicas)
        if self.update_statistics:
            with torch.no_grad():
                unbiased = moments.variance * (moments.rows / (moments.rows - 1.0).clamp_min(1.0))
                self.running_mean.lerp_(moments.mean, self.momentum)
                self.running_var.lerp_(unbiased, self.momentum)
        return y

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        size, replicas = self.running_mean.numel(), self.across_replicas
        return f"{size}, eps={self.eps}, momentum={self.momentum}, across_replicas={replicas}"


class LayerNorm(nn.Module):
    """Layer normalization over all but the first dimension, with a scale and shift per channel (Ba et al. 2016).

    Args:
        num_features: channels C of inputs `[N, C, ...]`.
        eps: added to the variance.
        affine: whether there are a scale and a shift.
    """

    def __init__(self, num_features: int, *, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, num_features, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each row of `[N, C, ...]`."""
        return self.norm(x)


class PixelNorm(nn.Module):
    """Divide by the root mean square over the channels, at each pixel (Karras et al. 2018, section 4.2).

    Args:
        eps: added to the mean square.
    """

    def __init__(self, *, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `[N, C, ...]` over C."""
        wide = upcast(x)
        return (wide * (wide.square().mean(1, keepdim=True) + self.eps).rsqrt()).to(x.dtype)


class ConditionalNorm(nn.Module):
    """A normalization whose scale and shift depend on the class (Dumoulin et al. 2017, Eq. 5), at first 1 and 0.

    Args:
        norm: the normalization, without scale and shift of its own.
        num_features: channels C of inputs `[N, C, ...]`.
        num_classes: of the labels.
    """

    takes_labels = True

    def __init__(self, norm: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.norm = norm
        self.weight = nn.Parameter(torch.ones(num_classes, num_features))
        self.bias = nn.Parameter(torch.zeros(num_classes, num_features))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Normalize `[N, C, ...]`, scaled and shifted by the classes `[N]`."""
        return _scaled(self.norm(x), embedding(labels, self.weight), embedding(labels, self.bias))


class LinearConditionalNorm(nn.Module):
    """A normalization whose scale 1 + A c and shift B c are linear in a condition c (Brock et al. 2019, appendix B).

    Args:
        norm: the normalization, without scale and shift of its own.
        num_features: channels C of inputs `[N, C, ...]`.
        condition_dim: length of c.
    """

    takes_labels = True

    def __init__(self, norm: nn.Module, num_features: int, condition_dim: int) -> None:
        super().__init__()
        self.norm = norm
        self.scale = nn.Linear(condition_dim, num_features, bias=False)
        self.shift = nn.Linear(condition_dim, num_features, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Normalize `[N, C, ...]`, scaled and shifted by conditions `[N, condition_dim]`."""
        return _scaled(self.norm(x), 1.0 + self.scale(condition), self.shift(condition))


def _scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x * scale + shift of `[N, C, ...]` with a scale and a shift `[N, C]` of each row."""
    shape = (*x.shape[:2],) + (1,) * (x.dim() - 2)
    return torch.addcmul(shift.to(x.dtype).view(shape), x, scale.to(x.dtype).view(shape))


def _group_norm(num_features: int, *, affine: bool = True) -> nn.Module:
    """Groups of 16 channels, or the next larger divisor (Wu and He 2018, Table 3)."""
    groups = max(g for g in range(1, num_features + 1) if num_features % g == 0 and (g == 1 or num_features // g >= 16))
    return nn.GroupNorm(groups, num_features, affine=affine)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "none": lambda _, affine=True: nn.Identity(),
    "batch": BatchNorm,
    "local_batch": partial(BatchNorm, across_replicas=False),
    "group": _group_norm,
    "layer": LayerNorm,
    "instance": lambda num_features, affine=True: nn.GroupNorm(num_features, num_features, affine=affine),
    "pixel": lambda _, affine=True: PixelNorm(),
}
"""Name to a function of the number of channels and `affine`: with scale and shift or not (none and pixel: never)."""


CENTERING = frozenset({"batch", "local_batch", "instance"})
"""Norms that remove each channel's mean. A bias before one has no gradient but rounding noise, which Adam would turn
into drift that differs from world to world: leave it out."""


def make_norm(name: str, num_features: int, num_classes: int = 0, condition_dim: int = 0) -> nn.Module:
    """The normalization `name` for `[N, C, ...]`; with classes or conditions, one whose scale and shift depend on them.

    Args:
        name: as in the config.
        num_features: C.
        num_classes: of the labels; 0 for none.
        condition_dim: length of the conditions that take the labels' place; 0 for none.
    """
    if condition_dim:
        return LinearConditionalNorm(NORMS[name](num_features, affine=False), num_features, condition_dim)
    if num_classes:
        return ConditionalNorm(NORMS[name](num_features, affine=False), num_features, num_classes)
    return NORMS[name](num_features)


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether the output for one row depends on the other rows of the batch.

    Args:
        module: a layer or a network.
    """
    return any(isinstance(m, BatchNorm) or getattr(m, "batch_dependent", False) for m in module.modules())


def batch_norms(module: nn.Module) -> tuple[BatchNorm, ...]:
    """The batch norms of a network, for `frozen_statistics`, without those that are frozen for good.

    Args:
        module: the network.
    """
    return tuple(m for m in module.modules() if isinstance(m, BatchNorm) and not m.frozen)


@contextmanager
def frozen_statistics(norms: Iterable[_Statistics]) -> Iterator[None]:
    """Leave the running statistics as they are during the block; forwards still use the batch's.

    Args:
        norms: from `batch_norms`, or other layers that keep statistics.
    """
    for norm in norms:
        norm.update_statistics = False
    try:
        yield
    finally:
        for norm in norms:
            norm.update_statistics = True
