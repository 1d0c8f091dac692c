"""The training loop: feeds global positions to the step and hands out a `Tick` whenever something is due."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ganscale.data.source import Prefetching, Source
from ganscale.health.diversity import diversity, mean_gap
from ganscale.parallel.collectives import Replica, sum_over_replicas
from ganscale.parallel.random import Stream
from ganscale.training.augment import next_p
from ganscale.training.objective import Batch
from ganscale.training.state import TrainState
from ganscale.training.step import Statistics, Step


@dataclass(frozen=True)
class Tick:
    """A pause of the loop, reached by all replicas alike.

    Attributes:
        images: images so far.
        iteration: iterations so far.
        due: names of the intervals that ended here; "end" when the run is complete, "notice" when it is to be left.
        metrics: plain numbers since the tick before, the same on all replicas but for times.
        histograms: of D's logits in the tick's own iteration, `real` and `fake`: counts by bin of `step.LOGIT_EDGES`.
    """

    images: int
    iteration: int
    due: frozenset[str]
    metrics: dict[str, float]
    histograms: dict[str, list[float]] = field(default_factory=dict)


def due(intervals: Mapping[str, int], before: int, after: int, until: int) -> frozenset[str]:
    """Names of the intervals (in images) of which a multiple lies in (before, after], and "end" from `until` on."""
    names = {name for name, every in intervals.items() if after // every > before // every}
    return frozenset(names | {"end"}) if after >= until else frozenset(names)


def latents(stream: Stream, kind: str, size: int, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """z of rows `start` to `stop - 1` of a stream, "normal" or "uniform" on [-1, 1]: `[stop - start, size]`."""
    if kind == "normal":
        return stream.normal(start, stop, (size,), dtype)
    return stream.uniform(start, stop, (size,), dtype).mul_(2.0).sub_(1.0)


class BatchSampler:
    """Cuts the endless stream of images and latents into this replica's batches.

    Args:
        source: the real examples.
        seed: the run's seed.
        latent_dim: length of z.
        latent: "normal" or "uniform".
        batch_size: global batch of a D update.
        d_steps: D updates per iteration.
        accumulation: micro-batches per update.
        packing: examples that D judges together; they stay on one replica.
        reuse_fakes: whether the G update takes the z of the last D update.
        conditional: whether the networks are shown labels.
        replica: this process among the replicas.
        device: where z is made.
        dtype: of z.
    """

    def __init__(
        self,
        source: Source,
        *,
        seed: int,
        latent_dim: int,
        latent: str,
        batch_size: int,
        d_steps: int,
        accumulation: int,
        packing: int = 1,
        reuse_fakes: bool,
        conditional: bool,
        replica: Replica,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.source = source
        self.latent_dim = latent_dim
        self.latent = latent
        self.batch_size = batch_size
        self.d_steps = d_steps
        self.reuse_fakes = reuse_fakes
        self.conditional = conditional
        self.dtype = dtype
        units = replica.rows(batch_size // packing, accumulation)
        self.rows = [(start * packing, stop * packing) for start, stop in units]
        self._next = -1
        self._z = Stream(seed, "latent", device)
        self._z_generator = Stream(seed, "latent/generator", device)

    @property
    def images_per_iteration(self) -> int:
        """Images that one iteration shows to the discriminator."""
        return self.batch_size * self.d_steps

    def batches(self, images: int) -> tuple[list[list[Batch]], list[Batch] | None]:
        """The batches of the iteration that starts at position `images`, as `Step` takes them."""
        if images != self._next and isinstance(self.source, Prefetching):
            self.source.expect(lambda: self._requests(images))
        self._next = images + self.images_per_iteration
        updates = [
            [self._batch(images + d * self.batch_size + start, stop - start) for start, stop in self.rows]
            for d in range(self.d_steps)
        ]
        if self.reuse_fakes:
            return updates, None
        first = images + (self.d_steps - 1) * self.batch_size
        fresh = [self.latents(self._z_generator, first + start, first + stop) for start, stop in self.rows]
        return updates, [batch._replace(z=z) for batch, z in zip(updates[-1], fresh, strict=True)]

    def _requests(self, images: int) -> Iterator[tuple[int, int]]:
        """The reads to come from position `images` on, in order, without end."""
        for update in itertools.count(images, self.batch_size):
            for start, stop in self.rows:
                yield update + start, update + stop

    def latents(self, stream: Stream, start: int, stop: int) -> Tensor:
        """z of rows `start` to `stop - 1` of a stream: `[stop - start, latent_dim]`."""
        return latents(stream, self.latent, self.latent_dim, start, stop, self.dtype)

    def _batch(self, position: int, count: int) -> Batch:
        reals, labels = self.source.read(position, position + count)
        z = self.latents(self._z, position, position + count)
        return Batch(reals, z, labels if self.conditional else None, position)


def train(
    state: TrainState,
    step: Step,
    sampler: BatchSampler,
    *,
    intervals: Mapping[str, int],
    until: int,
    stop_signal: Callable[[], bool] = lambda: False,
) -> Iterator[Tick]:
    """Train from `state.images` to `until` images, in place, and yield a tick whenever an interval ends.

    The caller does everything else between two ticks: saving, samples, tracking. Losses are means since the last tick;
    logit statistics, gradient norms and the examples' spread are those of the tick's own iteration. The caller may put
    the state back to an earlier one between two ticks; the loop goes on from there.

    Args:
        state: the run so far.
        step: the synchronized update.
        feed: batches by position.
        intervals: name to interval in images.
        until: length of the run in images.
        notice: called before each iteration; whether the caller wants a tick after it, at which it may leave.
    """
    window = _Window()
    while state.images < until:
        after = state.images + sampler.images_per_iteration
        names = due(intervals, state.images, after, until)
        if stop_signal():
            names |= {"stop_signal"}
        rule = step.adaptive
        adapts = rule is not None and (state.iteration + 1) % rule.every == 0
        batches = sampler.batches(state.images)
        statistics = step(
            *batches,
            images=state.images,
            augment_p=state.augment_p,
            rollbacks=state.rollbacks,
            details=bool(names) or adapts,
        )
        if rule is not None and adapts:
            state.augment_p = next_p(
                state.augment_p, _sign_mean(statistics), rule.every * sampler.images_per_iteration, rule
            )
        state.ema.update(sampler.images_per_iteration, step.schedule.half_life(after))
        state.images = after
        state.iteration += 1
        window.add(statistics)
        if names:
            metrics, histograms = window.close(statistics, sampler.images_per_iteration)
            yield Tick(after, state.iteration, names, metrics, histograms)
            window = _Window()


def _sign_mean(statistics: Statistics) -> float:
    """Mean of sign(D(real)), seen from the objective's boundary, over the last D update of all replicas."""
    right, rows = sum_over_replicas([statistics.details["real_right"], statistics.details["rows"]])
    return float(2.0 * right / rows - 1.0)


class _Window:
    """Sums since the last tick, and the newest penalties; tensors until the tick turns them into numbers."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.iterations = 0
        self.loss_d: Tensor | None = None
        self.loss_g: Tensor | None = None
        self.penalties: dict[str, Tensor] = {}

    def add(self, statistics: Statistics) -> None:
        self.iterations += 1
        self.penalties |= statistics.penalties
        if self.loss_d is None or self.loss_g is None:
            self.loss_d, self.loss_g = statistics.loss_d, statistics.loss_g
        else:
            self.loss_d = self.loss_d + statistics.loss_d
            self.loss_g = self.loss_g + statistics.loss_g

    def close(
        self, statistics: Statistics, images_per_iteration: int
    ) -> tuple[dict[str, float], dict[str, list[float]]]:
        assert self.loss_d is not None, "a window holds at least one iteration"
        assert self.loss_g is not None, "a window holds at least one iteration"
        details = dict(statistics.details)
        norms = {name: details.pop(name) for name in ("grad_norm_d", "grad_norm_g")}
        penalties = {f"penalty_{name}": value for name, value in self.penalties.items()}
        names = [*details, *penalties, "loss_d", "loss_g"]
        scalars = [*details.values(), *penalties.values(), self.loss_d, self.loss_g]
        sides = ("real", "fake")
        vectors = [*(statistics.spreads[side] for side in sides), *(statistics.histograms[side] for side in sides)]
        sums = sum_over_replicas([*scalars, *vectors])
        total = {name: float(value) for name, value in zip(names, sums, strict=False)}
        real, fake, *bins = (vector.tolist() for vector in sums[len(names) :])
        histograms: dict[str, list[float]] = dict(zip(sides, bins, strict=True))
        metrics = {name: total[name] / self.iterations for name in ("loss_d", "loss_g")}
        for side in sides:
            mean = total[f"{side}_sum"] / total["rows"]
            metrics[f"{side}_logit_mean"] = mean
            metrics[f"{side}_logit_std"] = max(0.0, total[f"{side}_square"] / total["rows"] - mean**2) ** 0.5
            metrics[f"d_accuracy_{side}"] = total[f"{side}_right"] / total["rows"]
        metrics |= {"diversity_real": diversity(real), "diversity_fake": diversity(fake)}
        metrics["mean_gap"] = mean_gap(real, fake)
        metrics |= {name: total[name] for name in penalties}
        metrics |= {name: float(value) for name, value in norms.items()}
        seconds = time.perf_counter() - self.started
        metrics["seconds_per_iteration"] = seconds / self.iterations
        metrics["images_per_second"] = self.iterations * images_per_iteration / seconds
        return metrics, histograms
