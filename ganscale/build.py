"""From a `Config` to objects: the only place where names become networks, losses, optimizers and data."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Adam

from ganscale.collectives import Replica
from ganscale.config import Config
from ganscale.data import ImageSource, PointSource, Source, StackedSource
from ganscale.data.gaussians import MIXTURES
from ganscale.data.mnist import load_mnist
from ganscale.ema import MovingAverage
from ganscale.loop import Feed
from ganscale.losses import LOSSES
from ganscale.models import DISCRIMINATORS, GENERATORS, Geometry
from ganscale.random import derive_seed
from ganscale.state import TrainState
from ganscale.step import Step

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Experiment:
    """A run's objects on one replica."""

    config: Config
    state: TrainState
    step: Step
    feed: Feed
    device: torch.device


def build_source(config: Config, device: torch.device) -> Source:
    """The run's real examples, on `device`."""
    data, seed, dtype = config.data, config.run.seed, DTYPES[config.train.precision]
    if data.name in MIXTURES:
        centres, sigma = MIXTURES[data.name]
        return PointSource(centres, sigma, seed=seed, device=device, dtype=dtype)
    images, labels = load_mnist("train", data.resolution)
    if data.name == "stacked_mnist":
        return StackedSource(images, labels, data.num_images, seed=seed, device=device, dtype=dtype)
    return ImageSource(images, labels, 10, seed=seed, device=device, dtype=dtype)


def build_networks(
    config: Config, shape: tuple[int, ...], device: torch.device, *, num_classes: int = 0
) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator with the initial weights of the run's seed: the same on every device and replica.

    Args:
        config: the run.
        shape: of one example.
        device: where they live.
        num_classes: of the data's labels.
    """
    geometry = Geometry(shape, config.model.latent_dim, num_classes)
    dtype = DTYPES[config.train.precision]
    networks = []
    for side, builders in (("generator", GENERATORS), ("discriminator", DISCRIMINATORS)):
        settings = getattr(config.model, side)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.run.seed, f"init/{side}"))
            network = builders[settings.name](settings, geometry)
        networks.append(network.to(device=device, dtype=dtype))
    return networks[0], networks[1]


def build(config: Config, *, device: torch.device | str = "cpu", replica: Replica | None = None) -> Experiment:
    """All objects of a run on this replica, at image 0."""
    device = torch.device(device)
    replica = replica or Replica.current()
    source = build_source(config, device)
    generator, discriminator = build_networks(config, source.shape, device, num_classes=source.num_classes)
    optim, train = config.optim, config.train
    optimizer_g = Adam(generator.parameters(), lr=optim.lr_g, betas=optim.betas_g, eps=optim.eps, fused=True)
    optimizer_d = Adam(discriminator.parameters(), lr=optim.lr_d, betas=optim.betas_d, eps=optim.eps, fused=True)
    ema = MovingAverage(generator, config.ema.half_life)
    step = Step(
        generator,
        discriminator,
        LOSSES[config.loss.name],
        optimizer_g,
        optimizer_d,
        batch_size=train.batch_size,
        label_smoothing=config.loss.label_smoothing,
        replica=replica,
    )
    feed = Feed(
        source,
        seed=config.run.seed,
        latent_dim=config.model.latent_dim,
        latent=config.model.latent,
        batch_size=train.batch_size,
        d_steps=optim.d_steps,
        accumulation=train.accumulation,
        reuse_fakes=train.reuse_fakes,
        conditional=False,
        replica=replica,
        device=device,
        dtype=DTYPES[train.precision],
    )
    state = TrainState(generator, discriminator, ema, optimizer_g, optimizer_d)
    return Experiment(config, state, step, feed, device)
