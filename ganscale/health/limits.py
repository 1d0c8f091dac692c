"""Limits of the signals; `python -m benchmarks.health --score FILE --fit` writes this file."""

from ganscale.health.signals import Limit

LIMITS: dict[str, Limit] = {
    "weights-d": Limit(1.355, 1.493, 0.278),
    "weights-g": Limit(0.693, 0.693, 0.077),
    "gradient-d": Limit(3.401, 3.959, 0.129),
    "loss-d": Limit(0.67, 2.133, 0.202),
    "gradient-g": Limit(2.303, 2.476, 0.05),
    "separated": Limit(3.097, 4.031, 0.487),
    "low-diversity": Limit(4.773, 5.156, 0.895),
    "copies": Limit(0.5, 0.5, 0.05),
    "diversity": Limit(2.764, 2.883, 0.5),
    "modes": Limit(1.097, 1.097, 0.232),
    "uneven": Limit(1.126, 1.126, 0.232),
    "fooled": Limit(1.0, 3.103, 0.133),
    "farther": Limit(2.079, 2.303, 0.138),
    "frechet": Limit(1.099, 1.099, 0.187),
    "flat-distance": Limit(2.389, 2.688, 0.919),
    "flat-frechet": Limit(0.0, 0.0, 0.124),
    "data-copies": Limit(0.2, 0.2, 0.05),
    "data": Limit(0.05, 0.05, 0.05),
    "held-out": Limit(0.535, 1.045, 0.09),
    "classes": Limit(0.041, 0.294, 0.182),
}
"""Of every signal of `ganscale.health.signals.SIGNALS`."""
