"""Building blocks that the architectures share."""

from ganscale.layers.activations import ACTIVATIONS, activation_gain, make_activation
from ganscale.layers.attention import SelfAttention
from ganscale.layers.chain import Chain
from ganscale.layers.linear import Linear
from ganscale.layers.minibatch import MinibatchStddev
from ganscale.layers.norms import (
    CENTERING,
    NORMS,
    BatchNorm,
    ConditionalNorm,
    LayerNorm,
    PixelNorm,
    batch_norms,
    frozen_statistics,
    make_norm,
    uses_batch_statistics,
)
from ganscale.layers.precision import widen
from ganscale.layers.second_order import WithoutZeros
from ganscale.layers.spectral import SpectralNorm, add_spectral_norm, advance_power_iteration, spectral_norms

__all__ = [
    "ACTIVATIONS",
    "CENTERING",
    "NORMS",
    "BatchNorm",
    "Chain",
    "ConditionalNorm",
    "LayerNorm",
    "Linear",
    "MinibatchStddev",
    "PixelNorm",
    "SelfAttention",
    "SpectralNorm",
    "WithoutZeros",
    "activation_gain",
    "add_spectral_norm",
    "advance_power_iteration",
    "batch_norms",
    "frozen_statistics",
    "make_activation",
    "make_norm",
    "spectral_norms",
    "uses_batch_statistics",
    "widen",
]
