"""Which trials a sweep stops early or changes on the way: Ray Tune's schedulers, told by images and by the score."""

import itertools
import json
import random
from typing import Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from ganscale.config.space import Space
from ganscale.config.sweep import SweepSettings
from ganscale.runtime.trainable import IMAGES
from ganscale.search.perturb import perturbed


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
        reduction = settings.reduction
        return AsyncHyperBandScheduler(time_attr=IMAGES, max_t=images, grace_period=grace, reduction_factor=reduction)
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
