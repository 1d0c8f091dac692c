"""What Ray calls in the workers of a run. They import this module by name: it loads neither torch nor the driver."""

from typing import Any

from ganscale.config import ConfigError
from ganscale.launch.worker_setup import TrainingError
from ganscale.run.outcome import Outcome


def train_loop(settings: dict[str, Any]) -> Outcome | ConfigError | TrainingError:
    """`worker_loop.train_loop`, which the workers alone import.

    Args:
        settings: its argument.
    """
    from ganscale.launch import worker_loop

    return worker_loop.train_loop(settings)
