"""What W&B gets beside rows: tables, and the artifacts of a run's lineage (data, checkpoint, samples, metrics)."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import Place
from ganscale.tracking.tables import COLUMNS, SampleTable, table_path
from ganscale.tracking.timeline import Incident

TIMELINE = ("images", "kind", "resumed", "time", "seconds_lost", "workers", "text")


def image(picture: np.ndarray) -> Any:
    """An array as W&B's image.

    Args:
        picture: uint8 `[H, W, 3]`.
    """
    import wandb

    return wandb.Image(Image.fromarray(picture))


def sample_table(images: int, table: SampleTable) -> Any:
    """A table of samples as W&B's, without columns that have no value.

    Args:
        images: of the run at that moment.
        table: what it shows.
    """
    import wandb

    lines = table.lines(images)
    columns: list[Any] = [name for name in COLUMNS if any(line[name] is not None for line in lines)]
    rows: list[Any] = [
        [image(line[name]) if name in ("sample", "nearest") else line[name] for name in columns] for line in lines
    ]
    return wandb.Table(columns=columns, data=rows)


def timeline_table(incidents: list[Incident]) -> Any:
    """A time line as W&B's table.

    Args:
        incidents: from `timeline`.
    """
    import wandb

    return wandb.Table(columns=list(TIMELINE), data=[list(each) for each in incidents], allow_mixed_types=True)


def data_artifact(name: str, path: Path) -> Any:
    """The identity of a run's data, without the data: runs on the same data get the same version of it.

    Args:
        name: of the data set.
        path: `data.json` of the run's folder.

    Returns:
        The artifact; None where the file is missing or damaged.
    """
    import wandb

    with suppress(OSError, ValueError):
        facts = json.loads(path.read_bytes())
        facts.pop("earlier", None)
        artifact = wandb.Artifact(f"data-{name}", type="dataset", metadata=facts)
        with artifact.new_file("data.json") as file:
            file.write(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        return artifact
    return None


def checkpoint_artifact(run: str, images: int, files: list[Place]) -> Any:
    """A checkpoint as an artifact.

    Args:
        run: W&B id of the run.
        images: of the checkpoint.
        files: its files.
    """
    import wandb

    artifact = wandb.Artifact(f"checkpoint-{run}", type="model", metadata={"images": images})
    for path in files:
        if isinstance(path, Path):
            artifact.add_file(str(path))
        else:
            with artifact.new_file(path.name, mode="wb") as file:
                file.write(path.read_bytes())
    return artifact


def result_artifacts(run: str, images: int, folder: RunDir, metadata: Mapping[str, Any]) -> list[Any]:
    """What a checkpoint is known by: its newest sample grid with its table, and all evaluations so far.

    Args:
        run: W&B id of the run.
        images: of the checkpoint; later files are left out.
        folder: the run's.
        metadata: of both.
    """
    import wandb

    grids = [path for path in folder.samples.glob("*.png") if path.stem.isdigit() and int(path.stem) <= images]
    newest = max(grids, key=lambda path: int(path.stem), default=None)
    found: dict[str, list[Path]] = {"samples": [], "metrics": []}
    if newest:
        table = table_path(folder.samples, int(newest.stem))
        found["samples"] = [newest, *([table] if table.exists() else [])]
    evaluations = sorted(folder.evaluations.glob("*.json"))
    found["metrics"] = [path for path in evaluations if int(path.name.partition("-")[0]) <= images]
    artifacts = []
    for kind, paths in found.items():
        if paths:
            artifact = wandb.Artifact(f"{kind}-{run}", type=kind, metadata=dict(metadata))
            for path in paths:
                artifact.add_file(str(path))
            artifacts.append(artifact)
    return artifacts
