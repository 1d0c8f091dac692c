"""Evaluation as a Ray Train job; the metrics do not depend on the number of workers."""

from pathlib import Path
from typing import Any

from ganscale.config import Config, ConfigError
from ganscale.evaluation.callback import evaluate_checkpoints
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.launch.cluster import connected, nodes
from ganscale.launch.placement import place
from ganscale.launch.worker_group import WorkerGroupSpec, run_worker_group
from ganscale.launch.worker_setup import prepare_worker
from ganscale.storage.store import Place, open_place


def evaluate_on_ray(config: Config, folders: list[Place], storage: Path) -> list[Evaluation]:
    """Evaluate checkpoints on `cluster.num_workers` workers.

    Args:
        config: The run's config; section `eval` is the protocol.
        folders: Folders of the checkpoints, visible to every node.
        storage: Folder for Ray's own files, visible to every node.

    Raises:
        ConfigError: Data, checkpoint or extractor are missing or damaged, or the cluster is too small.
        TrainingError: A worker failed.
    """
    with connected(config) as joined:
        name = f"{config.run.name}-evaluation"
        group = WorkerGroupSpec(config, place(config, nodes()), storage, 0, name=name, joined=joined)
        found = run_worker_group(_evaluate_loop, {"folders": [str(folder) for folder in folders]}, group).return_value
    assert found is not None, "rank 0 returns the evaluations"
    return found


def _evaluate_loop(settings: dict[str, Any]) -> list[Evaluation] | ConfigError:
    folders = [open_place(folder) for folder in settings["folders"]]
    try:
        config, device = prepare_worker(settings)
        return evaluate_checkpoints(config, folders, device=device)
    except ConfigError as error:
        return error
