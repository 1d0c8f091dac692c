"""A fully connected layer that is faster on CPUs with AVX-512."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


@cache
def _has_onednn() -> bool:
    """Whether oneDNN's matrix product is there and has AVX-512 to win by."""
    wide = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def is_wanted(node: Any) -> bool:
    """Whether the backward pass that runs will use the gradient that goes to `node`.

    torch's own layers leave out what nobody asked for: weights' gradients in `autograd.grad` for an input, an input's
    in `backward(inputs=parameters)`. A Python function must ask; `ctx.needs_input_grad` does not know.
    """
    if node is None:
        return False
    try:
        return torch._C._will_engine_execute_node(node)  # pyright: ignore[reportAttributeAccessIssue]
    except (AttributeError, RuntimeError):  # no such function; or the node is an input of `autograd.grad` itself
        return True


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
        for_x, for_weight, *for_bias = (is_wanted(node) for node, _ in ctx.next_functions)  # none without a bias
        return (
            product(gradient, weight.t(), None) if for_x else None,
            product(gradient.t(), x.t(), None) if for_weight else None,
            gradient.sum(0) if any(for_bias) else None,
        )


class Linear(nn.Linear):
    """`torch.nn.Linear`, computed by oneDNN where that is faster: in float32 on a CPU with AVX-512.

    torch takes MKL there, which runs at half the speed on AMD's processors: it does not use their AVX-512. Layers of
    less than 2^14 weights gain nothing and stay with torch; the choice does not depend on the number of rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map `[N, in_features]` to `[N, out_features]`. Args: input: `[N, in_features]`."""
        weight = self.weight  # read once: under spectral normalization reading it computes it
        if (
            weight.numel() < 1 << 14
            or input.dim() != 2
            or input.is_cuda
            or not input.dtype == weight.dtype == torch.float32
            or torch.compiler.is_compiling()
            or torch.is_autocast_enabled("cpu")
            or not _has_onednn()
        ):
            return linear(input, weight, self.bias)
        return _OneDNNLinear.apply(input.contiguous(), weight, self.bias)  # pyright: ignore[reportReturnType]
