"""Settings that contradict each other, found before anything starts."""

from ganscale.config.check_model import check_model
from ganscale.config.errors import ConfigError
from ganscale.config.schema import Config


def check(config: Config) -> None:
    """Check settings against each other.

    Raises:
        ConfigError: for the first contradiction; it names key, value and remedy.
    """
    _check_batch(config)
    check_model(config)
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
