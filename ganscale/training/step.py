"""One synchronized update of discriminator and generator. Knows two networks, their objectives and optimizers, no more.

Per iteration each network's gradients cross the wire once per optimizer step: `d_steps * |D| + |G|` numbers. Losses
are sums over this replica's rows divided by the *global* batch, so shares may be uneven; DDP's division by the world
size is undone by a factor.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ganscale.health.diversity import spread_sums
from ganscale.models.layers import advance_power_iteration, batch_norms, frozen_statistics, spectral_norms, upcast
from ganscale.parallel.collectives import Replica, data_parallel
from ganscale.training.augment import AdaptiveRule
from ganscale.training.objective import Batch, DiscriminatorObjective, GeneratorObjective
from ganscale.training.schedules import Controls, PenaltyWeights, Schedule

NUM_BINS = 128
LOGIT_UNIT, LOGIT_RANGE = 0.05, 1e4
LOGIT_EDGES: tuple[float, ...] = tuple(
    LOGIT_UNIT * math.sinh(math.asinh(LOGIT_RANGE / LOGIT_UNIT) * (2 * i / NUM_BINS - 1)) for i in range(NUM_BINS + 1)
)
"""Of the bins of D's logits: even around 0, ever wider outwards, the same for every run; the last hold the rest."""


@dataclass
class Statistics:
    """Detached tensors of one iteration, 0-dimensional but for histograms.

    Sums run over this replica's rows of the last D update. Losses are its share of the global mean, which
    their sum over replicas gives.
    """

    loss_d: Tensor
    loss_g: Tensor
    penalties: dict[str, Tensor]
    """Of those that were due, in the last D update in which they were: unweighted, shares of the mean as the losses."""
    details: dict[str, Tensor]
    """Only when asked for: `grad_norm_d`, `grad_norm_g` (the same on all replicas) and `rows`, `real_sum`,
    `real_square`, `real_right`, and the same for `fake`."""
    histograms: dict[str, Tensor] = field(default_factory=dict)
    """Only when asked for: `real` and `fake`, how many logits lie in each bin of `LOGIT_EDGES`, `[NUM_BINS]`."""
    spreads: dict[str, Tensor] = field(default_factory=dict)
    """Only when asked for: `real` and `fake`, the examples' `diversity.spread_sums`, `[NUM_SUMS]`."""


class Side:
    """One network's part in the update: its DDP wrapper, optimizer, norms and bounds.

    Args:
        network: the bare network.
        parallel: the module whose forward makes its gradients, wrapped for the replicas.
        optimizer: over its parameters.
        clip_grad_norm: largest norm of its gradients; 0 for any.
        clip_weights: largest size of its weights; 0 for any.
    """

    def __init__(
        self,
        network: nn.Module,
        parallel: nn.Module,
        optimizer: Optimizer,
        *,
        clip_grad_norm: float = 0.0,
        clip_weights: float = 0.0,
    ) -> None:
        self.network = network
        self.parallel = parallel
        self.optimizer = optimizer
        self.clip_grad_norm = clip_grad_norm
        self.clip_weights = clip_weights
        self.parameters: list[Tensor] = list(network.parameters())
        self.norms = batch_norms(network)
        self._spectral = spectral_norms(network)

    def apply(self, rate: float, betas: tuple[float, float], *, measure: bool) -> Tensor | None:
        """Clip, step and keep the weights in bounds; return the gradient norm before clipping if `measure`."""
        norm = _gradient_norm(self.parameters) if measure or self.clip_grad_norm else None
        if self.clip_grad_norm and norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_grad_norm, norm, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"], group["betas"] = rate, betas
        self.optimizer.step()
        if self.clip_weights:
            with torch.no_grad():
                torch._foreach_clamp_min_(self.parameters, -self.clip_weights)  # pyright: ignore[reportPrivateImportUsage]
                torch._foreach_clamp_max_(self.parameters, self.clip_weights)  # pyright: ignore[reportPrivateImportUsage]
        if self._spectral:
            advance_power_iteration(self._spectral)
        return norm


class Step:
    """Alternating updates: `d_steps` of D, then one of G (Goodfellow et al. 2014, Algorithm 1).

    Args:
        generator: maps z and labels to examples.
        objective_d: D with its loss and penalties.
        objective_g: G's loss through D.
        optimizer_g: over the generator's parameters.
        optimizer_d: over the discriminator's parameters.
        plan: rates, betas, noise and penalty weights by images.
        batch_size: global batch of one D update, in images.
        clip_grad_norm_g: largest gradient norm of G; 0 for any.
        clip_grad_norm_d: largest gradient norm of D; 0 for any.
        clip_weights: largest size of D's weights; 0 for any.
        adaptive: how ADA's p moves, or None.
        autocast: makes the context in which networks run, for mixed precision.
        replica: this process among the replicas.
    """

    def __init__(
        self,
        generator: nn.Module,
        objective_d: DiscriminatorObjective,
        objective_g: GeneratorObjective,
        optimizer_g: Optimizer,
        optimizer_d: Optimizer,
        *,
        schedule: Schedule,
        batch_size: int,
        clip_grad_norm_g: float = 0.0,
        clip_grad_norm_d: float = 0.0,
        clip_weights: float = 0.0,
        adaptive: AdaptiveRule | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        replica: Replica | None = None,
    ) -> None:
        replica = replica or Replica.current()
        self.schedule = schedule
        self.adaptive = adaptive
        self.objective_g = objective_g
        self._boundary = objective_d.loss.boundary
        self.g = Side(generator, data_parallel(generator, replica), optimizer_g, clip_grad_norm=clip_grad_norm_g)
        self.d = Side(
            objective_d.discriminator,
            data_parallel(objective_d, replica),
            optimizer_d,
            clip_grad_norm=clip_grad_norm_d,
            clip_weights=clip_weights,
        )
        self.batch_size = batch_size
        self.world_size = replica.world_size
        self.scale = replica.world_size * objective_d.view.packing / batch_size
        self._autocast = autocast
        self._buckets_built = replica.world_size == 1

    def __call__(
        self,
        batches: Sequence[Sequence[Batch]],
        generator_batches: Sequence[Batch] | None = None,
        *,
        images: int = 0,
        augment_p: float = 0.0,
        rollbacks: int = 0,
        details: bool = False,
    ) -> Statistics:
        """Run one iteration.

        Args:
            batches: the micro-batches of each D update: `d_steps` sequences of `accumulation` batches.
            generator_batches: the micro-batches of the G update; None to take those of the last D update, whose forward
                pass of G is then shared as well if there is no accumulation.
            images: images before this iteration, by which the plan tells rates and weights.
            augment_p: probability of each transform of D's inputs.
            rollbacks: times that the run was rolled back, by which the plan tells rates and weights too.
            details: also return logit statistics, gradient norms and the examples' spread.
        """
        controls = self.schedule.controls(images, rollbacks)
        weights = [
            self.schedule.penalties(images + update * self.batch_size, rollbacks) for update in range(len(batches))
        ]
        if not self._buckets_built:
            self._build_ddp_buckets(batches[-1][0])
        share = generator_batches is None and len(batches[-1]) == 1
        fakes = self._fakes_with_graph(batches[-1][0]) if share else None
        *earlier, last = batches
        penalties = {}
        for micros, due in zip(earlier, weights[:-1], strict=True):
            penalties |= self._update_discriminator(micros, None, controls, due, augment_p, details=False)[1]
        loss_d, more, numbers = self._update_discriminator(
            last, fakes, controls, weights[-1], augment_p, details=details
        )
        penalties |= more
        loss_g = self._update_generator(generator_batches or last, fakes, controls, augment_p, numbers, details=details)
        sides = ("real", "fake") if details else ()
        histograms = {side: numbers.pop(f"{side}_bins") for side in sides}
        spreads = {side: numbers.pop(f"{side}_spread") for side in sides}
        return Statistics(loss_d, loss_g, penalties, numbers, histograms, spreads)

    def _build_ddp_buckets(self, batch: Batch) -> None:
        """Let DDP lay out its buckets for good, which it does after its first backward.

        The rounding of sums depends on that layout; so every update, also the first one after a resume, must find it,
        whichever penalties are due in it.
        """
        with frozen_statistics((*self.g.norms, *self.d.norms)):
            fakes = self._fakes_with_graph(batch)
            with self._autocast():
                judgement = self.d.parallel(batch, fakes.detach(), PenaltyWeights(), self.scale, 0.0, 0.0)
            judgement.loss.backward()
            fakes.sum().backward()
        self._buckets_built = True

    def _update_discriminator(
        self,
        micros: Sequence[Batch],
        fakes: Tensor | None,
        controls: Controls,
        weights: PenaltyWeights,
        augment_p: float,
        *,
        details: bool,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Returns this replica's share of the loss, of the penalties, and the details."""
        self.d.optimizer.zero_grad(set_to_none=True)
        total, penalties, numbers = None, {}, {}
        for index, batch in enumerate(micros):
            with _synchronized(self.d.parallel, index == len(micros) - 1):
                made = self._fakes_without_graph(batch) if fakes is None else fakes.detach()
                with self._autocast():
                    judgement = self.d.parallel(batch, made, weights, self.scale, controls.noise, augment_p)
                judgement.loss.backward(inputs=self.d.parameters)  # not the images of R1 and R2
            total = judgement.loss.detach() if total is None else total + judgement.loss.detach()
            _add(penalties, judgement.penalties)
            if details:
                _add(numbers, _logit_sums(judgement.real_logits, judgement.fake_logits, self._boundary))
                _add(numbers, {"real_spread": spread_sums(batch.reals), "fake_spread": spread_sums(made)})
        norm = self.d.apply(controls.lr_d, controls.betas_d, measure=details)
        if details and norm is not None:
            numbers["grad_norm_d"] = norm
        assert total is not None, "an update has at least one micro-batch"
        shares = {name: value * (self.scale / self.world_size) for name, value in penalties.items()}
        return total / self.world_size, shares, numbers

    def _update_generator(
        self,
        micros: Sequence[Batch],
        fakes: Tensor | None,
        controls: Controls,
        augment_p: float,
        numbers: dict[str, Tensor],
        *,
        details: bool,
    ) -> Tensor:
        self.g.optimizer.zero_grad(set_to_none=True)
        total = None
        for parameter in self.d.parameters:
            parameter.requires_grad_(False)
        for index, batch in enumerate(micros):
            with _synchronized(self.g.parallel, index == len(micros) - 1), frozen_statistics(self.d.norms):
                made = self._fakes_with_graph(batch) if fakes is None else fakes
                with self._autocast():
                    loss = self.objective_g(batch, made, self.scale, controls.noise, augment_p)
                loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        for parameter in self.d.parameters:
            parameter.requires_grad_(True)
        norm = self.g.apply(controls.lr_g, controls.betas_g, measure=details)
        if details and norm is not None:
            numbers["grad_norm_g"] = norm
        assert total is not None, "an update has at least one micro-batch"
        return total / self.world_size

    def _fakes_with_graph(self, batch: Batch) -> Tensor:
        with self._autocast():
            return upcast(self.g.parallel(batch.z, batch.labels))

    def _fakes_without_graph(self, batch: Batch) -> Tensor:
        with torch.no_grad(), frozen_statistics(self.g.norms), self._autocast():
            return upcast(self.g.network(batch.z, batch.labels))


def _synchronized(module: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Reduce gradients in the last micro-batch only; the block must hold forward *and* backward."""
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def _logit_sums(real_logits: Tensor, fake_logits: Tensor, boundary: float | None) -> dict[str, Tensor]:
    """Sums of logits and of right decisions.

    D is right where it gives real above the objective's boundary and fake below; without a boundary where it gives real
    above the fake of the same row.
    """
    above, below = (fake_logits, real_logits) if boundary is None else (boundary, boundary)
    sums = {"rows": real_logits.new_tensor(float(real_logits.shape[0]))}
    for name, logits, right in (("real", real_logits, real_logits > above), ("fake", fake_logits, fake_logits < below)):
        sums |= {f"{name}_sum": logits.sum(), f"{name}_square": logits.square().sum(), f"{name}_right": right.sum()}
        sums[f"{name}_bins"] = logit_bins(logits.detach())
    return sums


def logit_bins(logits: Tensor) -> Tensor:
    """How many of the finite logits lie in each bin of `LOGIT_EDGES`: `[NUM_BINS]`, without waiting for the device."""
    values = logits.reshape(-1).to(torch.float32)
    finite = values.isfinite()
    share = torch.asinh(values / LOGIT_UNIT) / math.asinh(LOGIT_RANGE / LOGIT_UNIT)
    places = ((share + 1) * (NUM_BINS / 2)).nan_to_num(0.0, NUM_BINS, 0.0).clamp(0, NUM_BINS - 1).to(torch.int64)
    return values.new_zeros(NUM_BINS).scatter_add_(0, places, finite.to(values.dtype))


def _add(total: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    for name, value in more.items():
        total[name] = total[name] + value if name in total else value


def _gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients of a network, after the reduction."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)


@torch.no_grad()
def weight_norm(parameters: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all weights of a network; 0-dimensional, without waiting for the device."""
    return torch.nn.utils.get_total_norm(list(parameters), foreach=True)
