"""Orthogonal regularization of a network's weights, as a gradient that is added to that of the loss."""

import torch
from torch import Tensor, nn


def filter_weights(network: nn.Module) -> tuple[tuple[Tensor, int], ...]:
    """Trained weights of linear and convolutional layers, embeddings not, each with the dimension that counts outputs.

    Of a layer with spectral norm it is the weight that is trained.

    Args:
        network: a generator.
    """
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            names = dict(layer.named_parameters())
            weight = names.get("weight", names.get("parametrizations.weight.original"))
            if weight is not None and weight.requires_grad:
                found.append((weight, 1 if isinstance(layer, nn.ConvTranspose2d) else 0))
    return tuple(found)


@torch.no_grad()
def add_orthogonal_gradient(weights: tuple[tuple[Tensor, int], ...], strength: float) -> Tensor:
    """Add the gradient of beta R to each weight's own; return R = sum of |W W^T * (1 - I)|^2 over all W: `[]`.

    W is a weight as a matrix with a row per filter (Brock et al. 2019, Eq. 3, has columns). As R depends on weights
    alone, every replica adds the same after the all-reduce of the loss's gradients: nothing more is sent.

    Args:
        weights: of `filter_weights`, with gradients.
        strength: beta.
    """
    total = weights[0][0].new_zeros(())
    for weight, dim in weights:
        filters = weight.transpose(0, dim).flatten(1)
        products = (filters @ filters.t()).fill_diagonal_(0.0)
        total += products.square().sum()
        gradient = (4.0 * strength * products) @ filters
        assert weight.grad is not None, "after the backward pass"
        weight.grad += gradient.view(weight.transpose(0, dim).shape).transpose(0, dim)
    return total
