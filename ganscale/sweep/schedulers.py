"""Which trials a sweep stops early or changes on the way: Ray Tune's schedulers, told by images and by the score."""

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

from ganscale.parallel.random import derive_seed
from ganscale.sweep.config import SweepSettings
from ganscale.sweep.perturb import perturbed
from ganscale.sweep.space import Space
from ganscale.sweep.trainable import IMAGES


class _Halving(AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2020), in several brackets Hyperband (Li et al. 2018).

    A trial's bracket follows from its number, so that a sweep that goes on after a kill gives it the same one.
    """

    def __init__(self, settings: SweepSettings, grace: int, images: int) -> None:
        super().__init__(
            time_attr=IMAGES,
            max_t=images,
            grace_period=grace,
            reduction_factor=settings.reduction,
            brackets=settings.brackets,
        )
        self._seed = settings.seed

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Ray draws the bracket from numpy's own generator."""
        with numpy_seed(derive_seed(self._seed, f"sweep/bracket/{trial.config['index']}")):
            super().on_trial_add(tune_controller, trial)


@contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """Have numpy's global generator draw from this seed in the block, and from where it was after it."""
    before = numpy.random.get_state()
    numpy.random.seed(seed % 2**32)
    try:
        yield
    finally:
        numpy.random.set_state(before)


def make_scheduler(settings: SweepSettings, space: Space, *, images: int, every: int) -> TrialScheduler:
    """The scheduler of a sweep.

    Args:
        settings: section `sweep`.
        space: from which population-based training draws.
        images: length of each run.
        every: images between two evaluations.
    """
    grace = settings.grace or every
    if settings.scheduler == "asha":
        return _Halving(settings, grace, images)
    if settings.scheduler == "median":
        return MedianStoppingRule(time_attr=IMAGES, grace_period=grace, min_samples_required=3)
    if settings.scheduler == "pbt":
        count = itertools.count()
        random.seed(settings.seed)  # by which Tune chooses donors

        def explore(config: dict[str, Any]) -> dict[str, Any]:
            drawn = perturbed(space, json.loads(config["drawn"]), settings, next(count))
            return {**config, "drawn": json.dumps(drawn)}

        return PopulationBasedTraining(
            time_attr=IMAGES,
            perturbation_interval=settings.perturb_every or every,
            quantile_fraction=settings.quantile,
            custom_explore_fn=explore,
            log_config=False,
            synch=True,  # else who exchanges with whom depends on who was faster
        )
    return FIFOScheduler()
