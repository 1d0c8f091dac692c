"""Building blocks: activations and norms by name, the exact cross-replica batch norm, a faster linear layer."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ganscale.collectives import all_reduce_sum, num_replicas

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": partial(nn.LeakyReLU, 0.2, inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "identity": nn.Identity,
}


@cache
def _has_onednn() -> bool:
    """Whether oneDNN's matrix product is there and has AVX-512 to win by."""
    wide = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class _OneDNNLinear(torch.autograd.Function):
    """`x @ weight.T + bias` by oneDNN; gradients are such products too, hence differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        product = _OneDNNLinear.apply
        return (
            product(gradient, weight.t(), None) if ctx.needs_input_grad[0] else None,
            product(gradient.t(), x.t(), None) if ctx.needs_input_grad[1] else None,
            gradient.sum(0) if ctx.needs_input_grad[2] else None,
        )


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by oneDNN where that is faster: in float32 on a CPU with AVX-512.

    torch takes MKL there, which runs at half the speed on AMD's processors: it does not use their AVX-512. Layers of
    less than 2^14 weights gain nothing and stay with torch; the choice does not depend on the number of rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map `[N, in_features]` to `[N, out_features]`."""
        if (
            self.weight.numel() < 1 << 14
            or input.dim() != 2
            or input.is_cuda
            or not input.dtype == self.weight.dtype == torch.float32
            or torch.compiler.is_compiling()
            or not _has_onednn()
        ):
            return super().forward(input)
        return _OneDNNLinear.apply(input.contiguous(), self.weight, self.bias)  # pyright: ignore[reportReturnType]


class BatchNorm(nn.Module):
    """Batch normalisation over the images of *all* replicas (Ioffe and Szegedy 2015, Algorithm 1).

    Sum, sum of squares and count go through one all-reduce that is differentiable twice, so N replicas compute what one
    would, gradient penalties included, on CPU and GPU. (`torch.nn.SyncBatchNorm` refuses CPU tensors and has no double
    backward.) Alone it is the same mathematics by torch's own kernel.

    Args:
        num_features: channels C of inputs `[N, C]` or `[N, C, H, W]`.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
        across_replicas: False for statistics of this replica's own rows only.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1, across_replicas: bool = True
    ) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.across_replicas = across_replicas
        self.update_statistics = True
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[N, C, ...]` per channel; in eval mode with the running statistics."""
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
        dims = [d for d in range(x.dim()) if d != 1]
        shape = (1, -1) + (1,) * (x.dim() - 2)
        rows = x.new_full((1,), float(x.numel() // x.shape[1]))
        # Around the running mean, which all replicas share, the sums lose no digits to a large mean.
        shift = self.running_mean.clone()
        around = x - shift.view(shape)
        total = torch.cat((around.sum(dims), around.square().sum(dims), rows))
        if self.across_replicas:
            total = all_reduce_sum(total)
        rows = total[-1:].detach()
        offset, square = (total[:-1] / rows).chunk(2)
        mean, variance = shift + offset, (square - offset.square()).clamp_min(0.0)
        if self.update_statistics:
            with torch.no_grad():
                unbiased = variance * (rows / (rows - 1.0).clamp_min(1.0))
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(unbiased, self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale.view(shape) + (self.bias - mean * scale).view(shape)

    def extra_repr(self) -> str:
        """Shown by print(module)."""
        return (
            f"{self.weight.numel()}, eps={self.eps}, momentum={self.momentum}, across_replicas={self.across_replicas}"
        )


class LayerNorm(nn.Module):
    """Layer normalisation over all but the first dimension, with a scale and shift per channel (Ba et al. 2016)."""

    def __init__(self, num_features: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, num_features, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each row of `[N, C, ...]`."""
        return self.norm(x)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda _: nn.Identity(),
    "batch": BatchNorm,
    "local_batch": partial(BatchNorm, across_replicas=False),
    "layer": LayerNorm,
}


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether the output for one row depends on the other rows of the batch."""
    return any(isinstance(m, BatchNorm) or getattr(m, "batch_dependent", False) for m in module.modules())


def batch_norms(module: nn.Module) -> tuple[BatchNorm, ...]:
    """The batch norms of a network, for `frozen_statistics`."""
    return tuple(m for m in module.modules() if isinstance(m, BatchNorm))


@contextmanager
def frozen_statistics(norms: Iterable[BatchNorm]) -> Iterator[None]:
    """Leave the running statistics of `norms` as they are during the block; forwards still use the batch's."""
    for norm in norms:
        norm.update_statistics = False
    try:
        yield
    finally:
        for norm in norms:
            norm.update_statistics = True
