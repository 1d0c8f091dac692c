"""One synchronized update of discriminator and generator: two networks, their objectives and optimizers.

Per iteration each network's gradients cross the network once per optimizer step: `d_steps * |D| + |G|` numbers. Losses
are sums over this replica's rows divided by the *global* batch, so shares may be uneven; a factor undoes DDP's division
by the world size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ganscale.losses.penalties import batch_deviation
from ganscale.models.layers import (
    add_orthogonal_gradient,
    advance_power_iteration,
    batch_norms,
    filter_weights,
    frozen_statistics,
    latent_averages,
    spectral_norms,
    upcast,
)
from ganscale.parallel.collectives import data_parallel
from ganscale.parallel.phase import PHASE
from ganscale.parallel.replica import Replica
from ganscale.training import path_length as lengths
from ganscale.training.batches import Batches
from ganscale.training.objective import Batch, DiscriminatorObjective, DiscriminatorOutput, GeneratorObjective
from ganscale.training.schedules import Controls, Number, PenaltyWeights, is_on
from ganscale.training.statistics import Statistics, add_to, batch_sums, gradient_norm, logit_signs


class Optimization(NamedTuple):
    """How a network's weights move.

    Attributes:
        optimizer: over the network's parameters that are trained.
        clip_grad_norm: bound of the gradient norm; 0 for none.
        clip_weights: bound of each weight's absolute value; 0 for none.
        weight_decay: share of the rate by which weights of linear layers and convolutions shrink before each step
            (AdamW, Loshchilov and Hutter 2019, Algorithm 2); 0 for none.
    """

    optimizer: Optimizer
    clip_grad_norm: float = 0.0
    clip_weights: float = 0.0
    weight_decay: float = 0.0


class Side:
    """One network's part in the update: its DDP wrapper, optimizer, norms and bounds.

    Args:
        network: the bare network.
        parallel: the module that runs forward and backward, wrapped in DDP.
        optimization: of the network.
    """

    def __init__(self, network: nn.Module, parallel: nn.Module, optimization: Optimization) -> None:
        self.network = network
        self.parallel = parallel
        self.optimizer, self._clip_grad_norm, self._clip_weights, self._weight_decay = optimization
        self._decayed = decayed(network) if self._weight_decay else []
        self.parameters: list[Tensor] = [each for each in network.parameters() if each.requires_grad]
        self.averages = latent_averages(network)
        self.norms = (*batch_norms(network), *self.averages)
        self._spectral = spectral_norms(network)

    def apply(self, rate: Number, betas: tuple[float, float], *, measure: bool) -> Tensor | None:
        """Clip, step and keep the weights in bounds; return the gradient norm before clipping where it was measured.

        Args:
            rate: learning rate.
            betas: of Adam; other optimizers have none.
            measure: whether to measure the norm even if it is not clipped.
        """
        norm = gradient_norm(self.parameters) if measure or self._clip_grad_norm else None
        if self._clip_grad_norm and norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self._clip_grad_norm, norm, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if "betas" in group:
                group["betas"] = betas
        if self._decayed:
            with torch.no_grad():
                torch._foreach_mul_(self._decayed, 1.0 - rate * self._weight_decay)  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer.step()
        if self._clip_weights:
            with torch.no_grad():
                torch._foreach_clamp_min_(self.parameters, -self._clip_weights)  # pyright: ignore[reportPrivateImportUsage]
                torch._foreach_clamp_max_(self.parameters, self._clip_weights)  # pyright: ignore[reportPrivateImportUsage]
        if self._spectral:
            advance_power_iteration(self._spectral)
        return norm


def decayed(network: nn.Module) -> list[Tensor]:
    """What weight decay shrinks: trained weights of linear layers and convolutions.

    Not biases, scales, embeddings and learned constants; nor weights that spectral norm divides by their size.

    Args:
        network: of the optimizer.
    """
    layers = [each for each in network.modules() if isinstance(each, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    weights = [dict(layer.named_parameters(recurse=False)).get("weight") for layer in layers]
    return [weight for weight in weights if weight is not None and weight.requires_grad]


class Step:
    """Alternating updates: `d_steps` of D, then one of G (Goodfellow et al. 2014, Algorithm 1).

    Args:
        generator: maps z and labels to examples.
        objective_d: D with its loss and penalties.
        objective_g: G's loss through D.
        optimization_g: of the generator.
        optimization_d: of the discriminator.
        batch_size: global batch of one D update, in images.
        orthogonal: weight of G's orthogonal regularization; 0 for none.
        r1_separate: whether R1 has an optimizer step of its own.
        path_length: mean length of G's Jacobian so far, `[]`, which path length regularization moves; None for 0.
        autocast: makes the context in which networks run, for mixed precision.
        replica: this process among the replicas.
    """

    def __init__(
        self,
        generator: nn.Module,
        objective_d: DiscriminatorObjective,
        objective_g: GeneratorObjective,
        optimization_g: Optimization,
        optimization_d: Optimization,
        *,
        batch_size: int,
        orthogonal: float = 0.0,
        r1_separate: bool = False,
        path_length: Tensor | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        replica: Replica | None = None,
    ) -> None:
        replica = replica or Replica.current()
        self.objective_g = objective_g
        self._loss, self._targets = objective_d.loss, objective_d.targets
        self._averages = objective_d.averages
        self.g = Side(generator, self._parallel(lengths.GeneratorModule(generator), replica), optimization_g)
        self.d = Side(objective_d.discriminator, self._parallel(objective_d, replica), optimization_d)
        self.world_size = replica.world_size
        self._draws, self._random_inputs = objective_d.view.draws, getattr(generator, "random_inputs", None)
        self.batch_size, self.r1_separate = batch_size, r1_separate
        self.path_length = torch.zeros(()) if path_length is None else path_length
        self.scale = replica.world_size * objective_d.view.packing / batch_size
        self.autocast = autocast
        self.orthogonal = orthogonal
        self._filters = filter_weights(generator) if orthogonal else ()
        self._buckets_built = not isinstance(self.g.parallel, DistributedDataParallel)

    def __call__(self, batches: Batches, controls: Controls) -> Statistics:
        """Run one iteration.

        Args:
            batches: this replica's rows.
            controls: rates, penalty weights and the like for this iteration.
        """
        updates, generator_batches = batches
        last = updates[-1]
        if not self._buckets_built:
            self._build_ddp_buckets(last[0])
        share = generator_batches is None and len(last) == 1
        fakes = self._fakes_with_graph(last[0]) if share else None
        penalties, signs = {}, {}
        for micros, weights in zip(updates[:-1], controls.penalties[:-1], strict=True):
            _, values, sums, _ = self._update_discriminator(micros, None, controls, weights, details=False)
            penalties |= values
            add_to(signs, sums)
        loss_d, values, sums, norm_d = self._update_discriminator(
            last, fakes, controls, controls.penalties[-1], details=controls.details
        )
        add_to(sums, signs)
        purpose = "generator" if generator_batches is None else "generator/fresh"
        loss_g, norm_g, of_g = self._update_generator(generator_batches or last, fakes, controls, purpose)
        if controls.path_length:
            penalties |= self._regularize_generator(generator_batches or last, controls)
        norms = {"grad_norm_d": norm_d, "grad_norm_g": norm_g}
        norms = {name: norm for name, norm in norms.items() if norm is not None}
        return Statistics(loss_d, loss_g, penalties | values | of_g, sums, norms)

    def _parallel(self, module: nn.Module, replica: Replica) -> nn.Module:
        """The module that runs forward and backward of a network."""
        return data_parallel(module, replica)

    def _zero_grad(self, side: Side) -> None:
        """Forget gradients of earlier updates."""
        side.optimizer.zero_grad(set_to_none=True)

    def _apply(self, side: Side, rate: Number, betas: tuple[float, float], *, measure: bool) -> Tensor | None:
        """`Side.apply` with the gradients of all replicas, which are there after DDP's backward."""
        return side.apply(rate, betas, measure=measure)

    def _build_ddp_buckets(self, batch: Batch) -> None:
        """Let DDP fix the layout of its buckets, which it does after its first backward.

        The rounding of sums depends on that layout; so every update, also the first one after a resume, must find it,
        whichever penalties are due.
        """
        PHASE.name = "D forward"
        with frozen_statistics((*self.g.norms, *self.d.norms)):
            fakes = self._fakes_with_graph(batch)
            with self.autocast():
                output = self.d.parallel(batch, fakes.detach(), PenaltyWeights(), self.scale, 0.0, 0.0)
            output.loss.backward()
            fakes.sum().backward()
        self._buckets_built = True

    def _micro_batches(self, side: Side, micros: Sequence[Batch], name: str) -> Iterator[Batch]:
        """The micro-batches of an update: gradients of the loop's body add up, and are all-reduced in the last.

        Args:
            side: the network that is updated.
            micros: this replica's rows.
            name: of the network, for the phase.
        """
        self._zero_grad(side)
        for index, batch in enumerate(micros):
            with _synchronized(side.parallel, index == len(micros) - 1):
                PHASE.name = f"{name} forward"
                yield batch
        PHASE.name = f"{name} optimizer"

    def _update_discriminator(
        self,
        micros: Sequence[Batch],
        fakes: Tensor | None,
        controls: Controls,
        weights: PenaltyWeights,
        *,
        details: bool,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], Tensor | None]:
        """One D update; returns its shares of loss and penalties, `Statistics.sums`, and the gradient norm."""
        r1 = weights.r1 if self.r1_separate else 0.0
        weights = replace(weights, r1=0.0) if self.r1_separate else weights
        total, penalties, sums = {}, {}, {}
        logits = []
        if is_on(weights.dragan):
            deviation = batch_deviation([batch.reals for batch in micros])
            micros = [batch._replace(deviation=deviation) for batch in micros]
        for batch in self._micro_batches(self.d, micros, "D"):
            fake_rows = self._fakes_without_graph(batch) if fakes is None else fakes.detach()
            output = self._backward_discriminator(batch, fake_rows, controls, weights)
            add_to(total, {"loss": output.loss.detach()})
            add_to(penalties, output.penalties)
            seen = (output.real_logits, output.fake_logits)
            if self._averages is not None:
                logits.append(seen)
            if controls.signs:
                add_to(sums, {"signs": logit_signs(output.real_logits, self._loss)})
            if details:
                add_to(sums, batch_sums(*seen, batch.reals, fake_rows, self._loss, self._targets))
        if self._averages is not None:
            real, fake = (torch.cat(side).double() for side in zip(*logits, strict=True))
            self._averages.update(torch.stack((real.sum(), fake.sum(), real.new_full((), float(real.numel())))))
        norm = self._apply(self.d, controls.lr_d, controls.betas_d, measure=details)
        if is_on(r1):  # an optimizer step on R1 alone (Karras et al. 2020, appendix B)
            for batch in self._micro_batches(self.d, micros, "D"):
                output = self._backward_discriminator(batch, None, controls, PenaltyWeights(r1=r1))
                add_to(penalties, output.penalties)
            self._apply(self.d, controls.lr_d, controls.betas_d, measure=False)
        shares = {name: value * (self.scale / self.world_size) for name, value in penalties.items()}
        return total["loss"] / self.world_size, shares, sums, norm if details else None

    def _backward_discriminator(
        self, batch: Batch, fakes: Tensor | None, controls: Controls, weights: PenaltyWeights
    ) -> DiscriminatorOutput:
        """Forward and backward of D's objective."""
        with self.autocast():
            output = self.d.parallel(batch, fakes, weights, self.scale, controls.noise, controls.augment_p)
        PHASE.name = "D backward"
        output.loss.backward(inputs=self.d.parameters)  # not the images of R1 and R2
        return output

    def _update_generator(
        self, micros: Sequence[Batch], fakes: Tensor | None, controls: Controls, purpose: str
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """The G update; returns this replica's shares of loss and penalty, and between them the gradient norm."""
        total = {}
        for batch in self._micro_batches(self.g, micros, "G"):
            with frozen_statistics(self.d.norms), _constant(self.d.parameters):
                fake_rows = self._fakes_with_graph(batch, purpose) if fakes is None else fakes
                with self.autocast():
                    loss = self.objective_g(batch, fake_rows, self.scale, controls.noise, controls.augment_p)
                PHASE.name = "G backward"
                loss.backward()
            add_to(total, {"loss": loss.detach()})
        penalties = {}
        if self._filters:
            penalties["orthogonal"] = add_orthogonal_gradient(self._filters, self.orthogonal) / self.world_size
        norm = self._apply(self.g, controls.lr_g, controls.betas_g, measure=controls.details)
        for average in self.g.averages:
            average.advance()
        return total["loss"] / self.world_size, norm if controls.details else None, penalties

    def _regularize_generator(self, micros: Sequence[Batch], controls: Controls) -> dict[str, Tensor]:
        """An optimizer step of G on its path lengths alone; returns this replica's share of their mean penalty.

        The mean length is the one before this step, so that the loss is a sum over rows on any replicas.
        """
        sums = {}
        count = lengths.num_taking_part(self.batch_size)
        for batch in self._micro_batches(self.g, micros, "G"):
            assert isinstance(batch.position, int), "there is no CUDA graph"
            rows = lengths.taking_part(batch.position, self.batch_size)
            y = self._draws.normal("path_length", batch.position, batch.reals.shape, batch.reals.dtype)[rows]
            drawn = self._random(batch, "path_length")
            random = tuple(type(each)(*(_taken(x, rows) for x in each)) for each in drawn)
            with frozen_statistics(self.g.norms):
                with self.autocast():
                    found, nothing = self.g.parallel(batch.z[rows], _taken(batch.labels, rows), random, y)
                penalty = (found - self.path_length).square().sum()
                PHASE.name = "G backward"
                (controls.path_length * self.world_size / count * penalty + nothing).backward(inputs=self.g.parameters)
            add_to(sums, {"length": found.detach().sum(), "penalty": penalty.detach()})
        self._apply(self.g, controls.lr_g, controls.betas_g, measure=False)
        lengths.advance(self.path_length, sums["length"], self.batch_size)
        return {"path_length": sums["penalty"] / count}

    def _fakes_with_graph(self, batch: Batch, purpose: str = "generator") -> Tensor:
        with self.autocast():
            return upcast(self.g.parallel(batch.z, batch.labels, self._random(batch, purpose)))

    def _fakes_without_graph(self, batch: Batch) -> Tensor:
        with torch.no_grad(), frozen_statistics(self.g.norms), self.autocast():
            return upcast(self.g.network(batch.z, batch.labels, *self._random(batch)))

    def _random(self, batch: Batch, purpose: str = "generator") -> tuple[Any, ...]:
        """What the generator draws besides z: nothing, or its `random_inputs`."""
        if self._random_inputs is None:
            return ()
        return (self._random_inputs(self._draws, purpose, batch.position, batch.z),)


def _taken(x: Tensor | None, rows: slice) -> Tensor | None:
    return None if x is None else x[rows]


@contextmanager
def _constant(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Compute no gradients of these parameters in the block."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _synchronized(module: nn.Module, last: bool) -> AbstractContextManager[None]:
    """All-reduce gradients in the last micro-batch only; the block must hold forward *and* backward."""
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()
