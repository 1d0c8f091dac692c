"""Layers in a row, some of which look at the class."""

from torch import Tensor, nn


class Chain(nn.Sequential):
    """`nn.Sequential` that also hands the labels to those layers whose `takes_labels` is true."""

    takes_labels = True

    def forward(self, input: Tensor, labels: Tensor | None = None) -> Tensor:
        """Apply all layers to `[N, ...]`, with labels int64 `[N]` or None."""
        for layer in self:
            input = layer(input, labels) if getattr(layer, "takes_labels", False) else layer(input)
        return input
