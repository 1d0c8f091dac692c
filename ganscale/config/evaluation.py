"""Settings of the metrics, and the names of the metrics with what they need and which way is better."""

from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from ganscale.config.section import Count, Section, listed


class MetricFacts(NamedTuple):
    """What is known of a metric without computing it.

    Attributes:
        higher_is_better: which way is better.
        needs: "features", "probabilities" (of classes) or "modes" (a mode for each sample).
        meaning: in a few words.
    """

    higher_is_better: bool
    needs: Literal["features", "probabilities", "modes"]
    meaning: str


METRICS: dict[str, MetricFacts] = {
    "frechet": MetricFacts(False, "features", "Frechet distance of the features (FID with Inception's)"),
    "kid": MetricFacts(False, "features", "kernel distance of the features, unbiased"),
    "inception_score": MetricFacts(True, "probabilities", "clear and varied classes (Inception Score)"),
    "precision": MetricFacts(True, "features", "share of samples that could be real"),
    "recall": MetricFacts(True, "features", "share of real examples that could be samples"),
    "density": MetricFacts(True, "features", "how densely real examples surround the samples"),
    "coverage": MetricFacts(True, "features", "share of real examples with a sample nearby"),
    "modes": MetricFacts(True, "modes", "modes with at least one sample"),
    "reverse_kl": MetricFacts(False, "modes", "reverse KL of the modes' histogram to uniform"),
    "excess_kl": MetricFacts(False, "modes", "reverse KL above that of as many real examples"),
    "high_quality": MetricFacts(True, "modes", "share of 2-D points within 3 sigma of a center"),
}
"""Every metric of `ganscale.evaluation.metrics` by name."""

EVALUATED: dict[str, tuple[str, ...]] = {
    "mnist": ("frechet", "kid", "modes", "reverse_kl"),
    "stacked_mnist": ("frechet", "modes", "reverse_kl", "excess_kl"),
    "ring": ("modes", "high_quality", "reverse_kl"),
    "grid": ("modes", "high_quality", "reverse_kl"),
    "cifar10": ("frechet", "kid"),
    "folder": ("frechet", "kid"),
}
"""What is computed during training when the config does not say: what is quick and what the field reports."""

EXTRACTORS: dict[str, tuple[str, ...]] = {
    "mnist": ("mnist", "inception", "pixels"),
    "stacked_mnist": ("mnist", "inception", "pixels"),
    "ring": ("pixels",),
    "grid": ("pixels",),
    "cifar10": ("inception", "pixels"),
    "folder": ("inception", "pixels"),
}
"""Extractors that fit a data set, the default first."""

LEAST_SAMPLES = 6
"""For precision, recall, density and coverage, which look at the fifth neighbor."""


def gives(data: str, extractor: str) -> frozenset[str]:
    """What an extractor tells about a data set: some of "features", "probabilities" and "modes"."""
    if extractor == "mnist":
        return frozenset({"features", "probabilities", "modes"})
    if extractor == "inception":
        return frozenset({"features", "probabilities"})
    return frozenset({"features", "modes"} if data in ("ring", "grid") else {"features"})


MetricName = Literal[
    "frechet",
    "kid",
    "inception_score",
    "precision",
    "recall",
    "density",
    "coverage",
    "modes",
    "reverse_kl",
    "excess_kl",
    "high_quality",
]


class Evaluation(Section):
    """How good the samples are, measured during training; `python -m ganscale.evaluate` measures afterwards."""

    every: Count = Field(
        default=320_000, ge=0, description="Images between two evaluations of the generator's average; 0: none."
    )
    metrics: Annotated[tuple[MetricName, ...], BeforeValidator(listed)] = Field(
        default=(), description="Metrics to compute; empty: those that are usual for data.name and quick."
    )
    num_samples: Count = Field(default=10_000, ge=2, description="Samples of the generator that are judged.")
    seed: Count = Field(default=0, ge=0, lt=2**63, description="Seed of the samples' latents; the same for all runs.")
    extractor: Literal["auto", "mnist", "inception", "pixels"] = Field(
        default="auto",
        description="What turns images into features: the bundled MNIST classifier, Inception-V3 (weights of FID, from "
        "eval.weights) or the pixels themselves; auto: mnist for digits, inception for other images.",
    )
    weights: str = Field(
        default="",
        description="File of the extractor's weights; empty: the bundled ones (mnist), or where torch-fidelity keeps "
        "them (inception).",
    )
