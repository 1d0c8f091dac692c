"""An evaluation as a Ray Train job: as many workers as asked for find the same numbers as one."""

from pathlib import Path
from typing import Any

from ganscale.config import Config, ConfigError
from ganscale.evaluation.callback import evaluate_checkpoints
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.launch.cluster import connected, nodes
from ganscale.launch.placement import place
from ganscale.launch.worker_group import WorkerGroupSpec, prepare_worker, run_worker_group


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
        group = WorkerGroupSpec(config, place(config, nodes()), storage, 0)
        return run_worker_group(_evaluate_loop, {"folders": [str(folder) for folder in folders]}, group)


def _evaluate_loop(settings: dict[str, Any]) -> list[Evaluation] | ConfigError:
    folders = [Path(folder) for folder in settings["folders"]]
    try:
        config, device = prepare_worker(settings)
        return evaluate_checkpoints(config, folders, device=device)
    except ConfigError as error:
        return error
