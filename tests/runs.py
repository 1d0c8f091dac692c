"""Tiny runs that several test files share, as overrides of the default config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ganscale.config import Config, load
from ganscale.run.health_monitor import TIMES
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from ganscale.training.build import Experiment, build

MLP = (
    "data.resolution=8",
    "model.latent_dim=8",
    "model.generator.width=12",
    "model.discriminator.width=12",
)
DCGAN = (
    "data.resolution=16",
    "model.latent_dim=8",
    *(f"model.generator.{setting}" for setting in ("name=dcgan", "width=3", "norm=none")),
    *(f"model.discriminator.{setting}" for setting in ("name=dcgan", "width=3", "norm=none")),
)
RING = (*MLP, "data.name=ring", "model.latent_dim=2")
RESNET = (
    "data.resolution=16",
    "model.latent_dim=8",
    *(f"model.generator.{setting}" for setting in ("name=resnet", "width=3", "norm=none")),
    *(f"model.discriminator.{setting}" for setting in ("name=resnet", "width=3")),
)
R3GAN = (
    "data.resolution=16",
    "model.latent_dim=8",
    *(f"model.generator.{s}" for s in ("name=r3gan", "width=4", "max_width=4", "depth=1", "group_size=4")),
    *(f"model.discriminator.{s}" for s in ("name=r3gan", "width=4", "max_width=4", "depth=1", "group_size=4")),
)
TRANSFORMER = (
    "data.resolution=16",
    "model.latent_dim=8",
    *(
        f"model.{side}.{setting}"
        for side in ("generator", "discriminator")
        for setting in ("name=transformer", "width=8", "heads=2", "depth=4", "patch=8")
    ),
)
BIGGAN = (
    "data.resolution=16",
    "model.latent_dim=8",
    *(f"model.generator.{s}" for s in ("name=biggan", "width=1", "attention=8", "conditioning=concat", "class_dim=4")),
    *(f"model.discriminator.{s}" for s in ("name=biggan", "width=1", "attention=8", "conditioning=projection")),
)
STYLEGAN2 = (
    "data.resolution=16",
    "model.latent_dim=8",
    *(f"model.generator.{s}" for s in ("name=stylegan2", "channel_base=64", "channel_max=8", "w_dim=8")),
    "model.generator.mapping_layers=2",
    *(f"model.discriminator.{s}" for s in ("name=stylegan2", "channel_base=64", "channel_max=8")),
)
BATCH_NORM = ("model.generator.norm=batch", "model.discriminator.norm=batch")
QUIET = ("wandb.mode=disabled", "log.num_samples=4", "train.device=cpu", "log.details=false", "checkpoint.mode=inline")
"""Inline, as ticks of tiny runs come faster than checkpoints are synced: all that are due are made."""
EXACT = ("train.precision=float64", "train.batch_size=12", "ema.half_life=100", "optim.lr_g=1e-3", "optim.lr_d=1e-3")
FIFTY = (
    *EXACT,
    *MLP,
    "train.images=600",
    "log.every=60",
    "checkpoint.every=120",
    "log.samples_every=600",
    "eval.every=0",
)
"""50 iterations of 12 images."""


def tiny(*overrides: str) -> Config:
    """A run in float64 with a global batch of 12, small enough for hundreds of iterations per second."""
    return load(overrides=(*EXACT, *overrides))


def saved(folder: Path, *overrides: str, images: int = 0, metrics: Mapping[str, float] | None = None) -> Experiment:
    """A run in `folder` with one more checkpoint, at `images` images; its average differs from its generator."""
    experiment = build(load(overrides=overrides))
    state = experiment.state
    state.images = images
    with torch.no_grad():
        for index, parameter in enumerate(state.ema.module.parameters()):
            parameter.mul_(1.5).add_(0.01 * index + 1e-9 * images)
    config = experiment.config.model_dump(mode="json")
    CheckpointStore(folder / "checkpoints", keep=99).save(state.state_dict(), config=config, metrics=metrics or {})
    return experiment


def rows(run: RunDir) -> list[dict[str, Any]]:
    """A run's rows of metrics with the columns that are a function of the config: no times, no memory.

    Args:
        run: its folder.
    """
    others = (*TIMES, "memory_mib")
    return [{name: value for name, value in row.items() if name not in others} for row in read_metrics(run.pull())]
