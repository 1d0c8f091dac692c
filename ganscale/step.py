"""One synchronised update of discriminator and generator. Knows two networks, a loss and two optimizers, nothing else.

Per iteration each network's gradients cross the wire once per optimizer step: `d_steps * |D| + |G|` numbers. Losses
are sums over this replica's rows divided by the *global* batch, so shares may be uneven; DDP's division by the world
size is undone by a factor.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ganscale.collectives import Replica, data_parallel
from ganscale.layers import batch_norms, frozen_statistics, uses_batch_statistics
from ganscale.losses import AdversarialLoss


class Batch(NamedTuple):
    """This replica's rows of one micro-batch.

    Attributes:
        reals: images `[N, C, H, W]` or points `[N, 2]`.
        z: latents `[N, latent_dim]`.
        labels: classes `[N]`, or None.
    """

    reals: Tensor
    z: Tensor
    labels: Tensor | None = None


@dataclass
class Statistics:
    """Detached 0-dimensional tensors of one iteration; sums run over this replica's rows of the last D update.

    Losses are this replica's share of the global mean: summed over replicas they give the mean.
    """

    loss_d: Tensor
    loss_g: Tensor
    details: dict[str, Tensor]
    """Only when asked for: `grad_norm_d`, `grad_norm_g` (the same on all replicas) and `rows`, `real_sum`,
    `real_square`, `real_right`, and the same for `fake`."""


class DiscriminatorObjective(nn.Module):
    """D on real and fake rows and the loss of both: the module that DDP wraps, so that it sees a single forward.

    Real and fake rows go through D in one pass unless D's output for a row depends on the other rows (batch norm).
    """

    def __init__(self, discriminator: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.loss = loss
        self.fused = not uses_batch_statistics(discriminator)

    def forward(
        self, reals: Tensor, fakes: Tensor, labels: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (`sum(loss) * scale`, real_logits `[N]`, fake_logits `[N]`), the logits without gradient."""
        if self.fused:
            both = None if labels is None else torch.cat((labels, labels))
            real_logits, fake_logits = self.discriminator(torch.cat((reals, fakes)), both).chunk(2)
        else:
            real_logits = self.discriminator(reals, labels)
            fake_logits = self.discriminator(fakes, labels)
        loss = self.loss(real_logits, fake_logits).sum() * scale
        return loss, real_logits.detach(), fake_logits.detach()


class Step:
    """Alternating updates: `d_steps` of D, then one of G (Goodfellow et al. 2014, Algorithm 1).

    Args:
        generator: maps z and labels to examples.
        discriminator: maps examples and labels to logits `[N]`.
        loss: the adversarial objective.
        optimizer_g: over the generator's parameters.
        optimizer_d: over the discriminator's parameters.
        batch_size: global batch of one D update.
        label_smoothing: one-sided, for the discriminator's real targets.
        replica: this process among the replicas.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        optimizer_g: Optimizer,
        optimizer_d: Optimizer,
        *,
        batch_size: int,
        label_smoothing: float = 0.0,
        replica: Replica | None = None,
    ) -> None:
        replica = replica or Replica.current()
        self.generator = generator
        self.discriminator = discriminator
        self.generator_loss = loss.generator
        self.optimizer_g = optimizer_g
        self.optimizer_d = optimizer_d
        objective = DiscriminatorObjective(discriminator, lambda r, f: loss.discriminator(r, f, label_smoothing))
        self.parallel_g = data_parallel(generator, replica)
        self.parallel_d = data_parallel(objective, replica)
        self.world_size = replica.world_size
        self.scale = replica.world_size / batch_size
        self.parameters_d = list(discriminator.parameters())
        self.norms_g = batch_norms(generator)
        self.norms_d = batch_norms(discriminator)
        self.settled = replica.world_size == 1

    def __call__(
        self,
        batches: Sequence[Sequence[Batch]],
        generator_batches: Sequence[Batch] | None = None,
        *,
        details: bool = False,
    ) -> Statistics:
        """Run one iteration.

        Args:
            batches: the micro-batches of each D update: `d_steps` sequences of `accumulation` batches.
            generator_batches: the micro-batches of the G update; None to take those of the last D update, whose forward
                pass of G is then shared as well if there is no accumulation.
            details: also return logit statistics and gradient norms.
        """
        if not self.settled:
            self._settle(batches[-1][0])
        share = generator_batches is None and len(batches[-1]) == 1
        fakes = self._fakes_with_graph(batches[-1][0]) if share else None
        *earlier, last = batches
        for micros in earlier:
            self._update_discriminator(micros, None, details=False)
        loss_d, numbers = self._update_discriminator(last, fakes, details=details)
        loss_g = self._update_generator(generator_batches or last, fakes)
        if details:
            numbers["grad_norm_g"] = _gradient_norm(self.generator)
        return Statistics(loss_d, loss_g, numbers)

    def _settle(self, batch: Batch) -> None:
        """Let DDP lay out its buckets for good, which it does after its first backward.

        The rounding of sums depends on that layout; so every update, also the first one after a resume, must find it.
        """
        with frozen_statistics((*self.norms_g, *self.norms_d)):
            fakes = self._fakes_with_graph(batch)
            self.parallel_d(batch.reals, fakes.detach(), batch.labels, self.scale)[0].backward()
            fakes.sum().backward()
        self.settled = True

    def _update_discriminator(
        self, micros: Sequence[Batch], fakes: Tensor | None, *, details: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.optimizer_d.zero_grad(set_to_none=True)
        total, numbers = None, {}
        for index, batch in enumerate(micros):
            with _synchronised(self.parallel_d, index == len(micros) - 1):
                made = self._fakes_without_graph(batch) if fakes is None else fakes.detach()
                loss, real_logits, fake_logits = self.parallel_d(batch.reals, made, batch.labels, self.scale)
                loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
            if details:
                _add(numbers, _logit_sums(real_logits, fake_logits))
        if details:
            numbers["grad_norm_d"] = _gradient_norm(self.discriminator)
        self.optimizer_d.step()
        assert total is not None, "an update has at least one micro-batch"
        return total / self.world_size, numbers

    def _update_generator(self, micros: Sequence[Batch], fakes: Tensor | None) -> Tensor:
        self.optimizer_g.zero_grad(set_to_none=True)
        total = None
        for parameter in self.parameters_d:
            parameter.requires_grad_(False)
        for index, batch in enumerate(micros):
            with _synchronised(self.parallel_g, index == len(micros) - 1), frozen_statistics(self.norms_d):
                made = self._fakes_with_graph(batch) if fakes is None else fakes
                loss = self.generator_loss(self.discriminator(made, batch.labels)).sum() * self.scale
                loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        for parameter in self.parameters_d:
            parameter.requires_grad_(True)
        self.optimizer_g.step()
        assert total is not None, "an update has at least one micro-batch"
        return total / self.world_size

    def _fakes_with_graph(self, batch: Batch) -> Tensor:
        return self.parallel_g(batch.z, batch.labels)

    def _fakes_without_graph(self, batch: Batch) -> Tensor:
        with torch.no_grad(), frozen_statistics(self.norms_g):
            return self.generator(batch.z, batch.labels)


def _synchronised(module: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Reduce gradients in the last micro-batch only; the block must hold forward *and* backward."""
    if last or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def _logit_sums(real_logits: Tensor, fake_logits: Tensor) -> dict[str, Tensor]:
    """Sums of logits and of right decisions (D is right where it gives real above 0 and fake below)."""
    sums = {"rows": real_logits.new_tensor(float(real_logits.shape[0]))}
    for name, logits, right in (("real", real_logits, real_logits > 0), ("fake", fake_logits, fake_logits < 0)):
        sums |= {f"{name}_sum": logits.sum(), f"{name}_square": logits.square().sum(), f"{name}_right": right.sum()}
    return sums


def _add(total: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    for name, value in more.items():
        total[name] = total[name] + value if name in total else value


def _gradient_norm(module: nn.Module) -> Tensor:
    """Euclidean norm of all gradients of a network, after the reduction."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients, foreach=True)
