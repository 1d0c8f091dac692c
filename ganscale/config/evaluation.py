"""The tables of metrics and of feature extractors, and the settings of an evaluation."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ganscale.config.datasets import Dataset
from ganscale.config.section import Count, Section, listed
from ganscale.config.table import Choice, Function

Need = Literal["features", "probabilities", "modes", "quality", "patches", "neighbors"]
"""What an extractor sees: features; patches of images; probabilities of classes; each example's mode; whether it is of
high quality; how far it is from the training pictures, of which there must be a finite number."""


@dataclass(frozen=True)
class Metric:
    """Everything about a metric.

    Attributes:
        higher_is_better: which way is better.
        needs: what it is computed from.
        meaning: in a few words.
        compute: `(reference, judged, setting) -> value`, a number or a `Value` with its error; metrics that one
            function gives together name the same function, which returns them by name (`evaluation.metrics.scores`).
        min_samples: fewest samples that it can be computed from.
        above_floor: whether what is reported is the value less that of as many real examples.
        is_goal: whether the better value means the better generator, so that one may be chosen by it.
    """

    higher_is_better: bool
    needs: Need
    meaning: str
    compute: Function
    min_samples: int = 2
    above_floor: bool = False
    is_goal: bool = True


_SCORES = "ganscale.evaluation.metrics.scores"
_MANIFOLD, _MODES = f"{_SCORES}:manifold", f"{_SCORES}:modes"

METRICS: dict[str, Metric] = {
    "frechet": Metric(
        False,
        "features",
        "Fréchet distance of the features (FID with Inception's, FD_DINOv2 with DINOv2's)",
        f"{_SCORES}:frechet",
    ),
    "kid": Metric(False, "features", "kernel distance of the features, unbiased", f"{_SCORES}:kid"),
    "inception_score": Metric(
        True, "probabilities", "clear and varied classes (Inception Score)", f"{_SCORES}:inception"
    ),
    "precision": Metric(True, "features", "share of samples that could be real", _MANIFOLD, min_samples=6),
    "recall": Metric(True, "features", "share of real examples that could be samples", _MANIFOLD, min_samples=6),
    "density": Metric(True, "features", "how densely real examples surround the samples", _MANIFOLD, min_samples=6),
    "coverage": Metric(True, "features", "share of real examples with a sample nearby", _MANIFOLD, min_samples=6),
    "modes": Metric(True, "modes", "modes with at least one sample", _MODES),
    "reverse_kl": Metric(False, "modes", "reverse KL of the modes' histogram to uniform", _MODES),
    "excess_kl": Metric(False, "modes", "reverse KL above that of as many real examples", _MODES, above_floor=True),
    "swd": Metric(
        False,
        "patches",
        "sliced Wasserstein distance of patches of Laplacian pyramids, in thousandths",
        "ganscale.evaluation.metrics.patches:swd",
        min_samples=20,
    ),
    "memorization": Metric(
        False,
        "neighbors",
        "probability that a sample is nearer to the training pictures than a held-out picture",
        "ganscale.evaluation.metrics.memorization:memorization",
        min_samples=4,
        is_goal=False,
    ),
    "high_quality": Metric(True, "quality", "share of 2-D points within 3 sigma of a center", _MODES),
}
"""Every metric by name."""


def is_score(name: str) -> bool:
    """Whether a number of a row is a metric's value, or the floor, error or scale beside it.

    Args:
        name: of the number.
    """
    return any(name.removesuffix(end) in METRICS for end in ("", "_floor", "_error", "_scale"))


@dataclass(frozen=True)
class FeatureExtractor:
    """Everything about what turns examples into features.

    Attributes:
        build: `(data, shape, weights, device) -> ganscale.evaluation.metrics.extractors.Extractor`; data is the
            `Dataset`, shape that of one example, weights `eval.weights`.
        gives: what it sees in an example.
        description: for the reference page.
        missing: `(weights) -> str | None`, why it cannot be used on this machine, as "reason; remedy", or raises
            `ConfigError`; None: it always can.
        metrics: what an evaluation with it computes by default; empty: the data set's.
        max_reference: most reference examples per sample; 0: all.
        frechet: what the literature calls the Frechet distance of its features.
        reads_weights: whether it reads `eval.weights`.
    """

    build: Function
    gives: frozenset[Need]
    description: str = ""
    missing: Function | None = None
    metrics: tuple[str, ...] = ()
    max_reference: int = 0
    frechet: str = ""
    reads_weights: bool = True

    def seen(self, data: Dataset) -> frozenset[str]:
        """What it sees in an example: what it gives, modes and quality where the data's modes are known, neighbors.

        Args:
            data: the data set.
        """
        known = self.gives == {"features"} and data.mixture is not None
        more = {"modes", "quality"} if known else set[str]()
        return self.gives | more | (set() if data.is_points else {"neighbors"})


_EXTRACTORS = "ganscale.evaluation.metrics.extractors"


def _transformer(name: str, description: str, frechet: str) -> FeatureExtractor:
    module = "ganscale.evaluation.metrics.vit_extractors"
    features: frozenset[Need] = frozenset({"features"})
    missing = f"{module}:missing_{name}"
    return FeatureExtractor(f"{module}:open_{name}", features, description, missing, frechet=frechet)


EXTRACTORS: dict[str, FeatureExtractor] = {
    "mnist": FeatureExtractor(
        f"{_EXTRACTORS}:open_digits",
        frozenset({"features", "probabilities", "modes"}),
        "the MNIST classifier in the package",
    ),
    "inception": FeatureExtractor(
        f"{_EXTRACTORS}:open_inception",
        frozenset({"features", "probabilities"}),
        "Inception-V3 (weights of FID, from eval.weights)",
        f"{_EXTRACTORS}:missing_inception",
        frechet="FID",
    ),
    "dinov2": _transformer("dinov2", "DINOv2, ViT-S/14, B/14 or L/14 (weights from eval.weights)", "FD_DINOv2"),
    "clip": _transformer("clip", "OpenAI's CLIP, ViT-B/32, B/16 or L/14 (weights from eval.weights)", "FD_CLIP"),
    "openclip": _transformer("openclip", "such a CLIP of LAION or DataComp (weights from eval.weights)", "FD_OpenCLIP"),
    "pixels": FeatureExtractor(
        f"{_EXTRACTORS}:open_pixels",
        frozenset({"features"}),
        "the pixels or points themselves",
        reads_weights=False,
    ),
    "patches": FeatureExtractor(
        "ganscale.evaluation.metrics.patches:open_patches",
        frozenset({"patches"}),
        "patches of Laplacian pyramids, without weights",
        metrics=("swd",),
        max_reference=2,
        reads_weights=False,
    ),
}
"""Every feature extractor by name."""

MetricName = Annotated[str, Choice(METRICS)]


class Evaluation(Section):
    """How good the samples are, measured during training; `python -m ganscale.evaluate` measures afterwards."""

    every: Count = Field(
        default=320_000, ge=0, description="Images between two evaluations of the generator's average; 0: none."
    )
    mode: Literal["inline", "async"] = Field(
        default="inline",
        description="inline: training waits while all workers evaluate; async: a process beside training evaluates a "
        "copy of the average, and the scores come later (docs/metrics.md). Sweeps are inline.",
    )
    busy: Literal["skip", "queue"] = Field(
        default="skip",
        description="With async, when the one before is not done: skip the evaluation, or queue it. The last one of a "
        "run is never skipped.",
    )
    cpus: Count = Field(
        default=1,
        ge=1,
        le=1024,
        description="With async: threads of the evaluating process; Ray reserves as many CPUs.",
    )
    gpus: Count = Field(
        default=0, ge=0, le=1, description="With async on Ray: 1 reserves a GPU for it; 0: it computes on the CPU."
    )
    metrics: Annotated[tuple[MetricName, ...], BeforeValidator(listed)] = Field(
        default=(), description="Metrics to compute; empty: those that are usual for data.name and quick."
    )
    num_samples: Count = Field(default=10_000, ge=2, description="Samples of the generator that are judged.")
    seed: Count = Field(default=0, ge=0, lt=2**63, description="Seed of the samples' latents; the same for all runs.")
    extractor: Annotated[str, Choice(EXTRACTORS, "auto")] = Field(
        default="auto",
        description="What turns examples into features; auto: mnist for digits, inception for images, or patches "
        "where a run finds no weights of Inception. Any other one without its weights is refused.",
    )
    weights: str = Field(
        default="",
        description="File of the extractor's weights, safetensors or a state dict (docs/metrics.md); empty: the "
        "bundled ones (mnist), or where torch-fidelity keeps them (inception). No weights are downloaded.",
    )
