"""Settings that contradict each other, found before anything starts."""

from ganscale.config.errors import ConfigError
from ganscale.config.schema import Config

POINT_DATA = frozenset({"ring", "grid"})


def check(config: Config) -> None:
    """Check settings against each other.

    Raises:
        ConfigError: for the first contradiction; it names key, value and remedy.
    """
    _check_batch(config)
    _check_resolution(config)
    _check_norms(config)
    if config.wandb.mode == "online" and not config.wandb.project.strip():
        raise ConfigError("W&B needs a project", key="wandb.project", value=config.wandb.project, remedy="name one")


def _check_batch(config: Config) -> None:
    train = config.train
    if train.accumulation > train.batch_size:
        raise ConfigError(
            f"more micro-batches than images in the global batch (train.batch_size = {train.batch_size})",
            key="train.accumulation",
            value=train.accumulation,
            remedy=f"use at most {train.batch_size}",
        )
    if config.cluster.num_workers != "auto":
        check_workers(config, config.cluster.num_workers)


def check_workers(config: Config, num_workers: int) -> None:
    """Refuse a number of workers for which a worker would have no image in a micro-batch."""
    train = config.train
    if train.batch_size // train.accumulation < num_workers:
        raise ConfigError(
            f"the global batch gives each of {num_workers} workers less than one image per micro-batch "
            f"(train.accumulation = {train.accumulation})",
            key="train.batch_size",
            value=train.batch_size,
            remedy=f"use train.batch_size >= {num_workers * train.accumulation} or fewer workers (cluster.num_workers)",
        )


def _check_resolution(config: Config) -> None:
    points = config.data.name in POINT_DATA
    resolution = config.data.resolution
    for side in ("generator", "discriminator"):
        name = getattr(config.model, side).name
        if name != "dcgan":
            continue
        if points:
            raise ConfigError(
                f"convolutions cannot make the 2-D points of data.name = {config.data.name}",
                key=f"model.{side}.name",
                value=name,
                remedy="use mlp",
            )
        if resolution != 28 and (resolution < 16 or resolution & (resolution - 1)):
            raise ConfigError(
                f"model.{side}.name = dcgan cannot make this resolution",
                key="data.resolution",
                value=resolution,
                remedy="use 28 or a power of two from 16, or the mlp architecture",
            )


def _check_norms(config: Config) -> None:
    workers = config.cluster.num_workers
    for side in ("generator", "discriminator"):
        norm = getattr(config.model, side).norm
        if norm == "local_batch" and workers != 1:
            raise ConfigError(
                "statistics of each worker's own images make the result depend on the number of workers",
                key=f"model.{side}.norm",
                value=norm,
                remedy="use norm: batch (statistics over all workers, exact) or cluster.num_workers: 1",
            )
