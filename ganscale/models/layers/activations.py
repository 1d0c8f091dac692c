"""Activations by name."""

import math
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import nn

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
"""Name to a module; relu and leaky_relu overwrite their input, so it must not be used elsewhere."""


def make_activation(name: str) -> nn.Module:
    """The activation `name`, leaving its input as it is: for inputs that a shortcut uses as well.

    Args:
        name: as in the config.
    """
    activation = ACTIVATIONS[name]()
    if isinstance(activation, nn.ReLU | nn.LeakyReLU):
        activation.inplace = False
    return activation


@cache
def activation_gain(name: str) -> float:
    """1 / rms of f(x) for standard normal x: weights of this gain keep the signal's power (He et al. 2015, Eq. 10).

    sqrt(2) for relu, sqrt(2 / 1.04) for leaky_relu.

    Args:
        name: as in the config.
    """
    x = torch.linspace(-12.0, 12.0, 24_001, dtype=torch.float64)
    density = (-0.5 * x.square()).exp()
    power = (make_activation(name)(x).square() * density).sum() / density.sum()
    return 1.0 / math.sqrt(power.item())
