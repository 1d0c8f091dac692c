"""A validated sweep."""

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ganscale.config import LOSSES, METRICS, Config, ConfigError
from ganscale.config.checks import metric_names
from ganscale.sweep.config import Sweep, SweepSettings, load_sweep
from ganscale.sweep.sampler import Sampler
from ganscale.sweep.space import Parameter, Space

FRESH = 1000
"""Distance of the winner's fresh seeds from the seeds of the search."""
PERTURBABLE = ("optim.", "penalty.", "loss.", "augment.", "ema.")
"""Sections that population-based training may change during a run; networks and data are fixed."""
FIXED = ("loss.name", "ema.profiles", "optim.name_g", "optim.name_d")
"""Settings in them that it may not."""
LEVELS = tuple(f"penalty.{name}" for name in ("drift", "lecam", "centering"))
"""Weights that decide (`Penalty.levels`) whether D's logits have a bias where the loss is relativistic."""


@dataclass(frozen=True)
class SweepPlan:
    """A sweep with everything that follows from its file."""

    sweep: Sweep  # the sweep
    base: dict[str, Any]  # its base run as plain mappings
    space: Space  # its search space
    sampler: Sampler  # configurations by index
    config: Config  # configuration 0, for what all runs share
    metrics: tuple[str, ...]  # metrics that are optimized; the first decides

    @property
    def names(self) -> list[str]:
        """Names of the settings in the space."""
        return [parameter.name for parameter in self.space.parameters]

    @property
    def seeds(self) -> tuple[int, ...]:
        """`run.seed` of each run of a configuration."""
        first = self.config.run.seed
        return tuple(range(first, first + self.sweep.sweep.seeds))

    @property
    def fresh_seeds(self) -> tuple[int, ...]:
        """`run.seed` of the winner's runs after the search."""
        first = self.config.run.seed + max(FRESH, self.sweep.sweep.seeds)
        return tuple(range(first, first + self.sweep.sweep.confirm_seeds))

    @property
    def images(self) -> int:
        """Images that the sweep trains on if no trial stops early."""
        return len(self.sampler) * len(self.seeds) * self.config.train.images


def load_plan(path: str | Path | Mapping[str, Any], overrides: list[str]) -> SweepPlan:
    """Read and validate a sweep.

    Args:
        path: The sweep's YAML file.
        overrides: `sweep.key=value` and `section.key=value`.

    Raises:
        ConfigError: A key is unknown, a value is impossible, or the sweep contradicts itself.
    """
    return make_plan(*load_sweep(path, overrides))


def make_plan(sweep: Sweep, base: dict[str, Any]) -> SweepPlan:
    """Validate a sweep with its base run. Raises: `load_plan`.

    Args:
        sweep: The sweep.
        base: Its base run as plain mappings.
    """
    settings, space = sweep.sweep, Space(sweep, base)
    sampler = Sampler(sweep, space)
    config = space.config(sampler[0])
    if not 0 < config.eval.every <= config.train.images:
        remedy = f"use at least 1 and at most train.images = {config.train.images}"
        raise ConfigError(
            "the runs of the sweep are never evaluated", key="eval.every", value=config.eval.every, remedy=remedy
        )
    if config.eval.mode == "async":
        problem = "trials are scored by the evaluation of the images that they have reached"
        raise ConfigError(problem, key="eval.mode", value="async", remedy="use inline")
    if config.cluster.recovery == "live":
        problem = "the workers of a trial restart together"
        raise ConfigError(problem, key="cluster.recovery", value="live", remedy="use restart")
    computed = metric_names(config)
    metrics = settings.metrics or computed[:1]
    for name in metrics:
        if name not in computed:
            message = f"is not among the metrics that the runs compute ({', '.join(computed)})"
            remedy = "add it to eval.metrics below set:"
            raise ConfigError(message, key="sweep.metrics", value=name, remedy=remedy)
        if not METRICS[name].is_goal:
            message, remedy = "its best value is not that of the best generator", "leave it out"
            raise ConfigError(message, key="sweep.metrics", value=name, remedy=remedy)
    if settings.scheduler == "asha":
        _check_rungs(settings, config)
    elif settings.brackets > 1:
        message = f"sweep.scheduler = {settings.scheduler} has no brackets"
        remedy = "use sweep.scheduler=asha, or leave it out"
        raise ConfigError(message, key="sweep.brackets", value=settings.brackets, remedy=remedy)
    if settings.search == "optuna" and importlib.util.find_spec("optuna") is None:
        remedy = "install ganscale[optuna], or use random"
        raise ConfigError("Optuna is not installed", key="sweep.search", value="optuna", remedy=remedy)
    if settings.scheduler == "pbt":
        _check_perturbable(space)
        _check_logit_level(space, config)
    return SweepPlan(sweep, base, space, sampler, config, metrics)


def _check_rungs(settings: SweepSettings, config: Config) -> None:
    first, images = settings.grace or config.eval.every, config.train.images
    if first > images:
        message = f"the first rung lies beyond the end of the runs (train.images = {images})"
        raise ConfigError(message, key="sweep.grace", value=settings.grace, remedy=f"use at most {images}")
    rungs = 1 + int(math.log(images / first) / math.log(settings.reduction) + 1e-9)
    if settings.brackets > rungs:
        message = f"there are {rungs} rungs from {first} to {images} images, and each bracket skips one more"
        remedy = f"use at most {rungs}, a smaller sweep.grace or a smaller sweep.reduction"
        raise ConfigError(message, key="sweep.brackets", value=settings.brackets, remedy=remedy)


def _check_perturbable(space: Space) -> None:
    """Refuse settings that population-based training cannot change during a run."""
    for parameter in space.parameters:
        for target in (target for value in parameter.probes() for target in parameter.settings(value)):
            if not target.startswith(PERTURBABLE) or target in FIXED:
                raise ConfigError(
                    "population-based training cannot change it during a run",
                    key=f"space.{parameter.name}",
                    value=target,
                    remedy=f"search settings of {', '.join(p[:-1] for p in PERTURBABLE)}, or use another scheduler",
                )


def _check_logit_level(space: Space, config: Config) -> None:
    """Refuse trials of which only some have a bias of D's logits: population-based training copies weights."""
    if LOSSES[config.loss.name].boundary is not None:
        return
    base = {key: getattr(space.config({}).penalty, key.removeprefix("penalty.")) != 0.0 for key in LEVELS}
    choices = [(parameter, _switches(parameter)) for parameter in space.parameters]
    for parameter, options in choices:
        others = [found for other, found in choices if other is not parameter]
        for rest in product(*others):
            fixed = base | {key: value for each in rest for key, value in each}
            if len({any((fixed | dict(option)).values()) for option in options}) > 1:
                raise ConfigError(
                    f"with loss.name = {config.loss.name} D has a bias of its logits only where one of "
                    f"{', '.join(LEVELS)} is not 0, and population-based training cannot change that during a run",
                    key=f"space.{parameter.name}",
                    value=list(parameter.probes()),
                    remedy="search weights above 0 only, or use another scheduler",
                )


def _switches(parameter: Parameter) -> set[tuple[tuple[str, bool], ...]]:
    """Which weights of `LEVELS` each value of a parameter turns on or off; none where it does not apply."""
    found = {
        tuple((key, each != 0.0) for key, each in parameter.settings(value).items() if key in LEVELS)
        for value in parameter.probes()
    }
    return found | {()} if parameter.when else found
