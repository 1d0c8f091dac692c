"""Layers in a row, some of which look at the class, and whose activations may be recomputed in the backward pass."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ganscale.models.layers.norms import BatchNorm, batch_norms


class Chain(nn.Sequential):
    """`nn.Sequential` that also hands the labels to those layers whose `takes_labels` is true.

    Attributes:
        recomputes: whether the backward pass computes activations again instead of keeping them (Chen et al. 2016): of
            each block, which begins with a layer that has weights, only the input is kept. The numbers stay the same.
    """

    takes_labels = True
    recomputes = False

    def forward(self, input: Tensor, labels: Tensor | None = None) -> Tensor:
        """Apply all layers to `[N, ...]`, with labels int64 `[N]` or None."""
        if not (self.recomputes and self.training and torch.is_grad_enabled()):
            return _apply(self, input, labels)
        norms = batch_norms(self)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _UnchangedStatistics(norms)

        first, *blocks = self.blocks()
        input = _apply(first, input, labels)
        for block in blocks:
            output = checkpoint(
                _apply, block, input, labels, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
            )
            assert isinstance(output, Tensor)
            input = output
        return input

    def blocks(self) -> list[list[nn.Module]]:
        """Layers before the first one that has weights, which may work in place; then blocks."""
        blocks: list[list[nn.Module]] = [[]]
        for layer in self:
            if any(parameter.dim() > 1 for parameter in layer.parameters()):
                blocks.append([])
            blocks[-1].append(layer)
        return blocks


def _apply(layers: "Chain | list[nn.Module]", input: Tensor, labels: Tensor | None) -> Tensor:
    for layer in layers:
        input = layer(input, labels) if getattr(layer, "takes_labels", False) else layer(input)
    return input


class _UnchangedStatistics:
    """Puts running statistics back after the block: the first forward pass has updated them already.

    Args:
        norms: of the network.
    """

    def __init__(self, norms: tuple[BatchNorm, ...]) -> None:
        self._norms = [norm for norm in norms if norm.update_statistics]

    def __enter__(self) -> None:
        self._kept = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in self._norms]

    def __exit__(self, *error: object) -> None:
        for norm, (mean, variance) in zip(self._norms, self._kept, strict=True):
            # Through .data: for autograd these are the numbers that it has seen.
            norm.running_mean.data.copy_(mean)
            norm.running_var.data.copy_(variance)
