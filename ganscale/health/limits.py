"""Limits of the signals; `python -m benchmarks.health --score FILE --fit` writes this file."""

from ganscale.health.signals import Limit

LIMITS: dict[str, Limit] = {
    "weights-d": Limit(1.414, 1.544, 0.295),
    "weights-g": Limit(0.916, 0.916, 0.14),
    "gradient-d": Limit(3.689, 4.967, 0.059),
    "loss-d": Limit(0.764, 2.078, 0.238),
    "gradient-g": Limit(2.303, 4.46, 0.113),
    "separated": Limit(3.461, 4.301, 0.532),
    "low-diversity": Limit(4.756, 5.3, 0.886),
    "copies": Limit(0.2, 0.2, 0.05),
    "diversity": Limit(2.791, 2.933, 0.527),
    "modes": Limit(0.693, 0.693, 0.127),
    "uneven": Limit(0.7, 0.7, 0.105),
    "fooled": Limit(1.066, 5.98, 0.15),
    "farther": Limit(2.079, 2.561, 0.138),
    "frechet": Limit(1.099, 1.099, 0.05),
    "flat-distance": Limit(2.373, 2.77, 0.882),
    "flat-frechet": Limit(0.563, 0.563, 0.277),
    "long-flat-frechet": Limit(-0.223, -0.223, 0.05),
    "no-modes": Limit(0.5, 0.5, 0.05),
    "data-copies": Limit(0.2, 0.2, 0.05),
    "data": Limit(0.05, 0.05, 0.05),
    "held-out": Limit(0.75, 1.134, 0.115),
    "classes": Limit(0.017, 0.266, 0.159),
}
"""Of every signal of `ganscale.health.signals.SIGNALS`."""
