"""Small sweeps that several test files share."""

from pathlib import Path
from typing import Any

from ganscale.sweep.config import Sweep, SweepSettings
from ganscale.sweep.plan import SweepPlan, make_plan
from ganscale.sweep.space import Space

RING: dict[str, Any] = {
    "data.name": "ring",
    "data.resolution": 8,
    "model.latent_dim": 2,
    "model.generator.width": 8,
    "model.discriminator.width": 8,
    "train.images": 1280,
    "train.batch_size": 32,
    "train.device": "cpu",
    "eval.every": 320,
    "eval.num_samples": 100,
    "eval.metrics": ["modes", "high_quality", "frechet"],
    "log.every": 160,
    "log.samples_every": 1280,
    "ema.half_life": 500,
    "cluster.address": "local",
    "wandb.mode": "disabled",
}
"""A run of seconds on the ring of Gaussians."""

RATES: dict[str, Any] = {"optim.lr_g": {"loguniform": [1e-4, 1e-2]}, "optim.lr_d": {"loguniform": [1e-4, 1e-2]}}


def sweep(space: dict[str, Any], *, run: dict[str, Any] | None = None, **settings: Any) -> Sweep:
    """A sweep over a space."""
    return Sweep.model_validate({"sweep": settings, "set": run or {}, "space": space})


def space(draws: dict[str, Any], base: dict[str, Any] | None = None, **settings: Any) -> Space:
    """A space over the default run."""
    return Space(sweep(draws, **settings), base or {})


def ring_plan(folder: Path, draws: dict[str, Any] | None = None, **settings: Any) -> SweepPlan:
    """A checked sweep of seconds."""
    given: dict[str, Any] = {
        "name": "try",
        "dir": str(folder),
        "num_configs": 3,
        "confirm_seeds": 0,
        "metrics": ["modes"],
    }
    return make_plan(sweep(draws or RATES, run=RING, **{**given, **settings}), {})


SETTINGS = SweepSettings()
