"""`load_generator`: a trained generator from a run directory, a checkpoint or an export.

    generator = ganscale.load_generator("runs/mnist_mlp")
    images = generator.sample(16)  # [16, 1, 28, 28] in [-1, 1]: the images of seeds 0 to 15

An export is a folder with `config.json` (`Description`, and the checksum of the weights) and `generator.safetensors`.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from ganscale.config import DATASETS, Config, ConfigError, parse
from ganscale.config.evaluation import METRICS
from ganscale.config.section import is_conditional
from ganscale.config.table import find
from ganscale.inference.averages import reconstruct
from ganscale.inference.foreign import SUFFIXES, read_foreign
from ganscale.inference.generator import LANES, MAX_SEED, Description, LoadedGenerator, build_network, rebuild
from ganscale.storage import checkpoint as checkpoints
from ganscale.storage.averages import Snapshot
from ganscale.storage.checkpoint import CheckpointError, CheckpointStore, Manifest
from ganscale.storage.store import Place, open_place
from ganscale.training.build import DTYPES

__all__ = ["LANES", "MAX_SEED", "Description", "LoadedGenerator", "choose_checkpoint", "load_generator"]

CONFIG = "config.json"
WEIGHTS = "generator.safetensors"
EXPORT_FORMAT = 1


def load_generator(
    path: str | Place,
    *,
    device: torch.device | str = "cpu",
    checkpoint: str | int = "newest",
    ema: float | None = None,
) -> LoadedGenerator:
    """Load the moving average of a run's generator.

    Neither the data set nor ray is needed. What the run has of your own must have been registered
    (`ganscale.register`) before.

    Args:
        path: a run directory or its URI, its `checkpoints/` or one checkpoint in it, an export (its folder or its
            `generator.safetensors`), or a pickle of R3GAN or StyleGAN2.
        device: where it computes.
        checkpoint: of a run: "newest" valid one, "best" by `checkpoint.best_metric`, or its number of images.
        ema: width (sigma_rel) of another average of a run with `ema.profiles`, which is reconstructed; `average` of the
            result says how well. None for the run's own.

    Returns:
        The generator in eval mode; `sample` makes images `[N, C, H, W]` in [-1, 1] or points `[N, 2]`.

    Raises:
        ConfigError: there is no generator, it was altered, or this version cannot read it.
    """
    path = open_place(path)
    if path.name.endswith(SUFFIXES):
        _check_newest("a pickle", checkpoint, ema)
        return _load_foreign(path, device)
    if isinstance(path, Path) and (path.name == WEIGHTS or (path / WEIGHTS).exists()):
        _check_newest("an export", checkpoint, ema)
        return _load_export(path.parent if path.name == WEIGHTS else path, device)
    return _load_checkpoint(choose_checkpoint(path, checkpoint), device, ema)


def _check_newest(what: str, checkpoint: str | int, ema: float | None) -> None:
    if ema is not None:
        remedy = "leave it out, or name the folder of a run with ema.profiles"
        raise ConfigError(f"{what} has one average", key="--ema", value=ema, remedy=remedy)
    if checkpoint != "newest":
        problem, remedy = f"{what} has no checkpoints", "leave it out"
        raise ConfigError(problem, key="--checkpoint", value=checkpoint, remedy=remedy)


def choose_checkpoint(path: str | Place, choice: str | int = "newest") -> Place:
    """The folder of one checkpoint.

    Args:
        path: a run directory or its URI, its `checkpoints/` or one checkpoint in it.
        choice: "newest" valid one, "best" by `checkpoint.best_metric`, or its number of images.

    Raises:
        ConfigError: there is no such checkpoint.
    """
    path = open_place(path)
    if (path / "manifest.json").exists():
        if choice != "newest":
            remedy = "leave it out, or name the run's folder"
            raise ConfigError(f"{path} is one checkpoint already", key="--checkpoint", value=choice, remedy=remedy)
        return path
    store = CheckpointStore(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
    if not store.folders():
        problem = "no checkpoint found" if path.exists() else "no such folder"
        remedy = "name a run's folder (runs/NAME), one of its checkpoints, or an exported generator"
        raise ConfigError(problem, key="path", value=str(path), remedy=remedy)
    if choice == "newest":
        warnings: list[str] = []
        manifest = store.newest(warnings.append)
        if manifest is None:
            raise ConfigError("; ".join(warnings), key="path", value=str(path), remedy="name another run")
        return manifest.path
    return _best(store) if choice == "best" else _numbered(store, choice)


def _numbered(store: CheckpointStore, choice: str | int) -> Place:
    known = {str(int(folder.name)): folder for folder in store.folders()}
    text = str(choice).replace("_", "").replace(",", "")
    if text not in known:
        remedy = f"use newest, best, or one of: {', '.join(reversed(known))}"
        raise ConfigError("no such checkpoint", key="--checkpoint", value=choice, remedy=remedy)
    return known[text]


def _best(store: CheckpointStore) -> Place:
    """The checkpoint with the best finite `checkpoint.best_metric`, the later one of equal ones."""
    newest = store.newest(lambda _: None)
    metric = parse(newest.config).checkpoint.best_metric if newest else ""
    higher = metric in METRICS and METRICS[metric].higher_is_better
    found = CheckpointStore(store.folder, best_metric=metric, higher_is_better=higher).best()
    if found is None:
        problem = f"no checkpoint has the metric {metric}" if metric else "this run has no checkpoint.best_metric"
        remedy = "use newest or a number of images; runs with checkpoint.best_metric=NAME keep their best"
        raise ConfigError(problem, key="--checkpoint", value="best", remedy=remedy)
    return found.path


def _load_checkpoint(folder: Place, device: torch.device | str, ema: float | None) -> LoadedGenerator:
    try:
        manifest, state = checkpoints.load(folder)
    except CheckpointError as error:
        remedy = "choose another one with --checkpoint"
        raise ConfigError(f"invalid checkpoint: {error}", key="path", value=str(folder), remedy=remedy) from None
    config = parse(manifest.config)
    weights = state["ema"]
    description = describe(config, manifest, state)
    if ema is None:
        return rebuild(description, weights, config, device)
    if not state.get("averages"):
        remedy = "leave it out; runs with ema.profiles=[0.05, 0.1] can be asked for other averages"
        raise ConfigError("the run kept no averages for it", key="--ema", value=ema, remedy=remedy)
    newest = Snapshot(manifest.iteration, state["averages"])
    parameters, average = reconstruct(folder.parent.parent / "averages", manifest.images, newest, ema)
    # Shards of samples and the like tell generators apart by it.
    sha256 = hashlib.sha256(f"{manifest.sha256} {average}".encode()).hexdigest()
    loaded = rebuild(replace(description, sha256=sha256), weights | parameters, config, device)
    loaded.average = average
    return loaded


def describe(config: Config, manifest: Manifest, state: dict[str, Any]) -> Description:
    """The description of a checkpoint's generator, without reading its data set.

    Args:
        config: the run's.
        manifest: the checkpoint's.
        state: what it holds.
    """
    weights, scale = state["ema"], tuple((zero, one) for zero, one in state.get("scale", ()))
    model, dtype = config.model, DTYPES[config.train.precision]
    description = Description(
        generator=model.generator.model_dump(mode="json"),
        latent_dim=model.latent_dim,
        latent=model.latent,
        shape=find(DATASETS, config.data.name, key="data.name").shape(config.data.resolution, len(scale)),
        num_classes=0,
        dtype=str(dtype).removeprefix("torch."),
        data=config.data.name,
        run=config.run.name,
        images=manifest.images,
        sha256=manifest.sha256,
        scale=scale,
    )
    entry, channels = DATASETS[config.data.name], config.data.channels
    if entry.has_pictures:
        shapes = [entry.shape(config.data.resolution, c) for c in ((3, 1) if channels == "auto" else (channels,))]
        description = min((replace(description, shape=s) for s in shapes), key=lambda d: _num_different(d, weights))
    if not is_conditional(model.generator):
        return description
    return replace(description, num_classes=_num_classes(config, description, weights))


def _num_different(description: Description, weights: dict[str, Tensor]) -> int:
    """Weights whose shapes are not those of the description's generator."""
    built = build_network(replace(description, num_classes=1)).state_dict()
    return sum(built[name].shape != weights[name].shape for name in built.keys() & weights.keys())


def _num_classes(config: Config, description: Description, weights: dict[str, Tensor]) -> int:
    """From the data set's name, or else from the weights: their first dimension is the number of classes."""
    known = DATASETS[config.data.name].num_classes
    if known is not None:
        return known
    for name, built in build_network(replace(description, num_classes=1)).state_dict().items():
        if name in weights and built.shape != weights[name].shape:
            return weights[name].shape[0]
    return 1


def _load_foreign(path: Place, device: torch.device | str) -> LoadedGenerator:
    found = read_foreign(path)
    geometry = found.geometry
    description = Description(
        generator=found.settings,
        latent_dim=geometry.latent_dim,
        latent="normal",
        shape=geometry.shape,
        num_classes=geometry.num_classes,
        dtype="float32",
        data="",
        run=path.name,
        images=found.images,
        sha256=found.sha256,
    )
    return LoadedGenerator(found.ema.to(device), description)


def _load_export(folder: Path, device: torch.device | str) -> LoadedGenerator:
    try:
        raw = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        content = (folder / WEIGHTS).read_bytes()
        if raw.pop("format") != EXPORT_FORMAT:
            raise ValueError(f"its format is not {EXPORT_FORMAT}")
        if hashlib.sha256(content).hexdigest() != raw.pop("weights_sha256"):
            raise ValueError(f"{WEIGHTS} is not the file that {CONFIG} was written for")
        raw.pop("ganscale")
        scale = tuple((zero, one) for zero, one in raw.get("scale", ()))
        description = Description(**{**raw, "shape": tuple(raw["shape"]), "scale": scale})
        weights = load_safetensors(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"the export cannot be read ({reason})", key="path", value=str(folder), remedy="export it again"
        ) from None
    return rebuild(description, weights, device=device)
