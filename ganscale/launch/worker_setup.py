"""The first steps of each Ray Train worker. Imports nothing that the driver alone needs, and torch only there."""

from typing import TYPE_CHECKING, Any

import ray

from ganscale.config import Config, parse
from ganscale.config.errors import ExecutionError
from ganscale.config.register import register

if TYPE_CHECKING:
    import torch


class TrainingError(ExecutionError):
    """The workers failed; the message is the root cause."""


def prepare_worker(settings: dict[str, Any]) -> "tuple[Config, torch.device]":
    """Set up a worker: register the user's networks and losses, and return the run's config and the device.

    Args:
        settings: The argument of the worker's function.

    Raises:
        ConfigError: The config does not fit the package that is installed here.
    """
    import torch  # by the workers alone: the driver and Ray's controller need none

    device = torch.device("cpu")
    if ray.get_gpu_ids():
        from ray.train.torch import get_device

        device = get_device()
        torch.cuda.set_device(device)
    register(**settings["extension"])
    return parse(settings["config"]), device
