"""Names that a person reads in reports and plots, with units and bounds: of metrics, columns, data sets, networks."""

import math
from typing import NamedTuple

SHARE = (0.0, 1.0)
POSITIVE = (0.0, math.inf)
ANY = (-math.inf, math.inf)


class Title(NamedTuple):
    """How a metric is written.

    Attributes:
        text: its name.
        unit: of its values; empty for plain numbers.
        limits: least and greatest value that it can have; an interval of means is cut there.
    """

    text: str
    unit: str = ""
    limits: tuple[float, float] = ANY


METRIC_TITLES: dict[str, Title] = {
    "frechet": Title("Fréchet distance", limits=POSITIVE),
    "kid": Title("Kernel distance (KID)"),
    "inception_score": Title("Inception Score", limits=(1.0, math.inf)),
    "precision": Title("Precision", "share", SHARE),
    "recall": Title("Recall", "share", SHARE),
    "density": Title("Density", limits=POSITIVE),
    "coverage": Title("Coverage", "share", SHARE),
    "modes": Title("Modes found", "modes", POSITIVE),
    "reverse_kl": Title("Reverse KL divergence", "nats", POSITIVE),
    "excess_kl": Title("Excess KL divergence", "nats"),
    "swd": Title("Sliced Wasserstein distance", "thousandths", POSITIVE),
    "memorization": Title("Memorization probability", "probability", SHARE),
    "high_quality": Title("High-quality samples", "share", SHARE),
}
"""Every metric of the package, by its key in METRICS."""

COLUMN_TITLES: dict[str, str] = {
    "penalty_r1": "R1 penalty",
    "penalty_r2": "R2 penalty",
    "penalty_gp": "Gradient penalty (WGAN-GP)",
    "penalty_dragan": "Gradient penalty (DRAGAN)",
    "penalty_drift": "Drift penalty",
    "penalty_lecam": "LeCam penalty",
    "penalty_centering": "Logit centering",
    "rollbacks": "Rollbacks so far",
    "evaluation_images": "Images of the newest evaluation",
}
"""Columns of metrics.jsonl that share their chart with no other."""

_NETWORKS = {
    "mlp": "fully connected (MLP)",
    "dcgan": "DCGAN",
    "resnet": "ResNet",
    "r3gan": "R3GAN",
    "biggan": "BigGAN",
    "stylegan2": "StyleGAN2",
    "transformer": "transformer",
}
VALUE_TITLES: dict[str, dict[str, str]] = {
    "data.name": {
        "mnist": "MNIST",
        "stacked_mnist": "Stacked MNIST",
        "ring": "Ring of 8 Gaussians",
        "grid": "Grid of 25 Gaussians",
        "cifar10": "CIFAR-10",
        "folder": "Pictures",
        "latents": "Latents",
    },
    "model.generator.name": _NETWORKS,
    "model.discriminator.name": _NETWORKS,
    "loss.name": {
        "non_saturating": "non-saturating",
        "least_squares": "least squares",
        "wasserstein": "Wasserstein",
        "relativistic_pairing": "relativistic pairing",
        "relativistic_average": "relativistic average",
    },
    "eval.extractor": {
        "mnist": "the MNIST classifier",
        "inception": "Inception-V3",
        "dinov2": "DINOv2",
        "clip": "CLIP",
        "openclip": "OpenCLIP",
        "patches": "patches of Laplacian pyramids",
    },
}
"""Names of settings' values: dotted key to value to name."""


def metric_title(name: str) -> str:
    """The name of a metric; of one that a user's script adds, its key in words.

    Args:
        name: its key in METRICS.
    """
    return METRIC_TITLES[name].text if name in METRIC_TITLES else in_words(name)


def column_title(name: str) -> str:
    """The name of a column of metrics.jsonl that has a chart of its own; its key in words where it has none.

    Args:
        name: of the column.
    """
    return COLUMN_TITLES[name] if name in COLUMN_TITLES else in_words(name)


def value_title(key: str, value: object) -> str:
    """The name of a setting's value; the value itself where it has none.

    Args:
        key: dotted, of the setting.
        value: of the setting.
    """
    return VALUE_TITLES[key].get(str(value), str(value))


def data_title(text: str) -> str:
    """A data set and its resolution: `mnist 28` as "MNIST at 28 × 28".

    Args:
        text: name and resolution as evaluations have them, the latter missing for points.
    """
    name, _, sides = text.partition(" ")
    height, _, width = sides.partition("x")
    shape = f" at {height} × {width or height}" if sides else ""
    return value_title("data.name", name) + shape


def within(name: str, value: float) -> float:
    """A bound of a metric's mean, cut where the metric can have no value: no count is negative, no share above 1.

    Args:
        name: of the metric.
        value: the bound; NaN stays.
    """
    low, high = METRIC_TITLES[name].limits if name in METRIC_TITLES else ANY
    return value if math.isnan(value) else min(max(value, low), high)


def in_words(name: str) -> str:
    """A key as words: `my_metric` as "My metric".

    Args:
        name: the key.
    """
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]
