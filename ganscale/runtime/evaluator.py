"""An evaluation as a Ray Train job: as many workers as asked for find the same numbers as one."""

from pathlib import Path
from typing import Any

from ganscale.config import Config, ConfigError
from ganscale.metrics.result import Evaluation
from ganscale.runtime.cluster import connected, nodes
from ganscale.runtime.group import Group, prepare_worker, run_group
from ganscale.runtime.judge import evaluate_checkpoints
from ganscale.runtime.resources import place


def evaluate_on_ray(config: Config, folders: list[Path], storage: Path) -> list[Evaluation]:
    """Judge checkpoints on `cluster.num_workers` workers.

    Args:
        config: the run's, with the protocol in its section `eval`.
        folders: of the checkpoints; every node must see them.
        storage: folder for Ray's own files; every node must see it.

    Raises:
        ConfigError: data, checkpoint or extractor are not there or damaged, or the cluster is too small.
        TrainingError: a worker failed.
    """
    with connected(config):
        group = Group(config, place(config, nodes()), storage, 0)
        return run_group(_evaluate_loop, {"folders": [str(folder) for folder in folders]}, group)


def _evaluate_loop(settings: dict[str, Any]) -> list[Evaluation] | ConfigError:
    folders = [Path(folder) for folder in settings["folders"]]
    try:
        config, device = prepare_worker(settings)
        return evaluate_checkpoints(config, folders, device=device)
    except ConfigError as error:
        return error
