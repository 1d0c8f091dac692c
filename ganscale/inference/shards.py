"""Any number of samples in shards, each written atomically with a checksum; only missing shards are made again.

<folder>/
    generation.json      checkpoint, number, truncation, format (`ShardPlan`)
    shard-000000.npz     or .zip: the samples of successive seeds
    shard-000000.json    its seeds, size and SHA-256; written last, so a shard without it is incomplete

`npz` holds `arr_0`, uint8 `[N, H, W, C]` (points: floats `[N, 2]`), and with classes `arr_1`, int64 `[N]`, the
format of the evaluator of Dhariwal and Nichol 2021. `zip` holds a PNG per image named by its seed; unpacked it is an
image folder for pytorch-fid, torch-fidelity and clean-fid.
"""

import hashlib
import io
import json
import math
import os
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ganscale.config import ConfigError
from ganscale.config.errors import ExecutionError, shown
from ganscale.inference.generator import MAX_SEED, LoadedGenerator
from ganscale.inference.grid import to_bytes
from ganscale.storage.files import write_atomically
from ganscale.storage.lease import acquire
from ganscale.storage.run_dir import RunDir

FORMATS = ("npz", "zip")
PLAN = "generation.json"
_ASIDE = ".writing-"


class GenerationError(ExecutionError):
    """A shard could not be made; finished shards stay."""


@dataclass(frozen=True)
class ShardPlan:
    """The content of a folder of shards.

    Attributes:
        num_samples: N; seeds are 0 to N - 1.
        shard_size: samples per shard; the last one may have fewer.
        format: "npz" or "zip".
        truncation: as in `LoadedGenerator.sample`.
        labels: classes that alternate seed by seed; None for all classes, or for a generator without classes.
        device: "cpu" or "cuda": the two round differently.
        generator: the generator's `Description` as plain mappings.
    """

    num_samples: int
    shard_size: int
    format: str
    truncation: float
    labels: list[int] | None
    device: str
    generator: dict[str, Any]

    @property
    def num_shards(self) -> int:
        """Number of files."""
        return -(-self.num_samples // self.shard_size)

    def seeds(self, shard: int) -> range:
        """Seeds of a shard.

        Args:
            shard: its number, from 0.
        """
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_samples))

    def name(self, shard: int) -> str:
        """File of a shard.

        Args:
            shard: its number, from 0.
        """
        return f"shard-{shard:06d}.{self.format}"


def make_plan(
    generator: LoadedGenerator,
    num_samples: int,
    *,
    shard_size: int | None,
    format: str,
    truncation: float,
    labels: Sequence[int] | None,
    device: str,
) -> ShardPlan:
    """A plan for this generator.

    Args:
        generator: that makes the samples.
        num_samples: at least 1.
        shard_size: samples per shard; None for shards below 256 MiB.
        format: "npz" or "zip".
        truncation: as in `LoadedGenerator.sample`.
        labels: classes that alternate; None for all.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: a number is out of range, or zip is requested for 2-D points.
    """
    if shard_size is None:
        shard_size = max(1, min(10_000, 2**28 // math.prod(generator.shape)))
    if not 1 <= num_samples <= MAX_SEED:
        raise ConfigError("out of range", key="--num-samples", value=num_samples, remedy="use 1 or more")
    if not 1 <= shard_size <= 10_000_000:
        raise ConfigError("out of range", key="--shard-size", value=shard_size, remedy="use 1 to 10 million")
    if format == "zip" and not generator.description.is_image:
        raise ConfigError("2-D points are no pictures", key="--format", value=format, remedy="use npz")
    chosen = list(labels) if labels is not None else None
    return ShardPlan(num_samples, shard_size, format, truncation, chosen, device, generator.description.to_json())


def prepare(folder: Path, plan: ShardPlan) -> None:
    """Make the folder and write its plan; it may hold fewer samples of the same plan.

    Args:
        folder: of the shards.
        plan: their content.

    Raises:
        ConfigError: it holds other files or other samples.
        OSError: it cannot be written.
    """
    path = folder / PLAN
    wanted = _plain(plan)
    if path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            changed = [key for key in wanted if key != "num_samples" and old[key] != wanted[key]]
            fewer = old["num_samples"] > plan.num_samples
        except (ValueError, KeyError, TypeError):
            changed, old, fewer = ["generation.json"], {"generation.json": "unreadable"}, False
        if changed or fewer:
            _refuse(folder, old, wanted, changed or ["num_samples"])
    elif folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        remedy = "name a new or empty folder, or one that this command started"
        raise ConfigError("holds other files", key="--out", value=str(folder), remedy=remedy)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(wanted, indent=1) + "\n")


def _refuse(folder: Path, old: dict[str, Any], wanted: dict[str, Any], keys: list[str]) -> None:
    rows = ""
    for key in keys:
        before, after = old[key], wanted.get(key)
        if isinstance(before, dict) and isinstance(after, dict):  # the description: name what differs in it
            rows += "".join(
                f"\n    {name}: {shown(before.get(name))} -> {shown(after[name])}"
                for name in after
                if before.get(name) != after[name]
            )
        else:
            rows += f"\n    {key}: {shown(before)} -> {shown(after)}"
    remedy = "name another folder, or request what it holds"
    raise ConfigError(f"holds other samples:{rows}", key="--out", value=str(folder), remedy=remedy)


def check_visible(folder: Path, plan: ShardPlan) -> None:
    """Check that this machine sees the folder that the command prepared.

    Args:
        folder: of the shards.
        plan: their content.

    Raises:
        ConfigError: it does not, as the nodes share no storage there.
    """
    try:
        seen = json.loads((folder / PLAN).read_text(encoding="utf-8"))["generator"] == _plain(plan)["generator"]
    except (OSError, ValueError, KeyError, TypeError):
        seen = False
    if not seen:
        remedy = "name a folder on storage that every node mounts at the same path"
        raise ConfigError("a worker does not see it", key="--out", value=str(folder), remedy=remedy)


def _plain(plan: ShardPlan) -> dict[str, Any]:
    """The plan as JSON represents it."""
    return json.loads(json.dumps(asdict(plan)))


def missing(folder: Path, plan: ShardPlan) -> list[int]:
    """Shards that are missing or incomplete, by their records and checksums.

    Args:
        folder: of the shards.
        plan: their content.
    """
    return [shard for shard in range(plan.num_shards) if not _is_whole(folder, plan, shard)]


def _is_whole(folder: Path, plan: ShardPlan, shard: int) -> bool:
    path = folder / plan.name(shard)
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record == _record(plan, shard, path.stat().st_size, digest)


def _record(plan: ShardPlan, shard: int, size: int, digest: str) -> dict[str, Any]:
    seeds = plan.seeds(shard)
    facts = {"file": plan.name(shard), "first_seed": seeds.start, "last_seed": seeds.stop - 1}
    return {**facts, "samples": len(seeds), "bytes": size, "sha256": digest}


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Lock the folder against other commands, and remove temporary files of interrupted ones.

    Args:
        folder: of the shards.

    Raises:
        ConfigError: another command writes there.
    """
    try:
        lock = acquire(RunDir(folder), patience=2.0)
    except ConfigError:
        remedy = "wait for it or stop it, or name another folder"
        problem = "another process is writing to it"
        raise ConfigError(problem, key="--out", value=str(folder), remedy=remedy) from None
    try:
        for path in (*folder.glob(f"{_ASIDE}*"), *folder.glob("*.json.*")):
            path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def make_shard(generator: LoadedGenerator, folder: Path, plan: ShardPlan, shard: int) -> None:
    """Make one shard and put it in place.

    Args:
        generator: that makes the samples.
        folder: of the shards.
        plan: their content.
        shard: its number.

    Raises:
        OSError: the file cannot be written.
    """
    content = shard_bytes(generator, plan, shard)
    path = folder / plan.name(shard)
    aside = folder / f"{_ASIDE}{uuid.uuid4().hex}"
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    record = _record(plan, shard, len(content), hashlib.sha256(content).hexdigest())
    write_atomically(path.with_suffix(".json"), json.dumps(record) + "\n")


def shard_bytes(generator: LoadedGenerator, plan: ShardPlan, shard: int) -> bytes:
    """A shard's file content, a function of the plan and the shard's number alone.

    Args:
        generator: that makes the samples.
        plan: the content of the folder.
        shard: its number.
    """
    seeds = plan.seeds(shard)
    labels = None if plan.labels is None else [plan.labels[seed % len(plan.labels)] for seed in seeds]
    arrays = [
        _numbers(generator, seeds[start : start + 1024], labels and labels[start : start + 1024], plan.truncation)
        for start in range(0, len(seeds), 1024)
    ]
    samples = np.concatenate(arrays)
    if plan.format == "zip":
        return _zip(samples, seeds)
    classes = generator.classes(seeds, labels)
    buffer = io.BytesIO()
    np.savez(buffer, samples) if classes is None else np.savez(buffer, samples, classes.numpy())
    return buffer.getvalue()


def _numbers(generator: LoadedGenerator, seeds: range, labels: list[int] | None, truncation: float) -> np.ndarray:
    samples = generator.sample(seeds, labels, truncation)
    return to_bytes(samples) if generator.description.is_image else samples.cpu().numpy()


def _zip(samples: np.ndarray, seeds: range) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for seed, image in zip(seeds, samples, strict=True):
            picture = io.BytesIO()
            Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(picture, format="PNG")
            archive.writestr(zipfile.ZipInfo(f"{seed:012d}.png"), picture.getvalue())
    return buffer.getvalue()


def make_here(generator: LoadedGenerator, folder: Path, plan: ShardPlan, shards: Sequence[int]) -> Iterator[int]:
    """Make shards in this process one after another, yielding each when it is done.

    Args:
        generator: that makes the samples.
        folder: of the shards.
        plan: their content.
        shards: numbers of the shards.
    """
    for shard in shards:
        with one_thread():
            make_shard(generator, folder, plan, shard)
        yield shard


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: with more threads, sums may be rounded in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
