"""How good samples are: pure functions of features, probabilities, labels and points, summed in float64."""

from ganscale.evaluation.metrics.frechet import Moments, frechet_distance, moments
from ganscale.evaluation.metrics.inception import Score, inception_score
from ganscale.evaluation.metrics.kernel import KernelDistance, kernel_distance
from ganscale.evaluation.metrics.manifold import ManifoldScores, density_coverage, manifold_scores, precision_recall
from ganscale.evaluation.metrics.modes import (
    ModeStatistics,
    expected_kl_floor,
    gaussian_modes,
    kl_of_perfect_generators,
    mode_statistics,
    nearest_modes,
)

__all__ = [
    "KernelDistance",
    "ManifoldScores",
    "ModeStatistics",
    "Moments",
    "Score",
    "density_coverage",
    "expected_kl_floor",
    "frechet_distance",
    "gaussian_modes",
    "inception_score",
    "kernel_distance",
    "kl_of_perfect_generators",
    "manifold_scores",
    "mode_statistics",
    "moments",
    "nearest_modes",
    "precision_recall",
]
