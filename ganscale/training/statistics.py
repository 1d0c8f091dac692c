"""Numbers of the update for the log, for health verdicts and for ADA: kept as tensors until a tick needs them."""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ganscale.health.diversity import copies, diversity, mean_gap, sliced_frechet, spread_sums
from ganscale.health.stragglers import time_metrics
from ganscale.losses import AdversarialLoss, Targets
from ganscale.parallel.clock import Lap, RankTimes
from ganscale.parallel.collectives import num_replicas, sum_over_replicas

NUM_BINS = 128
LOGIT_UNIT, LOGIT_RANGE = 0.05, 1e4
LOGIT_EDGES: tuple[float, ...] = tuple(
    LOGIT_UNIT * math.sinh(math.asinh(LOGIT_RANGE / LOGIT_UNIT) * (2 * i / NUM_BINS - 1)) for i in range(NUM_BINS + 1)
)
"""Edges of the bins of D's logits: dense around 0, wider outwards, the same for every run; the outer bins are open."""
BEYOND_CHANCE = 6.0
"""Four times what `sliced_frechet` subtracts for its mean: batches of 8 examples of the data set hardly reach that."""


Total = Callable[[Sequence[Tensor]], list[Tensor]]
"""Sums tensors over all replicas, in float64 and without gradient."""


class Statistics(NamedTuple):
    """Detached tensors of one iteration on this replica; losses and penalties are its share of the global mean.

    Attributes:
        loss_d: loss of the last D update, `[]`.
        loss_g: loss of the G update, `[]`.
        penalties: unweighted value `[]` of each penalty that was due, from the last D update in which it was.
        sums: with ADA `signs`, the sum of sign(D(real)) of all D updates and their number, float64 `[2]`; the others
            with `details` only, over the rows of the last D update: `rows`, `adversarial` (D's loss without
            penalties and classes, `[]`), and for `real` and `fake` each
            `<side>_sum`, `<side>_square`, `<side>_right` (`[]`), `<side>_bins` (`[NUM_BINS]`, logits per bin of
            `LOGIT_EDGES`) and `<side>_spread` (`diversity.spread_sums`).
        grad_norms: with `details` only, `grad_norm_d` and `grad_norm_g`, the same on all replicas.
    """

    loss_d: Tensor
    loss_g: Tensor
    penalties: dict[str, Tensor]
    sums: dict[str, Tensor]
    grad_norms: dict[str, Tensor]


def add_to(total: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    """Add tensors to those of the same names in `total`, in place.

    Args:
        total: changed in place; names that it lacks are added.
        more: tensors by name.
    """
    for name, value in more.items():
        total[name] = total[name] + value if name in total else value


def batch_sums(
    real_logits: Tensor, fake_logits: Tensor, reals: Tensor, fakes: Tensor, loss: AdversarialLoss, targets: Targets
) -> dict[str, Tensor]:
    """Sums over the rows of a micro-batch, as `Statistics.sums` holds them.

    Args:
        real_logits: of D, `[N]`.
        fake_logits: of D, `[N]`.
        reals: real examples, `[N, ...]`.
        fakes: fake examples, `[N, ...]`.
        loss: the objective, with the logit above which D decides for real, if it has one; without, each real logit is
            compared with the fake one of its row.
        targets: labels of real and fake.
    """
    above, below = (fake_logits, real_logits) if loss.boundary is None else (loss.boundary, loss.boundary)
    sums = {
        "rows": real_logits.new_tensor(float(real_logits.shape[0])),
        "adversarial": loss.discriminator_loss(real_logits, fake_logits, targets).sum(),
    }
    for name, logits, right, examples in (
        ("real", real_logits, real_logits > above, reals),
        ("fake", fake_logits, fake_logits < below, fakes),
    ):
        sums |= {f"{name}_sum": logits.sum(), f"{name}_square": logits.square().sum(), f"{name}_right": right.sum()}
        sums |= {f"{name}_bins": logit_bins(logits.detach()), f"{name}_spread": spread_sums(examples)}
    return sums


def logit_bins(logits: Tensor) -> Tensor:
    """Count the finite logits in each bin of `LOGIT_EDGES`, without a host sync: `[NUM_BINS]`.

    Args:
        logits: of D, `[N]`.
    """
    values = logits.reshape(-1).to(torch.float32)
    finite = values.isfinite()
    share = torch.asinh(values / LOGIT_UNIT) / math.asinh(LOGIT_RANGE / LOGIT_UNIT)
    places = ((share + 1) * (NUM_BINS / 2)).nan_to_num(0.0, NUM_BINS, 0.0).clamp(0, NUM_BINS - 1).to(torch.int64)
    return values.new_zeros(NUM_BINS).scatter_add_(0, places, finite.to(values.dtype))


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients of a network, after the all-reduce: `[]`.

    Args:
        parameters: of the network; those without a gradient are left out.
    """
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)


@torch.no_grad()
def weight_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all weights of a network, without a host sync: `[]`.

    Args:
        parameters: of the network.
    """
    return torch.nn.utils.get_total_norm(list(parameters), foreach=True)


def has_finite_weights(network: nn.Module) -> bool:
    """Whether a network's weights are all finite, so that its samples can be evaluated; the same on all replicas.

    Args:
        network: the generator.
    """
    return math.isfinite(float(weight_norm(list(network.parameters()))))


def logit_signs(real_logits: Tensor, loss: AdversarialLoss) -> Tensor:
    """Sum of sign(D(real)) around the loss's boundary, and the number of rows: float64 `[2]`.

    Args:
        real_logits: of D, `[N]`.
        loss: the objective, which has a boundary.
    """
    signs = (real_logits - (loss.boundary or 0.0)).sign().double()
    return torch.stack((signs.sum(), signs.new_full((), float(signs.numel()))))


def add_signs(
    signs: tuple[float, float], more: Sequence[Tensor], total: Total = sum_over_replicas
) -> tuple[float, float]:
    """The numerator and denominator of ADA's r_t (Karras et al. 2020, Eq. 1), over all replicas; a collective call.

    Args:
        signs: of earlier iterations, over all replicas.
        more: this replica's `signs` of further iterations, at least one.
        total: sums over all replicas.
    """
    found, rows = total([torch.stack([*more]).sum(0)])[0].tolist()
    return signs[0] + found, signs[1] + rows


def probe_metrics(sums: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Metrics from the sums of all replicas; those that there are.

    `held_out_gap`: by how many standard deviations D's logits on the training batch exceed those on held-out examples.
    `class_margin`: mean over standard deviation of how much better D finds an example's class than another one (by its
    logit, or by its cross-entropy if it classifies).

    Args:
        sums: of `probe.Probe`, over all replicas.
    """
    metrics = {}
    if "held_out" in sums:
        (mean, variance), (other, other_variance) = (_mean_and_variance(sums[name]) for name in ("trained", "held_out"))
        metrics["held_out_gap"] = (mean - other) / max(math.sqrt((variance + other_variance) / 2.0), 1e-12)
    if "classes" in sums:
        mean, variance = _mean_and_variance(sums["classes"])
        metrics["class_margin"] = mean / max(math.sqrt(variance), 1e-12)
    return metrics


def _mean_and_variance(sums: Sequence[float]) -> tuple[float, float]:
    mean = sums[1] / sums[0]
    return mean, max(sums[2] / sums[0] - mean**2, 0.0)


class Window:
    """Sums since the last tick, and the newest penalties; tensors until the tick turns them into numbers."""

    def __init__(self) -> None:
        self._lap = Lap()
        self._iterations = 0
        self._losses: dict[str, Tensor] = {}
        self._penalties: dict[str, Tensor] = {}

    def add(self, statistics: Statistics) -> None:
        """Add an iteration.

        Args:
            statistics: of the iteration.
        """
        self._iterations += 1
        self._penalties |= statistics.penalties
        add_to(self._losses, {"loss_d": statistics.loss_d, "loss_g": statistics.loss_g})

    def share(self, more: Sequence[float]) -> list[float]:
        """Spread the sums evenly over the replicas, so that none is lost with one of them; a collective call.

        Args:
            more: further numbers of this replica.

        Returns:
            The sums of `more` over all replicas.
        """
        replicas, values = num_replicas(), [*self._losses.values(), *self._penalties.values()]
        *totals, summed = sum_over_replicas([*values, torch.tensor(more, dtype=torch.float64)])
        if replicas > 1:
            shares = iter([total / replicas for total in totals])
            self._losses = dict(zip(self._losses, shares, strict=False))
            self._penalties = dict(zip(self._penalties, shares, strict=False))
        return summed.tolist()

    def sums(self, factor: float) -> dict[str, Any]:
        """What was added so far, for `load_sums`.

        Args:
            factor: of all tensors.
        """
        return {
            "iterations": self._iterations,
            "times": self._lap.times,
            "losses": {name: value * factor for name, value in self._losses.items()},
            "penalties": {name: value * factor for name, value in self._penalties.items()},
        }

    def load_sums(self, sums: Mapping[str, Any], factor: float) -> None:
        """Continue from `sums`.

        Args:
            sums: of another window.
            factor: of all tensors.
        """
        self._iterations = sums["iterations"]
        self._lap.resume(sums["times"])
        self._losses = {name: value * factor for name, value in sums["losses"].items()}
        self._penalties = {name: value * factor for name, value in sums["penalties"].items()}

    @contextmanager
    def paused(self) -> Generator[None]:
        """Leave the time in the block out of the window's."""
        pause = Lap()
        yield
        self._lap.skip(pause)

    def close(
        self,
        statistics: Statistics,
        images_per_iteration: int,
        reference: Sequence[float],
        total: Total = sum_over_replicas,
    ) -> tuple[dict[str, float], dict[str, list[float]], tuple[RankTimes, ...]]:
        """Reduce the window's numbers over all replicas in one message.

        Args:
            statistics: of the last iteration, with details.
            images_per_iteration: over all replicas.
            reference: `spread_sums` of the data set.
            total: sums over all replicas.

        Returns:
            The tick's metrics by name, counts of D's logits by bin for `real` and `fake`, and times by rank.
        """
        penalties = {f"penalty_{name}": value for name, value in self._penalties.items()}
        times = {"times": self._lap.of_all_ranks(statistics.sums["rows"])}
        tensors = statistics.sums | penalties | self._losses | times
        totals = total([*tensors.values()])
        sums: dict[str, Any] = {name: value.tolist() for name, value in zip(tensors, totals, strict=True)}
        metrics = {name: sums[name] / self._iterations for name in self._losses}
        for side in ("real", "fake"):
            mean = sums[f"{side}_sum"] / sums["rows"]
            metrics[f"{side}_logit_mean"] = mean
            metrics[f"{side}_logit_std"] = max(0.0, sums[f"{side}_square"] / sums["rows"] - mean**2) ** 0.5
            metrics[f"d_accuracy_{side}"] = sums[f"{side}_right"] / sums["rows"]
        metrics["adversarial_loss_d"] = sums["adversarial"] / sums["rows"]
        real, fake = sums["real_spread"], sums["fake_spread"]
        metrics |= {"diversity_real": diversity(real), "diversity_fake": diversity(fake)}
        metrics |= {"copies_real": copies(real), "copies_fake": copies(fake)}
        metrics |= {"mean_gap": mean_gap(real, fake), "sliced_frechet": sliced_frechet(real, fake)}
        metrics["sliced_frechet_real"] = sliced_frechet(reference, real, chance=BEYOND_CHANCE)
        metrics |= {name: sums[name] for name in penalties} | probe_metrics(sums)
        metrics |= {name: float(value) for name, value in statistics.grad_norms.items()}
        ranks = tuple(RankTimes(*each) for each in sums["times"])
        metrics |= time_metrics(ranks, self._iterations, waits=statistics.loss_d.device.type == "cpu")
        seconds = self._lap.seconds
        metrics["seconds_per_iteration"] = seconds / self._iterations
        metrics["images_per_second"] = self._iterations * images_per_iteration / seconds
        return metrics, {side: sums[f"{side}_bins"] for side in ("real", "fake")}, ranks
