"""Checkpoints that survive a crash: written aside, synced, renamed, checksummed; loaded as tensors and numbers only.

A checkpoint is a folder `checkpoints/<images>/` with `state.pt` (`TrainState.state_dict()`) and `manifest.json` (schema
version, config, metrics, size and SHA-256 of the state, and a checksum of itself). One that was saved after training
went wrong also has `suspect.txt` with the reason: it is kept for inspection, and no run resumes from it. Scores that
were computed after it was saved (`eval.mode: async`) lie beside the manifest in `scores.json`.

In a bucket there are no folders to rename: the state is uploaded under a name of its own, which the manifest holds, and
a checkpoint is there once its manifest is. The manifest also holds the writer's fencing number: one that a writer puts
there after another has taken the run over does not count (`lease.json`).
"""

import hashlib
import io
import json
import math
import os
import re
import shutil
import threading
import uuid
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from ganscale import __version__
from ganscale.storage.files import sync_folder, write_atomically, write_synced
from ganscale.storage.store import ChangedError, Place, StorePath, remove, size_of

P = TypeVar("P", bound=Place)
SCHEMA = 1
_NAME = re.compile(r"^\d{12}$")
_ASIDE = ".writing-"
_MARK = "suspect.txt"
_SCORES = "scores.json"
_STATE = re.compile(r"^state(-[0-9a-f-]+)?\.pt$")
LEASE = "lease.json"
"""Object of a run in a bucket that names its writer."""
_MAX_MANIFEST = 16 * 2**20
"""Bytes of a manifest, at most: larger ones are not read."""
_FIELDS = {"images": int, "iteration": int, "config": dict, "metrics": dict, "sha256": str, "size": int}


class CheckpointError(ValueError):
    """A checkpoint that must not be used: incomplete, altered, or of an unknown schema."""


class SchemaError(CheckpointError):
    """A checkpoint of another version of ganscale, whose format this one does not read."""


@dataclass(frozen=True)
class Manifest(Generic[P]):
    """What is known of a checkpoint without loading it.

    Attributes:
        path: its folder.
        images: real examples seen.
        iteration: generator updates done.
        config: the run's config as plain mappings.
        metrics: numbers of the tick at which it was saved.
        sha256: of the state.
        size: bytes of the state.
        state: name of the state's file.
        fence: fencing number of the writer; 0 in a local folder, which the system locks.
    """

    path: P
    images: int
    iteration: int
    config: dict[str, Any]
    metrics: dict[str, float]
    sha256: str
    size: int
    state: str = "state.pt"
    fence: int = 0


def retained(scores: Mapping[int, float | None], keep: int) -> set[int]:
    """Which checkpoints (by images) to keep: the `keep` newest, and the one with the lowest finite score.

    Args:
        scores: by images; None for a checkpoint without one.
        keep: number of newest ones.
    """
    kept = set(sorted(scores)[-keep:])
    scored = {images: score for images, score in scores.items() if score is not None and math.isfinite(score)}
    return kept | {min(scored, key=lambda images: (scored[images], -images))} if scored else kept


class CheckpointStore(Generic[P]):
    """The checkpoints of one run. One process writes; any number may read.

    Args:
        folder: where they lie; made when the first is saved.
        keep: number of newest ones to keep.
        best_metric: metric whose best checkpoint is kept too; empty for none.
        higher_is_better: which way is better.
        confirm: called before a save counts; raises if this process is not the run's writer any more, and returns its
            fencing number.

    Attributes:
        unscored: images of checkpoints whose scores are still to come; these checkpoints are kept.
    """

    def __init__(
        self,
        folder: P,
        *,
        keep: int = 3,
        best_metric: str = "",
        higher_is_better: bool = False,
        confirm: Callable[[], int] = lambda: 0,
    ) -> None:
        self.folder, self._confirm = folder, confirm
        self.keep = keep
        self.best_metric = best_metric
        self.unscored: Collection[int] = ()
        self._lock = threading.Lock()  # a thread may save while another one adds scores
        self._sign = -1.0 if higher_is_better else 1.0

    def save(
        self,
        state: Mapping[str, Any],
        *,
        config: Mapping[str, Any],
        metrics: Mapping[str, float],
        suspect: str = "",
    ) -> P:
        """Write a checkpoint so that it is either there whole or not at all, then drop the old ones.

        Args:
            state: `TrainState.state_dict()`.
            config: the run's config as plain mappings.
            metrics: numbers to remember with it.
            suspect: why no run may resume from it, if so.

        Raises:
            OSError: the storage refuses; earlier checkpoints stay as they are.
            LeaseLostError: another process has become the run's writer.
        """
        final: Any = self.folder / f"{state['images']:012d}"
        path: P = final
        mark = {_MARK: suspect.encode()} if suspect else {}
        facts = {
            "schema": SCHEMA,
            "ganscale": __version__,
            "images": state["images"],
            "iteration": state["iteration"],
            "config": dict(config),
            "metrics": dict(metrics),
        }
        if isinstance(final, StorePath):
            buffer = io.BytesIO()
            facts |= write_state(buffer, state)
            fence = self._confirm()
            facts |= {"state": f"state-{fence}-{uuid.uuid4().hex[:8]}.pt", "fence": fence}
            self._upload(final, {facts["state"]: buffer.getbuffer()} | mark, _manifest(facts))
        else:
            with _new_folder(final) as aside:
                with (aside / "state.pt").open("wb") as file:
                    facts |= write_state(file, state)
                    os.fsync(file.fileno())
                facts |= {"state": "state.pt", "fence": self._confirm()}
                for name, content in (mark | {"manifest.json": _manifest(facts)}).items():
                    write_synced(aside / name, content)
        with self._lock, suppress(OSError):  # the checkpoint is there
            self._prune(state["images"])
            self._mark_best()
        return path

    def add(self, other: Manifest[Any]) -> None:
        """Copy a checkpoint from another place, byte for byte, with its mark and its scores.

        Args:
            other: the checkpoint there.

        Raises:
            CheckpointError: it is damaged.
            OSError: the storage refuses.
            LeaseLostError: another process has become the run's writer.
        """
        final: Any = self.folder / other.path.name
        files: dict[str, Any] = {}
        for name in (_MARK, _SCORES):
            with suppress(FileNotFoundError):
                files[name] = (other.path / name).read_bytes()
        facts = json.loads((other.path / "manifest.json").read_bytes()) | {
            "state": "state.pt",
            "fence": self._confirm(),
        }
        del facts["checksum"]
        if isinstance(final, StorePath):
            facts["state"] = f"state-{facts['fence']}-{uuid.uuid4().hex[:8]}.pt"
            self._upload(final, files | {facts["state"]: _read_state(other)}, _manifest(facts))
        else:
            with _new_folder(final) as aside:
                for name, content in (
                    files | {"state.pt": _read_state(other), "manifest.json": _manifest(facts)}
                ).items():
                    write_synced(aside / name, content)
        self._mark_best()

    def _upload(self, final: StorePath, files: Mapping[str, Any], manifest: bytes) -> None:
        """Put a checkpoint into a bucket, the manifest last.

        There may be another one at the same images: damaged, suspect, or of a writer that lost the run. It counts until
        its manifest is replaced. Only what was there before is deleted: a writer that was suspended and lost the run
        meanwhile must not delete its successor's.
        """
        earlier = {entry.key for entry in final.store.list(final.key)}
        for name, content in files.items():
            final.store.put((final / name).key, content)
        key = (final / "manifest.json").key
        self._commit(final.store, key, manifest, exists=key in earlier)
        for each in earlier - {key, *((final / name).key for name in files)}:
            final.store.delete(each)

    def _commit(self, store: Any, key: str, manifest: bytes, *, exists: bool) -> None:
        """Write a manifest in place of the version that was there before the lease is confirmed."""
        for is_last in (False, False, True):
            etag = ""
            with suppress(FileNotFoundError):
                etag = store.get(key)[1] if exists else ""
            self._confirm()
            try:
                _ = store.replace(key, manifest, etag) if etag else store.create(key, manifest)
                return
            except (FileExistsError, ChangedError):  # by a writer that lost the run, if this one still has it
                if is_last:
                    raise
                exists = True

    def folders(self) -> Sequence[P]:
        """Folders of finished checkpoints, newest first, whether valid or not."""
        if isinstance(self.folder, StorePath):
            found: Any = self.fences()
        else:
            found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted((path for path in found if _NAME.match(path.name)), key=lambda path: path.name, reverse=True)

    def images(self) -> int:
        """Images of the newest finished checkpoint; 0 without one, or while a bucket does not answer."""
        with suppress(OSError):
            return max((int(path.name) for path in self.folders()), default=0)
        return 0

    def fences(self) -> dict[StorePath, int]:
        """Checkpoints in a bucket that count, and their writers' fencing numbers.

        One counts if its writer holds the lease, or had saved it before a later writer claimed the run.
        """
        assert isinstance(self.folder, StorePath)
        lease: dict[str, Any] = {}
        with suppress(FileNotFoundError, ValueError):
            lease = json.loads((self.folder.parent / LEASE).read_bytes())
        manifests = [entry.key for entry in self.folder.store.list(self.folder.key)]
        found = {}
        for key in manifests:
            folder = StorePath(self.folder.store, key.rpartition("/")[0])
            if key.endswith("/manifest.json") and _NAME.match(folder.name):
                try:
                    fence = read_manifest(folder).fence
                except CheckpointError as error:
                    if isinstance(error.__context__, OSError) and not isinstance(error.__context__, FileNotFoundError):
                        raise error.__context__ from None
                    fence = 0  # damaged: listed, but not used
                if not lease or fence in (0, *lease["open"]) or lease["checkpoints"].get(folder.name) == fence:
                    found[folder] = fence
        return found

    def newest(self, warn: Callable[[str], None], *, until: int | None = None) -> Manifest[P] | None:
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
        self._confirm()
        later = [folder for folder in self.folders() if int(folder.name) > after and not _suspect(folder)]
        for folder in later:
            write_atomically(folder / _MARK, reason)
        if later:
            self._mark_best()
        return sorted(int(folder.name) for folder in later)

    def best(self) -> Manifest[P] | None:
        """The readable checkpoint with the best finite `best_metric`, of equal ones the later; None if none has it."""
        found: Manifest[P] | None = None
        for folder in reversed([folder for folder in self.folders() if not _suspect(folder)]):
            with suppress(CheckpointError):
                manifest = read_manifest(folder)
                score = self.score(manifest)
                if score is not None and (found is None or score <= self.score(found)):  # pyright: ignore
                    found = manifest
        return found

    def score(self, manifest: Manifest[P]) -> float | None:
        """The `best_metric` of a checkpoint, signed so that lower is better; None if it has none that is finite.

        Args:
            manifest: of the checkpoint.
        """
        value = self._value(manifest)
        return None if value is None or not math.isfinite(value) else self._sign * value

    def _value(self, manifest: Manifest[P]) -> float | None:
        """The `best_metric` of a checkpoint: its own, or one that was added."""
        if not self.best_metric or self.best_metric in manifest.metrics:
            return manifest.metrics.get(self.best_metric)
        return read_scores(manifest.path).get(self.best_metric)

    def add_scores(self, images: int, scores: Mapping[str, float]) -> P | None:
        """Add scores to a checkpoint that was saved without them; return its folder, None if there is none.

        Args:
            images: of the checkpoint.
            scores: by metric; those that are not finite are left out.

        Raises:
            OSError: the storage refuses.
            LeaseLostError: another process has become the run's writer.
        """
        folder: P = self.folder / f"{images:012d}"  # pyright: ignore[reportAssignmentType]
        with self._lock:
            if not (folder / "manifest.json").exists():
                return None
            self._confirm()
            finite = {name: value for name, value in scores.items() if math.isfinite(value)}
            write_atomically(folder / _SCORES, json.dumps(finite, indent=1) + "\n")
            self._mark_best()
        return folder

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
            row = {"images": best.images, "metric": self.best_metric, "value": self._value(best)}
            write_atomically(self.folder / "best.json", json.dumps(row) + "\n")

    def clean(self) -> None:
        """Remove what interrupted saves left; only the run's writer may call it."""
        if isinstance(self.folder, StorePath):
            states = [entry.key for entry in self.folder.store.list(self.folder.key)]
            finished = {folder.key for folder in self.fences()}
            for key in states:  # manifests that do not count stay, as a successor may have replaced them meanwhile
                folder, _, name = key.rpartition("/")
                if _STATE.match(name) and folder not in finished:
                    self.folder.store.delete(key)
            return
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
                    remove(folder)
                continue
            with suppress(CheckpointError):
                manifest = read_manifest(folder)
                if int(folder.name) <= newest:
                    scores[int(folder.name)] = self.score(manifest)
        for images in set(scores) - retained(scores, self.keep) - set(self.unscored):
            remove(self.folder / f"{images:012d}")


class _HashedFile:
    """Hashes what is written through it to a file, so that no second copy of a state is needed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256, self.size = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, part: memoryview) -> int:
        try:
            self._file.write(part)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(part)
        self.size += len(part)
        return len(part)

    def flush(self) -> None:
        self._file.flush()


def write_state(file: IO[bytes], state: Mapping[str, Any]) -> dict[str, Any]:
    """Serialize a state into a file, tensor by tensor, and return its `sha256` and `size`.

    Args:
        file: takes the bytes.
        state: `TrainState.state_dict()`.

    Raises:
        OSError: the file refuses.
    """
    import torch  # paths and manifests are read without it

    hashed = _HashedFile(file)
    try:
        torch.save(dict(state), hashed)  # pyright: ignore[reportArgumentType]
    except RuntimeError:
        if hashed.error:  # torch's writer fails once more when it is closed
            raise hashed.error from None
        raise
    return {"sha256": hashed.sha256.hexdigest(), "size": hashed.size}


def read_manifest(folder: P) -> Manifest[P]:
    """Read and check a checkpoint's manifest, not its state.

    Args:
        folder: the checkpoint's.

    Raises:
        CheckpointError: it is missing, altered or of another schema.
    """
    path = folder / "manifest.json"
    try:
        if size_of(path) > _MAX_MANIFEST:
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
    found |= {name: raw[name] for name in ("state", "fence") if name in raw}
    if not _STATE.match(str(found.get("state", "state.pt"))) or not isinstance(found.get("fence", 0), int):
        raise CheckpointError("its manifest names no state that is fit for use")
    return Manifest(path=folder, **found)


def read_scores(folder: Place) -> dict[str, float]:
    """Scores that were added to a checkpoint after it was saved; empty if there are none.

    Args:
        folder: the checkpoint's.
    """
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads((folder / _SCORES).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {name: value for name, value in found.items() if type(value) in (int, float)}
    return {}


def verify(folder: P) -> Manifest[P]:
    """Check a checkpoint's manifest and the checksum of its state.

    Args:
        folder: the checkpoint's.

    Raises:
        CheckpointError: it must not be used; the message says why.
    """
    manifest = read_manifest(folder)
    _read_state(manifest)
    return manifest


def load(folder: P) -> tuple[Manifest[P], dict[str, Any]]:
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


def _read_state(manifest: Manifest[Any]) -> bytes:
    path = manifest.path / manifest.state
    try:
        size = size_of(path)
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


def _suspect(folder: Place) -> bool:
    mark = folder / _MARK
    with suppress(FileNotFoundError):
        return mark.exists() if isinstance(mark, Path) else bool(mark.entry())
    return False


@contextmanager
def _new_folder(final: Path) -> Iterator[Path]:
    """A folder to fill aside; after the block it is synced and renamed into its place."""
    parent = final.parent
    parent.mkdir(parents=True, exist_ok=True)
    aside = parent / f"{_ASIDE}{uuid.uuid4().hex}"
    aside.mkdir()
    try:
        yield aside
        sync_folder(aside)
        _remove(final)  # a damaged one at the same images, which was not used
        aside.rename(final)
        sync_folder(parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _remove(path: Path) -> None:
    """Remove a folder, or a file in its place, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _manifest(facts: Mapping[str, Any]) -> bytes:
    return json.dumps({**facts, "checksum": _checksum(facts)}, indent=1).encode()


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
