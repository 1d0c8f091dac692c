"""What each worker on Ray does with `cluster.recovery: live`."""

from typing import Any

from ganscale.config import Config, ConfigError
from ganscale.launch.heartbeat_actor import ActorChannel
from ganscale.launch.worker_group import TrainingError
from ganscale.run.live import run_live
from ganscale.run.outcome import Outcome
from ganscale.run.stop_signal import StopReason
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import Place


def train_live(
    config: Config, path: Place, channel: ActorChannel, *, num_workers: int, **options: Any
) -> Outcome | TrainingError:
    """Train in one worker, until the run ends or stops; run in each worker, also in those that replace others.

    Args:
        config: the run.
        path: its folder, or its place in a bucket.
        channel: to the actor that counts the attempt's workers.
        num_workers: of the attempt.
        **options: of `run_live`.

    Returns:
        How the run ended; or why the workers are to restart: all have died, and the state with them. The driver
        restarts them within its budget, where Ray would do it without limit.

    Raises:
        Exception: of `run_live`; Ray then replaces this worker, as one that died.
    """
    folder = RunDir(path)
    channel.start()

    def begin() -> None:
        starts, failure = channel.starts()
        if starts > num_workers and CheckpointStore(folder.checkpoints).images() < config.train.images:
            raise TrainingError(failure or "all workers died, and the state of the run with them")

    try:
        return run_live(config, path, ask=lambda: everyone(channel.ask()), begin=begin, heartbeats=channel, **options)
    except TrainingError as error:
        return error
    except ConfigError:
        raise
    except Exception as error:
        channel.fail(f"{type(error).__name__}: {error}")
        raise


def everyone(requested: StopReason) -> StopReason:
    """What a worker does that is requested to stop: nobody leaves alone, as Ray starts no other elsewhere.

    Args:
        requested: by the driver; RESIZE is no request of the driver's but of a worker that joins, to rank 0.
    """
    if requested == StopReason.DRAIN:
        return StopReason.STOP
    return StopReason.NONE if requested == StopReason.RESIZE else requested
