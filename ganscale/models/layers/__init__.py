"""Building blocks that the architectures share."""

from ganscale.models.layers.activations import ACTIVATIONS, activation_gain, make_activation
from ganscale.models.layers.attention import SelfAttention
from ganscale.models.layers.chain import Chain
from ganscale.models.layers.minibatch import MinibatchStddev
from ganscale.models.layers.norms import (
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
from ganscale.models.layers.orthogonal import add_orthogonal_gradient, filter_weights
from ganscale.models.layers.precision import upcast
from ganscale.models.layers.second_order import WithoutZeros
from ganscale.models.layers.spectral import SpectralNorm, add_spectral_norm, advance_power_iteration, spectral_norms

__all__ = [
    "ACTIVATIONS",
    "CENTERING",
    "NORMS",
    "BatchNorm",
    "Chain",
    "ConditionalNorm",
    "LayerNorm",
    "MinibatchStddev",
    "PixelNorm",
    "SelfAttention",
    "SpectralNorm",
    "WithoutZeros",
    "activation_gain",
    "add_orthogonal_gradient",
    "add_spectral_norm",
    "advance_power_iteration",
    "batch_norms",
    "filter_weights",
    "frozen_statistics",
    "make_activation",
    "make_norm",
    "spectral_norms",
    "upcast",
    "uses_batch_statistics",
]
