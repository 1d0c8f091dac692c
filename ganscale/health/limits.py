"""Limits of the signals; `python -m benchmarks.health --score FILE --fit` writes this file."""

from ganscale.health.signals import Limit

LIMITS: dict[str, Limit] = {
    "weights-d": Limit(1.352, 1.49, 0.275),
    "weights-g": Limit(0.693, 0.693, 0.075),
    "gradient-d": Limit(3.401, 3.812, 0.124),
    "loss-d": Limit(0.669, 2.01, 0.205),
    "gradient-g": Limit(2.303, 2.465, 0.05),
    "separated": Limit(2.843, 3.752, 0.434),
    "alike": Limit(4.09, 4.609, 0.745),
    "copies": Limit(0.5, 0.5, 0.05),
    "diversity": Limit(2.229, 2.735, 0.359),
    "modes": Limit(1.064, 1.064, 0.217),
    "uneven": Limit(0.7, 0.7, 0.144),
    "fooled": Limit(1.0, 2.925, 0.133),
    "farther": Limit(2.079, 2.221, 0.125),
    "frechet": Limit(1.099, 1.099, 0.145),
    "flat-distance": Limit(2.272, 2.577, 0.868),
    "flat-frechet": Limit(0.0, 0.0, 0.089),
    "data-copies": Limit(0.2, 0.2, 0.05),
    "data": Limit(0.05, 0.05, 0.05),
    "held-out": Limit(1.0, 1.0, 0.1),
    "classes": Limit(-0.1, -0.1, 0.1),
}
"""Of every signal of `ganscale.health.signals.SIGNALS`."""
