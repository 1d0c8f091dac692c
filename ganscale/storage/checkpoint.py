"""Checkpoints that survive a crash: written aside, synced, renamed, checksummed; loaded as tensors and numbers only.

A checkpoint is a folder `checkpoints/<images>/` with `state.pt` (`TrainState.state_dict()`) and `manifest.json` (schema
version, config, metrics, size and SHA-256 of the state, and a checksum of itself). One that was saved after training
went wrong also has `suspect.txt` with the reason: it is kept for inspection, and no run resumes from it.
"""

import hashlib
import io
import json
import math
import re
import shutil
import uuid
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganscale import __version__
from ganscale.storage.files import sync_folder, write_atomically, write_synced

SCHEMA = 1
_NAME = re.compile(r"^\d{12}$")
_ASIDE = ".writing-"
_MARK = "suspect.txt"
_MAX_MANIFEST = 16 * 2**20
"""Bytes of a manifest, at most: larger ones are not read."""
_FIELDS = {"images": int, "iteration": int, "config": dict, "metrics": dict, "sha256": str, "size": int}


class CheckpointError(ValueError):
    """A checkpoint that must not be used: incomplete, altered, or of an unknown schema."""


class SchemaError(CheckpointError):
    """A checkpoint of another version of ganscale, whose format this one does not read."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a checkpoint without loading it.

    Attributes:
        path: its folder.
        images: real examples seen.
        iteration: generator updates done.
        config: the run's config as plain mappings.
        metrics: numbers of the tick at which it was saved.
        sha256: of `state.pt`.
        size: bytes of `state.pt`.
    """

    path: Path
    images: int
    iteration: int
    config: dict[str, Any]
    metrics: dict[str, float]
    sha256: str
    size: int


def retained(scores: Mapping[int, float | None], keep: int) -> set[int]:
    """Which checkpoints (by images) to keep: the `keep` newest, and the one with the lowest finite score.

    Args:
        scores: by images; None for a checkpoint without one.
        keep: number of newest ones.
    """
    kept = set(sorted(scores)[-keep:])
    scored = {images: score for images, score in scores.items() if score is not None and math.isfinite(score)}
    return kept | {min(scored, key=lambda images: (scored[images], -images))} if scored else kept


class CheckpointStore:
    """The checkpoints of one run. One process writes; any number may read.

    Args:
        folder: where they lie; made when the first is saved.
        keep: number of newest ones to keep.
        best_metric: metric whose best checkpoint is kept too; empty for none.
        higher_is_better: which way is better.
    """

    def __init__(self, folder: Path, *, keep: int = 3, best_metric: str = "", higher_is_better: bool = False) -> None:
        self.folder = folder
        self.keep = keep
        self.best_metric = best_metric
        self._sign = -1.0 if higher_is_better else 1.0

    def save(
        self,
        state: Mapping[str, Any],
        *,
        config: Mapping[str, Any],
        metrics: Mapping[str, float],
        suspect: str = "",
    ) -> Path:
        """Write a checkpoint so that it is either there whole or not at all, then drop the old ones.

        Args:
            state: `TrainState.state_dict()`.
            config: the run's config as plain mappings.
            metrics: numbers to remember with it.
            suspect: why no run may resume from it, if so.

        Raises:
            OSError: the storage refuses; earlier checkpoints stay as they are.
        """
        import torch  # paths and manifests are read without it

        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f"{_ASIDE}{uuid.uuid4().hex}"
        aside.mkdir()
        try:
            buffer = io.BytesIO()
            torch.save(dict(state), buffer)
            content = buffer.getbuffer()
            manifest = {
                "schema": SCHEMA,
                "ganscale": __version__,
                "images": state["images"],
                "iteration": state["iteration"],
                "config": dict(config),
                "metrics": dict(metrics),
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
            }
            write_synced(aside / "state.pt", content)
            text = json.dumps({**manifest, "checksum": _checksum(manifest)}, indent=1)
            write_synced(aside / "manifest.json", text.encode())
            if suspect:
                write_synced(aside / _MARK, suspect.encode())
            sync_folder(aside)
            final = self.folder / f"{state['images']:012d}"
            _remove(final)  # a damaged one at the same images, which was not used
            aside.rename(final)
            sync_folder(self.folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        self._prune(state["images"])
        self._mark_best()
        return final

    def folders(self) -> list[Path]:
        """Folders of finished checkpoints, newest first, whether valid or not."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if _NAME.match(path.name)), reverse=True)

    def newest(self, warn: Callable[[str], None], *, until: int | None = None) -> Manifest | None:
        """The newest valid checkpoint that is not suspect, or None.

        Args:
            warn: takes a sentence for each newer one that is not used.
            until: images beyond which checkpoints do not count; None for any.
        """
        for folder in self.folders():
            if until is not None and int(folder.name) > until:
                continue
            try:
                if _suspect(folder):
                    raise CheckpointError("training was unhealthy when it was saved")
                manifest = verify(folder)
                if manifest.images != int(folder.name):
                    raise CheckpointError(f"it holds the state at {manifest.images:,} images")
                return manifest
            except CheckpointError as error:
                warn(f"checkpoint {folder.name} is not used: {error}")
        return None

    def mark(self, after: int, reason: str) -> list[int]:
        """Mark all checkpoints of more than `after` images as suspect; return which.

        Args:
            after: images.
            reason: kept in the checkpoint.

        Raises:
            OSError: the storage refuses.
        """
        later = [folder for folder in self.folders() if int(folder.name) > after and not _suspect(folder)]
        for folder in later:
            write_atomically(folder / _MARK, reason)
        if later:
            self._mark_best()
        return sorted(int(folder.name) for folder in later)

    def best(self) -> Manifest | None:
        """The readable checkpoint with the best finite `best_metric`, of equal ones the later; None if none has it."""
        found: Manifest | None = None
        for folder in reversed([folder for folder in self.folders() if not _suspect(folder)]):
            with suppress(CheckpointError):
                manifest = read_manifest(folder)
                score = self.score(manifest)
                if score is not None and (found is None or score <= self.score(found)):  # pyright: ignore
                    found = manifest
        return found

    def score(self, manifest: Manifest) -> float | None:
        """The `best_metric` of a checkpoint, signed so that lower is better; None if it has none that is finite.

        Args:
            manifest: of the checkpoint.
        """
        value = manifest.metrics.get(self.best_metric) if self.best_metric else None
        return None if value is None or not math.isfinite(value) else self._sign * value

    def is_best(self, metrics: Mapping[str, float]) -> bool:
        """Whether a checkpoint with these metrics would be the best.

        Args:
            metrics: by name.
        """
        value = metrics.get(self.best_metric, math.nan)
        best = self.best()
        return math.isfinite(value) and (best is None or self._sign * value <= self.score(best))  # pyright: ignore

    def _mark_best(self) -> None:
        """Write `best.json` beside the checkpoints, for readers."""
        best = self.best()
        if best:
            row = {"images": best.images, "metric": self.best_metric, "value": best.metrics[self.best_metric]}
            write_atomically(self.folder / "best.json", json.dumps(row) + "\n")

    def clean(self) -> None:
        """Remove what interrupted saves left; only the run's writer may call it."""
        for path in self.folder.glob(f"{_ASIDE}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _prune(self, newest: int) -> None:
        """Drop the old ones. Those that cannot be read, or are later than the newest save, stay.

        Suspect ones do not count among those to keep, and are dropped once the run has passed them.
        """
        scores: dict[int, float | None] = {}
        for folder in self.folders():
            if _suspect(folder):
                if int(folder.name) < newest:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            with suppress(CheckpointError):
                manifest = read_manifest(folder)
                if int(folder.name) <= newest:
                    scores[int(folder.name)] = self.score(manifest)
        for images in set(scores) - retained(scores, self.keep):
            shutil.rmtree(self.folder / f"{images:012d}", ignore_errors=True)


def read_manifest(folder: Path) -> Manifest:
    """Read and check a checkpoint's manifest, not its state.

    Args:
        folder: the checkpoint's.

    Raises:
        CheckpointError: it is missing, altered or of another schema.
    """
    path = folder / "manifest.json"
    try:
        if path.stat().st_size > _MAX_MANIFEST:
            raise CheckpointError(f"its manifest.json is larger than {_MAX_MANIFEST:,} bytes")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"its manifest cannot be read ({type(error).__name__})") from None
    if not isinstance(raw, dict) or raw.pop("checksum", None) != _checksum(raw):
        raise CheckpointError("its manifest was altered")
    if raw.get("schema") != SCHEMA:
        writer = f"ganscale {raw.get('ganscale')} wrote it with schema {raw.get('schema')}"
        raise SchemaError(f"{writer}, ganscale {__version__} reads schema {SCHEMA}")
    found: dict[str, Any] = {name: raw.get(name) for name in _FIELDS}
    for name, kind in _FIELDS.items():
        if type(found[name]) is not kind:
            raise CheckpointError(f"its manifest has no {name} that is fit for use")
    return Manifest(path=folder, **found)


def verify(folder: Path) -> Manifest:
    """Check a checkpoint's manifest and the checksum of its state.

    Args:
        folder: the checkpoint's.

    Raises:
        CheckpointError: it must not be used; the message says why.
    """
    manifest = read_manifest(folder)
    _read_state(manifest)
    return manifest


def load(folder: Path) -> tuple[Manifest, dict[str, Any]]:
    """Check and load a checkpoint; tensors are on the CPU.

    Args:
        folder: the checkpoint's.

    Raises:
        CheckpointError: it must not be used; the message says why.
    """
    import torch

    manifest = read_manifest(folder)
    content = _read_state(manifest)
    try:
        _check_sizes(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"its state cannot be loaded ({type(error).__name__})") from None
    return manifest, state


def _read_state(manifest: Manifest) -> bytes:
    path = manifest.path / "state.pt"
    try:
        size = path.stat().st_size
        if size != manifest.size:
            raise CheckpointError(f"its state has {size} bytes, not {manifest.size}")
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"its state cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise CheckpointError("its state was altered")
    return content


def _check_sizes(content: bytes) -> None:
    """Refuse a zip whose entries unpack to more than the file holds: torch.save does not compress."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        left = len(content)
        for entry in archive.infolist():
            left -= entry.file_size
            if left < 0:
                name, size = entry.filename, entry.file_size
                raise CheckpointError(f"entry {name} of its state.pt unpacks to {size:,} bytes, more than the file has")


def _suspect(folder: Path) -> bool:
    return (folder / _MARK).exists()


def _remove(path: Path) -> None:
    """Remove a folder, or a file in its place, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
