"""Building blocks that the architectures share."""

from ganscale.models.layers.activations import ACTIVATIONS, activation_gain, make_activation
from ganscale.models.layers.attention import SelfAttention
from ganscale.models.layers.chain import Chain
from ganscale.models.layers.minibatch import MinibatchStddev, place_rows
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
from ganscale.models.layers.resample import Resample, Smooth
from ganscale.models.layers.second_order import WithoutZeros
from ganscale.models.layers.spectral import SpectralNorm, add_spectral_norm, advance_power_iteration, spectral_norms
from ganscale.models.layers.style import (
    EqualConv,
    EqualLinear,
    LatentAverage,
    ModulatedConv,
    StyleConv,
    latent_averages,
    leaky,
    unit_power,
)

__all__ = [
    "ACTIVATIONS",
    "CENTERING",
    "NORMS",
    "BatchNorm",
    "Chain",
    "ConditionalNorm",
    "EqualConv",
    "EqualLinear",
    "LatentAverage",
    "LayerNorm",
    "MinibatchStddev",
    "ModulatedConv",
    "PixelNorm",
    "Resample",
    "SelfAttention",
    "Smooth",
    "SpectralNorm",
    "StyleConv",
    "WithoutZeros",
    "activation_gain",
    "add_orthogonal_gradient",
    "add_spectral_norm",
    "advance_power_iteration",
    "batch_norms",
    "filter_weights",
    "frozen_statistics",
    "latent_averages",
    "leaky",
    "make_activation",
    "make_norm",
    "place_rows",
    "spectral_norms",
    "unit_power",
    "upcast",
    "uses_batch_statistics",
]
