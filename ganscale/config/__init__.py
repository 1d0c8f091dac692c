"""The configuration: one frozen, typed, fully documented object per run. Imports no torch, no ray, no wandb."""

from ganscale.config.datasets import DATASETS, Dataset
from ganscale.config.errors import ConfigError
from ganscale.config.evaluation import EXTRACTORS, METRICS, FeatureExtractor, Metric
from ganscale.config.health import DETECTORS, Detector
from ganscale.config.load import differences, dump, load, parse
from ganscale.config.losses import LOSSES, AdversarialLoss
from ganscale.config.networks import DISCRIMINATORS, GENERATORS, Architecture
from ganscale.config.schema import Config
from ganscale.config.section import Count, Section

__all__ = [
    "DATASETS",
    "DETECTORS",
    "DISCRIMINATORS",
    "EXTRACTORS",
    "GENERATORS",
    "LOSSES",
    "METRICS",
    "AdversarialLoss",
    "Architecture",
    "Config",
    "ConfigError",
    "Count",
    "Dataset",
    "Detector",
    "FeatureExtractor",
    "Metric",
    "Section",
    "differences",
    "dump",
    "load",
    "parse",
]
