"""Limits of the signals; `python -m benchmarks.health --score FILE --fit` writes this file."""

from ganscale.health.signals import Limit

LIMITS: dict[str, Limit] = {
    "weights-d": Limit(1.352, 1.49, 0.275),
    "weights-g": Limit(0.693, 0.693, 0.075),
    "gradient-d": Limit(3.401, 3.812, 0.124),
    "loss-d": Limit(0.667, 2.01, 0.205),
    "gradient-g": Limit(2.303, 2.465, 0.05),
    "separated": Limit(2.843, 3.752, 0.434),
    "alike": Limit(4.094, 4.606, 0.746),
    "copies": Limit(0.5, 0.5, 0.05),
    "diversity": Limit(2.23, 2.735, 0.361),
    "modes": Limit(1.064, 1.064, 0.217),
    "uneven": Limit(0.7, 0.7, 0.125),
    "fooled": Limit(1.0, 2.925, 0.133),
    "farther": Limit(2.079, 2.244, 0.128),
    "frechet": Limit(1.099, 1.099, 0.146),
    "flat-distance": Limit(2.268, 2.573, 0.867),
    "flat-frechet": Limit(0.0, 0.0, 0.071),
    "data-copies": Limit(0.2, 0.2, 0.05),
    "data": Limit(0.05, 0.05, 0.05),
    "held-out": Limit(0.502, 1.055, 0.09),
    "classes": Limit(0.0, 0.0, 0.106),
}
"""Of every signal of `ganscale.health.signals.SIGNALS`."""
