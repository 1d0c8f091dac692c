"""The loops that ganscale is compared with: same networks, batch and data, without its guarantees.

They use torch's own layers, shuffling, random numbers and losses.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Adam
from torch.utils.data import DataLoader

from benchmarks.speed.measure import Contender
from benchmarks.speed.parts import Pictures, images_of, networks, uses_batch
from ganscale.config import Config, ConfigError, differences
from ganscale.data import StackedSource
from ganscale.training.build import DTYPES, Experiment
from ganscale.training.schedules import Schedule

KNOWN = (
    *("run", "data", "model", "ema", "log", "checkpoint", "wandb", "cluster"),
    *("optim.lr_g", "optim.lr_d", "optim.betas_g", "optim.betas_d", "optim.eps"),
    *("train.images", "train.batch_size", "train.precision", "train.device", "train.deterministic"),
    "loss.label_smoothing",
)
"""Sections and keys that may differ from the default run: the baselines apply them, or only ganscale pays for them."""


def check(config: Config) -> None:
    """Refuse settings that the baselines do not implement.

    Args:
        config: of the run to measure.

    Raises:
        ConfigError: a setting outside of `KNOWN` is not the default, a network is conditional, the data are 2-D points,
            or the precision is not that of a plain tensor type.
    """
    unknown = {
        key: value
        for key, (_, value) in differences(Config(), config).items()
        if key not in KNOWN and key.partition(".")[0] not in KNOWN
    }
    if config.data.name in ("ring", "grid"):
        unknown["data.name"] = config.data.name
    for side in ("generator", "discriminator"):
        conditioning = getattr(getattr(config.model, side), "conditioning", "none")
        if conditioning != "none":
            unknown[f"model.{side}.conditioning"] = conditioning
    if config.train.precision not in DTYPES:
        unknown["train.precision"] = config.train.precision
    for key, value in unknown.items():
        remedy = "leave it at its default, or measure without baselines (--baselines none)"
        raise ConfigError("the baselines do not implement this", key=key, value=value, remedy=remedy)


class Baseline(Contender):
    """Copies of the run's initial networks, with their own optimizers.

    Args:
        experiment: the run to compare with.
        same_layers: whether to keep ganscale's batch norm.
        fused: whether Adam is fused; None for torch's default.
    """

    def __init__(self, experiment: Experiment, *, same_layers: bool, fused: bool | None) -> None:
        super().__init__(experiment)
        self.generator, self.discriminator = networks(experiment, same_layers)
        self.smoothing = experiment.config.loss.label_smoothing
        optim, start = experiment.config.optim, Schedule(experiment.config).controls(0)
        self.optimizer_g, self.optimizer_d = (
            Adam(network.parameters(), lr=lr, betas=betas, eps=optim.eps, fused=fused)
            for network, lr, betas in (
                (self.generator, start.lr_g, start.betas_g),
                (self.discriminator, start.lr_d, start.betas_d),
            )
        )


class Minimal(Baseline):
    """The shortest loop that computes the same losses.

    Normalized images in memory, one pass of D over real and fake (two if D has batch norm, whose result would differ),
    the fakes of the D update reused for the G update, D frozen there, fused Adam. No EMA, no statistics, no exact
    resume.
    """

    name = "minimal"

    def __init__(self, experiment: Experiment, same_layers: bool = False) -> None:
        super().__init__(experiment, same_layers=same_layers, fused=True)
        self.fused = not uses_batch(self.discriminator)
        source = images_of(experiment)
        self.images = source.images.to(source.dtype).div_(127.5).sub_(1.0)
        self.triples = source.triples if isinstance(source, StackedSource) else None
        self.num_images = source.order.size
        self.order = iter(self._order())

    def run(self, iterations: int) -> None:
        """As `Contender.run`."""
        discriminator = self.discriminator
        for _ in range(iterations):
            rows = next(self.order)
            reals = self.images.index_select(0, rows) if self.triples is None else self.images[self.triples[rows], 0]
            z = torch.randn(self.batch_size, self.latent_dim, device=self.device, dtype=reals.dtype)
            fakes = self.generator(z)

            self.optimizer_d.zero_grad()
            if self.fused:
                real_logits, fake_logits = discriminator(torch.cat((reals, fakes.detach()))).chunk(2)
            else:
                real_logits, fake_logits = discriminator(reals), discriminator(fakes.detach())
            loss_d = softplus(-real_logits).mean() + softplus(fake_logits).mean()
            if self.smoothing:
                loss_d = loss_d + self.smoothing * real_logits.mean()
            loss_d.backward()
            self.optimizer_d.step()

            self.optimizer_g.zero_grad()
            discriminator.requires_grad_(False)
            softplus(-discriminator(fakes)).mean().backward()
            discriminator.requires_grad_(True)
            self.optimizer_g.step()

    def _order(self) -> Iterator[Tensor]:
        """Yield the rows of each batch, reshuffled in each epoch."""
        while True:
            order = torch.randperm(self.num_images, device=self.device)
            yield from order[: self.num_images // self.batch_size * self.batch_size].split(self.batch_size)


class Textbook(Baseline):
    """The loop of tutorials.

    PIL images with ToTensor and Normalize in a DataLoader without workers, two passes of D with one loss each, new z
    and a new pass of G for the G update with unused gradients of D, default Adam, losses read at every step.
    """

    name = "textbook"

    def __init__(self, experiment: Experiment, same_layers: bool = False) -> None:
        super().__init__(experiment, same_layers=same_layers, fused=None)
        dataset = Pictures(images_of(experiment))
        self.loader = DataLoader(dataset, batch_size=self.batch_size, shuffle=True, num_workers=0, drop_last=True)
        self.dtype = DTYPES[experiment.config.train.precision]
        self.order = iter(self._order())
        self.losses_d: list[float] = []
        self.losses_g: list[float] = []

    def run(self, iterations: int) -> None:
        """As `Contender.run`."""
        generator, discriminator = self.generator, self.discriminator
        criterion = nn.BCEWithLogitsLoss()
        ones = torch.ones(self.batch_size, device=self.device, dtype=self.dtype)
        zeros = torch.zeros(self.batch_size, device=self.device, dtype=self.dtype)
        for _ in range(iterations):
            reals = next(self.order).to(self.device, self.dtype)

            self.optimizer_d.zero_grad()
            real_loss = criterion(discriminator(reals), ones * (1.0 - self.smoothing))
            fakes = generator(self._noise())
            fake_loss = criterion(discriminator(fakes.detach()), zeros)
            loss_d = real_loss + fake_loss
            loss_d.backward()
            self.optimizer_d.step()

            self.optimizer_g.zero_grad()
            loss_g = criterion(discriminator(generator(self._noise())), ones)
            loss_g.backward()
            self.optimizer_g.step()

            self.losses_d.append(loss_d.item())
            self.losses_g.append(loss_g.item())

    def _noise(self) -> Tensor:
        return torch.randn(self.batch_size, self.latent_dim, device=self.device, dtype=self.dtype)

    def _order(self) -> Iterator[Tensor]:
        while True:
            for reals, _ in self.loader:
                yield reals


BASELINES: dict[str, Callable[[Experiment, bool], Baseline]] = {"minimal": Minimal, "textbook": Textbook}
