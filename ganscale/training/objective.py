"""What D is trained on: the adversarial loss and the penalties, as one module with one forward."""

from collections.abc import Callable, Set
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ganscale.losses import AdversarialLoss, DataToData, Targets, penalties
from ganscale.models.layers import (
    MinibatchStddev,
    WithoutZeros,
    batch_norms,
    frozen_statistics,
    place_rows,
    upcast,
    uses_batch_statistics,
)
from ganscale.parallel.collectives import all_reduce_sum
from ganscale.parallel.random import Stream
from ganscale.training.augment import Augmentation
from ganscale.training.ema import LogitAverages
from ganscale.training.schedules import Number, PenaltyWeights, is_on


class Batch(NamedTuple):
    """This replica's rows of one micro-batch.

    Attributes:
        reals: images `[N, C, H, W]` or points `[N, 2]`.
        z: latents `[N, latent_dim]`.
        labels: classes `[N]`, or None.
        position: global index of the first row, from which all its random numbers follow; int64 `[]` in a CUDA graph.
        deviation: of all numbers of the global batch's reals, `[]`, where DRAGAN is due.
        place: of its rows among those of the micro-batch on all replicas, as D counts them (packed): number of the
            first, and number of all; None where there are no other rows.
    """

    reals: Tensor
    z: Tensor
    labels: Tensor | None = None
    position: int | Tensor = 0
    deviation: Tensor | None = None
    place: tuple[int, int] | None = None


class Draws:
    """Random numbers for rows of a batch, by purpose: functions of (seed, purpose, global index).

    Args:
        seed: the run's seed.
        device: where the numbers are made.
    """

    def __init__(self, seed: int, device: torch.device | str) -> None:
        self._seed = seed
        self._device = device
        self._streams: dict[str, Stream] = {}

    def uniform(
        self, purpose: str, position: int | Tensor, shape: torch.Size | tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        """Uniform numbers in [0, 1): `shape`.

        Args:
            purpose: names the stream, so that uses are independent.
            position: global index of the first row.
            shape: its first entry counts the rows.
            dtype: of the numbers.
        """
        start, offset = (0, position) if isinstance(position, Tensor) else (position, None)
        return self._stream(purpose).uniform(start, start + shape[0], shape[1:], dtype, offset=offset)

    def normal(
        self, purpose: str, position: int | Tensor, shape: torch.Size | tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        """Standard normal numbers: `shape`. Arguments: `uniform`."""
        start, offset = (0, position) if isinstance(position, Tensor) else (position, None)
        return self._stream(purpose).normal(start, start + shape[0], shape[1:], dtype, offset=offset)

    def _stream(self, purpose: str) -> Stream:
        if purpose not in self._streams:
            self._streams[purpose] = Stream(self._seed, purpose, self._device)
        return self._streams[purpose]


@dataclass(frozen=True)
class View:
    """The input of D made of examples: augmented, noisy, packed.

    Attributes:
        draws: random numbers.
        augmentation: transforms, or None.
        packing: examples per row of D's input (PacGAN).
        channels_last: whether D's input has NHWC memory.
    """

    draws: Draws
    augmentation: Augmentation | None = None
    packing: int = 1
    channels_last: bool = False

    def __call__(self, x: Tensor, purpose: str, position: int | Tensor, *, noise: Number, p: Number) -> Tensor:
        """D's input for examples.

        Args:
            x: `[N, C, ...]`.
            purpose: of the random numbers: "real", "fake" or "generator".
            position: global index of the first row.
            noise: standard deviation of instance noise.
            p: probability of each transform.

        Returns:
            `[N / packing, packing * C, ...]`.
        """
        if self.augmentation and is_on(p):
            u = self.draws.uniform(f"augment/{purpose}", position, (x.shape[0], self.augmentation.num_numbers), x.dtype)
            noise_image = None
            if self.augmentation.needs_noise:
                noise_image = self.draws.normal(f"augment/{purpose}/noise", position, x.shape, x.dtype)
            x = self.augmentation(x, u, p, noise_image)
        if is_on(noise):
            x = x + noise * self.draws.normal(f"noise/{purpose}", position, x.shape, x.dtype)
        x = pack(x, self.packing)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last and x.dim() == 4 else x


def pack(x: Tensor, packing: int) -> Tensor:
    """Join consecutive examples along the channels: `[N, C, ...]` to `[N / packing, packing * C, ...]`.

    Args:
        x: examples.
        packing: examples per row.
    """
    return x if packing == 1 else x.reshape(x.shape[0] // packing, packing * x.shape[1], *x.shape[2:])


def grouped(discriminator: nn.Module) -> tuple[MinibatchStddev, ...]:
    """Layers that must know which rows of the micro-batch of all replicas they see (`place_rows`).

    Args:
        discriminator: the network.
    """
    layers = (module for module in discriminator.modules() if isinstance(module, MinibatchStddev))
    return tuple(layer for layer in layers if layer.group_size)


def discriminate(discriminator: nn.Module, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """D's logits `[N]`, and if it classifies its class logits `[N, num_classes]` or embeddings `[N, E]` (ReACGAN).

    Args:
        discriminator: the network.
        x: its input.
        labels: classes, or None.
    """
    if not getattr(discriminator, "classifies", False):
        return discriminator(x, labels), None
    return discriminator.forward_with_classes(x, labels)  # pyright: ignore[reportCallIssue]


def class_loss(
    discriminator: nn.Module, outputs: Tensor, batch: Batch, data_to_data: DataToData | None = None
) -> Tensor:
    """Cross-entropy of class logits (Odena et al. 2017, Eq. 2), or ReACGAN's loss of embeddings: `[N]`.

    Args:
        discriminator: the network.
        outputs: of `discriminate`.
        batch: the rows.
        data_to_data: ReACGAN's loss, or None.
    """
    assert batch.labels is not None, "a network that classifies gets labels"
    if data_to_data is None:
        return cross_entropy(outputs, batch.labels, reduction="none")
    proxies: Callable[..., Tensor] = discriminator.get_submodule("head").proxies  # pyright: ignore[reportAssignmentType]
    return data_to_data(outputs, proxies(batch.labels), batch.labels, batch.position)


class DiscriminatorOutput(NamedTuple):
    """The outcome of D's forward.

    Attributes:
        loss: this replica's share of the objective, times the scale.
        real_logits: `[N]`, without gradient.
        fake_logits: `[N]`, without gradient.
        penalties: detached sums over rows, unweighted, of those that were due.
    """

    loss: Tensor
    real_logits: Tensor
    fake_logits: Tensor
    penalties: dict[str, Tensor]


class DiscriminatorObjective(nn.Module):
    """D on real and fake rows, the loss of both and the penalties: the module that DDP wraps.

    DDP sees a single forward and backward however often D runs inside. Real and fake rows go through D in one pass
    unless D's output for a row depends on the other rows (batch norm, minibatch stddev).

    Args:
        discriminator: the network.
        loss: the adversarial objective.
        view: makes D's input.
        targets: labels of the classification.
        class_weight: weight of the class loss if D classifies.
        gp_target: norm that one-centered penalties pull towards.
        estimated: which of "r1" and "r2" are finite differences.
        sigma: standard deviation of their steps.
        averages: of D's logits, for LeCam.
        data_to_data: ReACGAN's class loss, of real rows only; None for AC-GAN's.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: AdversarialLoss,
        view: View,
        *,
        targets: Targets,
        class_weight: float,
        gp_target: float,
        estimated: Set[str] = frozenset(),
        sigma: float = 0.01,
        averages: LogitAverages | None = None,
        data_to_data: DataToData | None = None,
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.loss = loss
        self.view = view
        self.targets = targets
        self.class_weight = class_weight
        self.one_centered = partial(penalties.one_centered, target=gp_target)
        self.estimated = estimated
        self.sigma = sigma
        self.averages = averages
        self.data_to_data = data_to_data
        self.fused = not uses_batch_statistics(discriminator)
        self._grouped = grouped(discriminator)
        self._norms = batch_norms(discriminator)
        self._recomputes = any(getattr(module, "recomputes", False) for module in discriminator.modules())

    def forward(
        self, batch: Batch, fakes: Tensor | None, weights: PenaltyWeights, scale: float, noise: Number, p: Number
    ) -> DiscriminatorOutput:
        """Loss and penalties of D on `batch.reals` and `fakes`, summed over rows and multiplied by `scale`.

        Args:
            batch: this replica's rows.
            fakes: as many, without G's graph; None for R1 alone, which is due.
            weights: of the penalties.
            scale: makes the sum over replicas a mean over the global batch.
            noise: standard deviation of instance noise.
            p: probability of each transform.
        """
        place_rows(self._grouped, batch.place)
        if fakes is None:
            return self._r1_alone(batch, weights.r1, scale, noise, p)
        reals = batch.reals
        due = {name for name in ("r1", "r2") if is_on(getattr(weights, name))}
        exact = due - self.estimated
        if "r1" in exact:
            reals = reals.detach().requires_grad_(True)
        if "r2" in exact:
            fakes = fakes.detach().requires_grad_(True)
        seen_reals = self.view(reals, "real", batch.position, noise=noise, p=p)
        seen_fakes = self.view(fakes, "fake", batch.position, noise=noise, p=p)
        # Shift the inputs of penalties that are finite differences; all else is drawn as without the shift.
        shifted = {}
        for name, purpose, x in (("r1", "real", reals), ("r2", "fake", fakes)):
            if name in due & self.estimated:
                step = self.view.draws.normal(f"penalty/{name}", batch.position, x.shape, x.dtype)
                shifted[name] = self.view(x + self.sigma * step, purpose, batch.position, noise=noise, p=p)
        # One pass for all is cheapest, unless only one side's gradient is wanted: that would run through both.
        fused = self.fused and len(exact) != 1
        real_logits, fake_logits, of_classes, others = self._logits(
            seen_reals, seen_fakes, batch.labels, list(shifted.values()), fused=fused
        )
        rows = self.loss.discriminator_loss(real_logits, fake_logits, self.targets)
        # AC-GAN classifies real and fake, ReACGAN real rows.
        shown = of_classes[: 1 if self.data_to_data else 2]
        losses = [class_loss(self.discriminator, outputs, batch, self.data_to_data) for outputs in shown]
        if losses:
            rows = rows + self.class_weight * torch.stack(losses).sum(0)
        values = self._penalties(batch, reals, fakes, real_logits, fake_logits, weights, exact)
        for name, logits in zip(shifted, others, strict=True):
            unshifted = real_logits if name == "r1" else fake_logits
            values[name] = penalties.finite_difference(unshifted, logits, self.sigma)
        total = rows.sum()
        for name, value in values.items():
            total = total + getattr(weights, name) * value.sum()
        sums = {name: value.detach().sum() for name, value in values.items()}
        return DiscriminatorOutput(total * scale, real_logits.detach(), fake_logits.detach(), sums)

    def _r1_alone(self, batch: Batch, weight: Number, scale: float, noise: Number, p: Number) -> DiscriminatorOutput:
        """R1 of D without its loss; every parameter gets a gradient, if only 0, as DDP expects."""
        reals = batch.reals.detach().requires_grad_(True)
        with frozen_statistics(self._norms):
            seen = self.view(reals, "real", batch.position, noise=noise, p=p)
            logits = self.discriminator(seen, batch.labels)
        gradients = pack(penalties.input_gradients(logits, reals)[0], self.view.packing)
        value = penalties.zero_centered(gradients).sum()
        nothing = 0.0 * torch.stack([x.sum() for x in self.discriminator.parameters() if x.requires_grad]).sum()
        logits = logits.detach()
        return DiscriminatorOutput((weight * value + nothing) * scale, logits, logits, {"r1": value.detach()})

    def _logits(
        self, reals: Tensor, fakes: Tensor, labels: Tensor | None, shifted: list[Tensor], *, fused: bool
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...], list[Tensor]]:
        """Logits of all, and if D classifies what it says about the classes of real and fake."""
        inputs = [reals, fakes, *shifted]
        if fused:
            repeated = None if labels is None else labels.repeat(len(inputs))
            logits, outputs = discriminate(self.discriminator, torch.cat(inputs), repeated)
            real_logits, fake_logits, *others = logits.chunk(len(inputs))
            return real_logits, fake_logits, () if outputs is None else outputs.chunk(len(inputs))[:2], others
        real_logits, of_reals = discriminate(self.discriminator, reals, labels)
        fake_logits, of_fakes = discriminate(self.discriminator, fakes, labels)
        with frozen_statistics(self._norms):
            others = [self.discriminator(x, labels) for x in shifted]
        of_classes = () if of_reals is None or of_fakes is None else (of_reals, of_fakes)
        return real_logits, fake_logits, of_classes, others

    def _penalties(
        self,
        batch: Batch,
        reals: Tensor,
        fakes: Tensor,
        real_logits: Tensor,
        fake_logits: Tensor,
        weights: PenaltyWeights,
        exact: set[str],
    ) -> dict[str, Tensor]:
        """Values of the penalties that are due and no finite differences, one per packed row."""
        values = {}
        packing = self.view.packing
        sides = {"r1": (real_logits, reals), "r2": (fake_logits, fakes)}
        due = {name: side for name, side in sides.items() if name in exact}
        if due:
            logits, inputs = zip(*due.values(), strict=True)
            gradients = penalties.input_gradients(torch.cat(logits), *inputs)
            values = {n: penalties.zero_centered(pack(g, packing)) for n, g in zip(due, gradients, strict=True)}
        if is_on(weights.gp):
            share = self._share("penalty/gp", batch)
            points = penalties.interpolate(pack(batch.reals, packing), pack(fakes.detach(), packing), share)
            values["gp"] = self.one_centered(self._gradients_at(points, batch.labels))
        if is_on(weights.dragan):
            share = self._share("penalty/dragan", batch)
            noise = self.view.draws.uniform("penalty/dragan/noise", batch.position, reals.shape, reals.dtype)
            assert batch.deviation is not None, "the step measures it"
            points = penalties.perturb(pack(batch.reals, packing), pack(noise, packing), share, batch.deviation)
            values["dragan"] = self.one_centered(self._gradients_at(points, batch.labels))
        if is_on(weights.drift):
            values["drift"] = penalties.drift(real_logits)
        if is_on(weights.lecam):
            assert self.averages is not None, "built where there is a weight"
            *means, some = (each.to(real_logits.dtype) for each in self.averages.means())
            values["lecam"] = some * penalties.lecam(real_logits, fake_logits, *means)
        if is_on(weights.centering):
            values["centering"] = penalties.centering(real_logits, fake_logits)
        return values

    def _share(self, purpose: str, batch: Batch) -> Tensor:
        """One uniform number per packed row."""
        rows = (batch.reals.shape[0], 1)
        return self.view.draws.uniform(purpose, batch.position, rows, batch.reals.dtype)[:: self.view.packing, 0]

    def _gradients_at(self, points: Tensor, labels: Tensor | None) -> Tensor:
        points = points.detach().requires_grad_(True)
        with nullcontext() if self._recomputes else WithoutZeros():  # a recomputation would run without
            logits = self.discriminator(points, labels)
        return penalties.input_gradients(logits, points)[0]


@dataclass(frozen=True)
class GeneratorObjective:
    """What G is trained on: D's logits of its fakes, and feature matching if it has a weight.

    Attributes:
        discriminator: the network, its parameters frozen by the caller.
        loss: the adversarial objective.
        view: makes D's input.
        class_weight: weight of the class loss if D classifies.
        feature_matching: weight of the distance between mean features.
        batch_rows: rows of the global batch as D counts them (packed).
        data_to_data: ReACGAN's class loss; None for AC-GAN's.
    """

    discriminator: nn.Module
    loss: AdversarialLoss
    view: View
    class_weight: float
    feature_matching: float
    batch_rows: int
    data_to_data: DataToData | None = None

    @cached_property
    def _grouped(self) -> tuple[MinibatchStddev, ...]:
        return grouped(self.discriminator)

    def __call__(self, batch: Batch, fakes: Tensor, scale: float, noise: Number, p: Number) -> Tensor:
        """This replica's share of G's objective: `[]`.

        Args:
            batch: this replica's rows.
            fakes: as many, with G's graph.
            scale: makes the sum over replicas a mean over the global batch.
            noise: standard deviation of instance noise.
            p: probability of each transform.
        """
        place_rows(self._grouped, batch.place)
        seen = self.view(fakes, "generator", batch.position, noise=noise, p=p)
        logits, outputs = discriminate(self.discriminator, seen, batch.labels)
        reals = None
        if self.loss.compares or self.feature_matching:
            reals = self.view(batch.reals, "generator/real", batch.position, noise=noise, p=p)
        real_logits = None
        if self.loss.compares:
            with torch.no_grad():
                real_logits = self.discriminator(reals, batch.labels)
        total = self.loss.generator_loss(logits, real_logits).sum()
        if outputs is not None:
            of_classes = class_loss(self.discriminator, outputs, batch, self.data_to_data)
            total = total + self.class_weight * of_classes.sum()
        total = total * scale
        if self.feature_matching:
            total = total + self.feature_matching * self._feature_distance(reals, seen, batch.labels)
        return total

    def _feature_distance(self, reals: Tensor | None, fakes: Tensor, labels: Tensor | None) -> Tensor:
        """|mean f(x) - mean f(G(z))|^2 of the micro-batch of all replicas, weighted by its share of the batch.

        Every replica returns the same value; the differentiable sum and DDP's mean make its gradient the right one.
        """
        features: Callable[..., Tensor] = self.discriminator.features  # pyright: ignore[reportAssignmentType]
        with torch.no_grad():
            real_sum = upcast(features(reals, labels)).sum(0)
        fake_sum = upcast(features(fakes, labels)).sum(0)
        rows = fake_sum.new_full((1,), float(fakes.shape[0]))
        total = all_reduce_sum(torch.cat((fake_sum - real_sum, rows)))
        count = total[-1].detach()
        return (total[:-1] / count).square().sum() * (count / self.batch_rows)
