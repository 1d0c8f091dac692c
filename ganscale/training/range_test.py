"""The learning rate of both networks, from a short test before the first image (`optim.auto`).

The rate rises from iteration to iteration (the range test of Smith 2017, section 3.3) until one update moves the
generator's samples by a certain share of the data's spread. That share means the same for every width, initialization
and data set, which a rate does not (cf. Yang et al. 2022, muP). The state is then as it was before. A short run trains
faster than that: it has fewer updates to get as far.
"""

import copy
import logging
import math
from collections.abc import Sequence

import torch

from ganscale.health.diversity import NUM_DIRECTIONS, diversity, spread_sums
from ganscale.models.layers import frozen_statistics, upcast
from ganscale.parallel.collectives import sum_over_replicas
from ganscale.parallel.phase import PHASE
from ganscale.parallel.replica import Replica
from ganscale.training.batches import Batches
from ganscale.training.build import Experiment
from ganscale.training.objective import Batch

SLOWEST, FASTEST = 1e-6, 2e-2
"""Rates between which the test looks."""
PER_DOUBLING = 8
"""Iterations in which the rate doubles: the updates before weigh as much as 11 at the last rate."""
SMOOTHING = 0.75
"""Weight of the past in the moving average of the movement."""
MOVEMENT = 0.07
"""Movement of samples per update, in standard deviations of the data, at which the test ends (docs/auto.md)."""
LENGTH = 16_000
"""Iterations of a run that trains with the rate at which the test ends; a longer one does, too."""
MOST = 16.0
"""Largest factor by which a shorter run trains faster, but not faster than `FASTEST`."""

_logger = logging.getLogger(__name__)


def find_rate(experiment: Experiment) -> float:
    """Learning rate for both networks, which depends on the run's length; the state is the same before and after.

    The result is a function of config and state alone: a run that is killed during the test finds the same again.

    Args:
        experiment: the run's objects; all replicas call together.
    """
    state, sampler = experiment.state, experiment.sampler
    saved = copy.deepcopy(state.state_dict())
    scale = max(diversity(experiment.reference) / math.sqrt(2.0), 1e-12)
    steps = math.floor(PER_DOUBLING * math.log2(FASTEST / SLOWEST))
    smooth, rate = 0.0, SLOWEST
    for step in range(steps + 1):
        rate = SLOWEST * 2.0 ** (step / PER_DOUBLING)
        PHASE.name = "reading data"
        batches = sampler.batches(state.images)
        before = _samples(experiment, batches)
        controls = experiment.schedule.controls(state.images, augment_p=state.augment_p, gamma=state.gamma, rate=rate)
        experiment.iterate(batches, controls)
        after = _samples(experiment, batches)
        moved = _distance(before, after) / scale
        smooth = moved if step == 0 else SMOOTHING * smooth + (1.0 - SMOOTHING) * moved
        state.images += sampler.images_per_iteration
        state.iteration += 1
        if not smooth < MOVEMENT:  # also where it is NaN
            break
    state.load_state_dict(saved)
    PHASE.name = "between iterations"
    iterations = experiment.config.train.images / sampler.images_per_iteration
    factor = min(MOST, max(1.0, LENGTH / iterations), FASTEST / rate)
    if Replica.current().is_rank_zero:
        _logger.info(
            "optim.auto: both rates are %.2g, %.2g times the %.2g at which an update moves samples by %.2g deviations",
            factor * rate,
            factor,
            rate,
            smooth,
        )
    return factor * rate


@torch.no_grad()
def _samples(experiment: Experiment, batches: Batches) -> list[torch.Tensor]:
    """This replica's samples of an iteration, one tensor per micro-batch."""
    generator = experiment.step.g
    micros: Sequence[Batch] = batches.generator or batches.discriminator[-1]
    with frozen_statistics(generator.norms):
        return [upcast(generator.network(batch.z, batch.labels)) for batch in micros]


def _distance(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    """Root mean square distance of samples before and after an update, per dimension, over all replicas."""
    parts = [spread_sums(new - old) for old, new in zip(before, after, strict=True)]
    (sums,) = sum_over_replicas([torch.stack(parts).sum(0)])
    return math.sqrt(float(sums[NUM_DIRECTIONS : 2 * NUM_DIRECTIONS].sum() / sums[-1]))
