"""A sweep that was checked and is ready to start."""

import importlib.util
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganscale.config import Config, ConfigError
from ganscale.config.checks import metric_names
from ganscale.sweep.config import Sweep, SweepSettings, load_sweep
from ganscale.sweep.perturb import check_perturbable
from ganscale.sweep.sampler import Sampler
from ganscale.sweep.space import Space

FRESH = 1000
"""Distance of the winner's fresh seeds from those of the search."""


@dataclass(frozen=True)
class SweepPlan:
    """All that a sweep is made of.

    Attributes:
        sweep: the sweep.
        base: its base run as plain mappings.
        space: its space.
        sampler: configurations by number.
        config: a run of it (configuration 0), for what all runs have in common.
        metrics: that are optimized, the first leads.
        started: when, by `time.monotonic`.
    """

    sweep: Sweep
    base: dict[str, Any]
    space: Space
    sampler: Sampler
    config: Config
    metrics: tuple[str, ...]
    started: float = field(default_factory=time.monotonic)

    @property
    def names(self) -> list[str]:
        """Of the settings in the space."""
        return [parameter.name for parameter in self.space.parameters]

    @property
    def seeds(self) -> tuple[int, ...]:
        """run.seed of each run of a configuration."""
        first = self.config.run.seed
        return tuple(range(first, first + self.sweep.sweep.seeds))

    @property
    def fresh_seeds(self) -> tuple[int, ...]:
        """run.seed of the winner's runs after the search."""
        first = self.config.run.seed + max(FRESH, self.sweep.sweep.seeds)
        return tuple(range(first, first + self.sweep.sweep.confirm_seeds))

    @property
    def images(self) -> int:
        """That the sweep would train on if no trial stopped early."""
        return len(self.sampler) * len(self.seeds) * self.config.train.images


def load_plan(path: str | Path, overrides: list[str]) -> SweepPlan:
    """Read and check a sweep.

    Raises:
        ConfigError: a key is unknown, a value cannot be, or the sweep contradicts itself.
    """
    return make_plan(*load_sweep(path, overrides))


def make_plan(sweep: Sweep, base: dict[str, Any]) -> SweepPlan:
    """Check a sweep with its base run. Raises: `load_plan`."""
    space = Space(sweep, base)
    sampler = Sampler(sweep, space)
    config = space.config(sampler[0])
    if not 0 < config.eval.every <= config.train.images:
        raise ConfigError(
            "the runs of the sweep are never evaluated",
            key="eval.every",
            value=config.eval.every,
            remedy=f"use at least 1 and at most train.images = {config.train.images}",
        )
    computed = metric_names(config)
    metrics = sweep.sweep.metrics or computed[:1]
    for name in metrics:
        if name not in computed:
            raise ConfigError(
                f"is not among the metrics that the runs compute ({', '.join(computed)})",
                key="sweep.metrics",
                value=name,
                remedy="add it to eval.metrics below set:",
            )
    if sweep.sweep.scheduler == "asha":
        _check_rungs(sweep.sweep, config)
    elif sweep.sweep.brackets > 1:
        raise ConfigError(
            f"sweep.scheduler = {sweep.sweep.scheduler} has no brackets",
            key="sweep.brackets",
            value=sweep.sweep.brackets,
            remedy="use sweep.scheduler=asha, or leave it out",
        )
    if sweep.sweep.search == "optuna" and importlib.util.find_spec("optuna") is None:
        remedy = "install ganscale[optuna], or use random"
        raise ConfigError("Optuna is not installed", key="sweep.search", value="optuna", remedy=remedy)
    if sweep.sweep.scheduler == "pbt":
        check_perturbable(space)
    return SweepPlan(sweep, base, space, sampler, config, metrics)


def _check_rungs(settings: SweepSettings, config: Config) -> None:
    first, images = settings.grace or config.eval.every, config.train.images
    if first > images:
        raise ConfigError(
            f"the first rung lies behind the end of the runs (train.images = {images})",
            key="sweep.grace",
            value=settings.grace,
            remedy=f"use at most {images}",
        )
    rungs = 1 + int(math.log(images / first) / math.log(settings.reduction) + 1e-9)
    if settings.brackets > rungs:
        raise ConfigError(
            f"there are {rungs} rungs from {first} to {images} images, and each bracket leaves out one more",
            key="sweep.brackets",
            value=settings.brackets,
            remedy=f"use at most {rungs}, a smaller sweep.grace or a smaller sweep.reduction",
        )
