"""Ray Tune's schedulers, driven by images and the score: which trials stop early or continue from another's state."""

import itertools
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from ganscale.config import ConfigError
from ganscale.parallel.random import derive_seed
from ganscale.sweep.config import SweepSettings
from ganscale.sweep.sampler import first_valid, uniform
from ganscale.sweep.space import Drawn, Parameter, Space
from ganscale.sweep.trainable import IMAGES

FACTORS = (0.8, 1.25)
"""Factors by which population-based training multiplies a number."""


class _SuccessiveHalving(AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2020); with several brackets Hyperband (Li et al. 2018).

    A trial's bracket follows from its number, so that a resumed sweep assigns it again.
    """

    def __init__(self, settings: SweepSettings, grace: int, images: int) -> None:
        reduction, brackets = settings.reduction, settings.brackets
        super().__init__(
            time_attr=IMAGES, max_t=images, grace_period=grace, reduction_factor=reduction, brackets=brackets
        )
        self._seed = settings.seed

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Draw the bracket, which Ray does by numpy's global generator."""
        with _numpy_seed(derive_seed(self._seed, f"sweep/bracket/{trial.config['index']}")):
            super().on_trial_add(tune_controller, trial)


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global generator for the block, and restore its state after it."""
    before = numpy.random.get_state()
    numpy.random.seed(seed % 2**32)
    try:
        yield
    finally:
        numpy.random.set_state(before)


def make_scheduler(settings: SweepSettings, space: Space, *, images: int, every: int) -> TrialScheduler:
    """Build the scheduler of a sweep.

    Args:
        settings: Section `sweep`.
        space: Search space, from which population-based training draws.
        images: Length of each run.
        every: Images between two evaluations.
    """
    grace = settings.grace or every
    if settings.scheduler == "asha":
        return _SuccessiveHalving(settings, grace, images)
    if settings.scheduler == "median":
        return MedianStoppingRule(time_attr=IMAGES, grace_period=grace, min_samples_required=3)
    if settings.scheduler == "pbt":
        count = itertools.count()
        random.seed(settings.seed)  # Tune chooses donors by the global generator

        def explore(config: dict[str, Any]) -> dict[str, Any]:
            drawn = perturbed(space, json.loads(config["drawn"]), settings, next(count))
            return {**config, "drawn": json.dumps(drawn)}

        return PopulationBasedTraining(
            time_attr=IMAGES,
            perturbation_interval=settings.perturb_every or every,
            quantile_fraction=settings.quantile,
            custom_explore_fn=explore,
            log_config=False,
            synch=True,  # otherwise the exchanges depend on the trials' speed
        )
    return FIFOScheduler()


def perturbed(space: Space, drawn: Drawn, settings: SweepSettings, number: int) -> dict[str, Any]:
    """Explore around a configuration (Jaderberg et al. 2017).

    Each value is resampled with probability `sweep.resample`; otherwise a number is multiplied by one of `FACTORS`,
    and an option moves to a neighbor.

    Args:
        space: Bounds and options, which hold for the result.
        drawn: Values to change.
        settings: Section `sweep`.
        number: Number of the change in the sweep; it and the sweep's seed determine the result.

    Returns:
        Values of a valid run; the given ones if no change makes one.
    """

    def draw(attempt: int) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for parameter in space.parameters:
            if parameter.applies(changed):
                stream, old = f"perturb/{parameter.name}/{attempt}", drawn.get(parameter.name)
                resample, value = (uniform(settings.seed, f"{stream}/{what}", number) for what in ("resample", "value"))
                is_new = old is None or resample < settings.resample
                changed[parameter.name] = parameter.at(value) if is_new else _moved(parameter, old, value)
        return changed

    try:
        return first_valid(space, draw, "a perturbation")
    except ConfigError:
        return dict(drawn)


def _moved(parameter: Parameter, value: Any, quantile: float) -> Any:
    up = quantile >= 0.5
    if parameter.is_number:
        low, high = parameter.bounds
        moved = min(high, max(low, value * FACTORS[up]))
        return round(moved) if parameter.kind == "randint" else moved
    place = parameter.options.index(value) + (1 if up else -1)
    return parameter.options[min(len(parameter.options) - 1, max(0, place))]
