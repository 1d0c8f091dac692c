"""Warm start: weights that a run begins with, from a run, an export or a published pickle (docs/warm_start.md)."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ganscale.config import DATASETS, Config, ConfigError, parse
from ganscale.config.errors import shown
from ganscale.data import Source
from ganscale.inference.foreign import SUFFIXES, read_foreign
from ganscale.inference.load import WEIGHTS, choose_checkpoint, describe, load_generator
from ganscale.parallel.collectives import broadcast_ints, sum_over_replicas
from ganscale.storage import checkpoint
from ganscale.storage.checkpoint import CheckpointError
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import Place, open_place
from ganscale.tracking.jsonl import read_environment
from ganscale.training.build import build_networks
from ganscale.training.state import TrainState
from ganscale.training.transfer import Transfer, apply, match, table, take_moments

KEY = "train.init_from"
MIN_SHARE = 0.1
"""Of the parameters of a network that is taken: a run that takes less is refused."""
SIDES: tuple[str, ...] = ("generator", "discriminator")


@dataclass(frozen=True)
class Origin:
    """What a run can start from.

    Attributes:
        path: the checkpoint's folder, or the file.
        kind: what it is, in words.
        images: that its training had seen.
        sha256: of the checkpoint's state, or of the file.
        architectures: names of those that are there, by "generator" and "discriminator".
        networks: those that are there, by "generator", "discriminator" and "ema", with their weights, on the CPU.
        shapes: of one input, by "generator" and "discriminator".
        moments: states of the optimizers that are there, by "generator" and "discriminator".
        data: name and path of its data set; empty if unknown.
        class_names: of its data set; empty if unknown.
    """

    path: Place
    kind: str
    images: int
    sha256: str
    architectures: dict[str, str]
    networks: dict[str, nn.Module]
    shapes: dict[str, tuple[int, ...]]
    moments: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    data: tuple[str, str] | None = None
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class WarmStart:
    """What a warm start did.

    Attributes:
        lines: for the log; those that begin with a space belong to tables.
        facts: for the record of the run, JSON-compatible.
    """

    lines: list[str]
    facts: dict[str, Any]


def class_names(config: Config, source: Source | None = None) -> tuple[str, ...]:
    """Names of a run's classes; empty where there are none, or where they have only numbers.

    Args:
        config: the run.
        source: its real examples, where they are open.
    """
    return tuple(getattr(source, "class_names", ())) or DATASETS[config.data.name].class_names


def locate(config: Config, images: int | None = None) -> Place:
    """The checkpoint's folder or the file that `train.init_from` names, checked as far as it goes without its weights.

    Args:
        config: the run.
        images: of the checkpoint, in place of `train.init_checkpoint`.

    Raises:
        ConfigError: there is none, or it is of another architecture.
    """
    with _as_setting(config):
        path = open_place(config.train.init_from, key=KEY)
        if path.name.endswith(SUFFIXES):
            if not path.exists():
                raise ConfigError("no such file", key=KEY, value=str(path), remedy="name one that every node sees")
            return path
        if isinstance(path, Path) and (path.name == WEIGHTS or (path / WEIGHTS).exists()):
            return path if path.name == WEIGHTS else path / WEIGHTS
        choice = config.train.init_checkpoint if images is None else images
        found = choose_checkpoint(path, "newest" if (path / "manifest.json").exists() else choice)
        try:
            model = checkpoint.read_manifest(found).config["model"]
            _check_architectures(config, {side: str(model[side]["name"]) for side in SIDES}, found)
        except (CheckpointError, KeyError, TypeError) as error:
            remedy = "choose another one with train.init_checkpoint"
            raise ConfigError(f"invalid checkpoint: {error}", key=KEY, value=str(found), remedy=remedy) from None
        return found


@contextmanager
def _as_setting(config: Config) -> Iterator[None]:
    """Let errors of what reads files name the setting."""
    try:
        yield
    except ConfigError as error:
        if error.key not in ("path", "--checkpoint"):
            raise
        key, value = (KEY, config.train.init_from) if error.key == "path" else ("train.init_checkpoint", error.value)
        problem = str(error).partition("\n")[0].removeprefix(f"{error.key} = {shown(error.value)}: ")
        raise ConfigError(problem, key=key, value=value, remedy=error.remedy) from None


def _check_architectures(config: Config, names: Mapping[str, str], place: Place) -> None:
    """Refuse networks of another architecture."""
    for side in SIDES:
        name = getattr(config.model, side).name
        if side in config.train.init_parts and names.get(side, name) != name:
            raise ConfigError(
                f"the {side} of {place} is {names[side]}",
                key=f"model.{side}.name",
                value=name,
                remedy=f"use {names[side]} with its settings, or leave {side} out of train.init_parts",
            )


def read(config: Config, images: int | None = None) -> Origin:
    """Read the networks that `train.init_from` names.

    Args:
        config: the run.
        images: of the checkpoint, in place of `train.init_checkpoint`.

    Raises:
        ConfigError: there is none, it cannot be read, or it is of another architecture.
    """
    place = locate(config, images)
    with _as_setting(config):
        if place.name.endswith(SUFFIXES):
            origin = _read_pickle(place)
        elif place.name == WEIGHTS:
            origin = _read_export(place)
        else:
            origin = _read_checkpoint(place)
    _check_architectures(config, origin.architectures, place)
    parts = config.train.init_parts
    there = {*origin.networks, *(["optimizers"] if origin.moments else [])}
    lacks = [part for part in parts if part not in there]
    if lacks:
        left = [part for part in parts if part in there]
        raise ConfigError(
            f"{origin.kind} has no {' and no '.join(lacks)}",
            key="train.init_parts",
            value=list(parts),
            remedy=f"use {shown(left)}" if left else "name a run",
        )
    return origin


def _read_pickle(path: Place) -> Origin:
    found = read_foreign(path, key=KEY)
    geometry = found.geometry
    shapes = {"generator": (geometry.latent_dim,), "discriminator": geometry.shape}
    networks = {"generator": found.generator, "discriminator": found.discriminator, "ema": found.ema}
    name: str = found.settings["name"]
    kind, names = f"a pickle of {name}", dict.fromkeys(SIDES, name)
    return Origin(path, kind, found.images, found.sha256, names, networks, shapes)


def _read_export(path: Place) -> Origin:
    loaded = load_generator(path)
    description = loaded.description
    known = DATASETS.get(description.data)
    return Origin(
        path,
        "an export",
        description.images,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        {"generator": description.generator["name"]},
        {"generator": loaded.network, "ema": loaded.network},
        {"generator": (description.latent_dim,)},
        class_names=known.class_names if known else (),
    )


def _read_checkpoint(folder: Place) -> Origin:
    try:
        manifest, state = checkpoint.load(folder)
        config = parse(manifest.config)
        geometry = describe(config, manifest, state)
        cpu = torch.device("cpu")
        generator, discriminator = build_networks(config, geometry.shape, cpu, num_classes=geometry.num_classes)
        average = copy.deepcopy(generator)
        for network, part in ((generator, "generator"), (discriminator, "discriminator"), (average, "ema")):
            network.load_state_dict(state[part])
    except ConfigError as error:
        problem = f"the config of checkpoint {folder.name} is not valid here: {str(error).partition(chr(10))[0]}"
        raise ConfigError(problem, key=KEY, value=str(folder), remedy=error.remedy) from None
    except (CheckpointError, KeyError, TypeError, RuntimeError) as error:
        problem, remedy = f"invalid checkpoint: {error}", "choose another one with train.init_checkpoint"
        raise ConfigError(problem, key=KEY, value=str(folder), remedy=remedy) from None
    channels, *others = geometry.shape
    return Origin(
        folder,
        f"run {config.run.name}",
        manifest.images,
        manifest.sha256,
        {side: getattr(config.model, side).name for side in SIDES},
        {"generator": generator, "discriminator": discriminator, "ema": average},
        {"generator": (config.model.latent_dim,), "discriminator": (config.model.packing * channels, *others)},
        {"generator": state["optimizer_g"], "discriminator": state["optimizer_d"]},
        (config.data.name, config.data.path),
        class_names(config) or _recorded_classes(folder),
    )


def _recorded_classes(folder: Place) -> tuple[str, ...]:
    """Names of classes from the record of the run that a checkpoint lies in."""
    with suppress(OSError, ValueError, RecursionError):
        raw = json.loads((folder.parent.parent / "environment.json").read_bytes())
        names = raw.get("classes", []) if isinstance(raw, dict) else []
        return tuple(names) if all(isinstance(name, str) for name in names) else ()
    return ()


def _same_classes(config: Config, source: Source, origin: Origin) -> tuple[dict[int, int], str]:
    """Class here to the same class there; and why there is none, where the question cannot be answered."""
    if config.train.init_classes == "index":
        return {index: index for index in range(source.num_classes)}, ""
    here, there = class_names(config, source), origin.class_names
    if here and there:
        return {index: there.index(name) for index, name in enumerate(here) if name in there}, ""
    if origin.data == (config.data.name, config.data.path):
        return {index: index for index in range(source.num_classes)}, ""
    side = "here" if not here else "there"
    return {}, f"the classes {side} have no names (train.init_classes=index: same numbers)"


def start(config: Config, state: TrainState, source: Source, origin: Origin, *, whole: bool = False) -> WarmStart:
    """Give a run's networks what they can take.

    Args:
        config: the run.
        state: at image 0; changed in place.
        source: the real examples.
        origin: to start from.
        whole: whether the table shall also list what is taken whole.

    Raises:
        ConfigError: a network takes less than `MIN_SHARE` of its parameters; nothing has changed then.
    """
    parts, (classes, unknown) = config.train.init_parts, _same_classes(config, source, origin)
    channels, *others = source.shape
    shapes = {"generator": (config.model.latent_dim,), "discriminator": (config.model.packing * channels, *others)}
    networks = {"generator": state.generator, "discriminator": state.discriminator}
    transfers: dict[str, Transfer] = {}
    for side in (side for side in SIDES if side in parts):
        other = origin.networks[side]
        transfers[side] = match(networks[side], shapes[side], other, origin.shapes[side], classes, unknown)
        _check_share(config, side, transfers[side], origin)
    place = f"{origin.kind} at {origin.images:,} images ({origin.path}, SHA-256 {origin.sha256[:12]})"
    lines = [f"starting from {place}: {', '.join(parts)}"]
    for side, transfer in transfers.items():
        apply(transfer, networks[side], origin.networks[side].state_dict())
        line = f"{side}: {100 * transfer.share:.4g} % of the parameters are taken"
        if "optimizers" in parts:
            optimizer = state.optimizer_g if side == "generator" else state.optimizer_d
            number = take_moments(transfer, networks[side], optimizer, origin.networks[side], origin.moments[side])
            line += f", and the optimizer's moments of {number} tensors"
        lines += [line, *table(transfer, whole=whole)]
    if "ema" in parts:
        apply(transfers["generator"], state.ema.module, origin.networks["ema"].state_dict())
    elif "generator" in parts:
        state.ema.module.load_state_dict(state.generator.state_dict())
    if config.model.freeze_d:
        frozen = sum(each.numel() for each in state.discriminator.parameters() if not each.requires_grad)
        lines.append(f"discriminator: {frozen:,} parameters are frozen (model.freeze_d={config.model.freeze_d})")
    shares = {side: round(transfer.share, 6) for side, transfer in transfers.items()}
    facts = {"from": config.train.init_from, "path": str(origin.path), "kind": origin.kind, "images": origin.images}
    return WarmStart(lines, {**facts, "sha256": origin.sha256, "parts": list(parts), "share": shares})


def _check_share(config: Config, side: str, transfer: Transfer, origin: Origin) -> None:
    """Refuse a network that would start from next to nothing, with the first layers that do not fit."""
    if transfer.share >= MIN_SHARE:
        return
    left = "\n".join(table(replace(transfer, rows=[row for row in transfer.rows if row.reason][:5]), whole=False))
    raise ConfigError(
        f"only {100 * transfer.share:.3g} % of the {side}'s parameters fit those of {origin.path}, less than "
        f"{100 * MIN_SHARE:g} %; among others\n{left}",
        key=KEY,
        value=config.train.init_from,
        remedy=f"give model.{side} the widths that it has there at the same sides (at twice the resolution: half the "
        f"width, the same max_width), or leave {side} out of train.init_parts",
    )


def warm_start(
    config: Config, state: TrainState, source: Source, folder: RunDir, info: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Start a run from `train.init_from`, on all replicas from the same checkpoint; a collective call.

    Rank 0 chooses: what an earlier attempt of the run recorded, if it is still there, and otherwise the newest.

    Args:
        config: the run.
        state: at image 0; changed in place.
        source: the real examples.
        folder: the run's.
        info: takes a line for the log; on rank 0.

    Returns:
        For the record of the run.

    Raises:
        ConfigError: it cannot start from there; on all replicas.
    """
    device = next(state.generator.parameters()).device
    recorded = recorded_start(folder)
    origin, refusal = None, None
    if recorded.get("from") == config.train.init_from and isinstance(recorded.get("images"), int):
        with suppress(ConfigError):
            origin = read(config, recorded["images"])
        if origin is None or origin.sha256 != recorded.get("sha256"):
            info("warning: what this run first started from is gone or has changed")
            origin = None
    try:
        origin = origin or read(config)
    except ConfigError as error:
        refusal = error
    # The others read what rank 0 chose, and all compare.
    number = int(origin.sha256[:15], 16) if origin else -1
    images, wanted = broadcast_ints([origin.images if origin else -1, number], device)
    if wanted >= 0 and number != wanted:
        origin = None
        try:
            origin = read(config, images)
        except ConfigError as error:
            refusal = error
    differs = origin is None or int(origin.sha256[:15], 16) != wanted
    (refused,) = sum_over_replicas([torch.tensor([float(differs)], device=device)])
    if origin is None or refused.item():
        problem = f"{int(refused)} workers cannot read it, or see another one"
        raise refusal or ConfigError(problem, key=KEY, value=config.train.init_from, remedy="show every node the same")
    started = start(config, state, source, origin)
    for line in started.lines:
        info(line)
    return started.facts


def recorded_start(folder: RunDir) -> dict[str, Any]:
    """What the run recorded of its warm start; empty if it had none.

    Args:
        folder: the run's.
    """
    found = read_environment(folder).get("init_from")
    return found if isinstance(found, dict) else {}
