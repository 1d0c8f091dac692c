"""Weights & Biases: one W&B run per run folder, across all attempts. No failure of W&B stops training.

The run folder is the source of truth. A resumed attempt logs again, from `metrics.jsonl` and `samples/`, the rows that
W&B lacks: online those after the step that the server reports (`run.starting_step`), offline those that no earlier
attempt completed, as noted in `wandb/attempt.json`. W&B's own files are never read.
"""

import json
import logging
import math
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ganscale.config import Config
from ganscale.config.evaluation import METRICS
from ganscale.storage.files import write_atomically
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import Place, size_of
from ganscale.tracking import CheckpointTracker, DetailedTracker, EventTracker, Histogram, LateTracker, TableTracker
from ganscale.tracking.dashboards import SAMPLE_TABLE
from ganscale.tracking.jsonl import LATE, read_environment, read_events, read_metrics, read_raw_metrics
from ganscale.tracking.tables import SampleTable, read_table
from ganscale.tracking.timeline import goodput, timeline
from ganscale.tracking.wandb_media import (
    checkpoint_artifact,
    data_artifact,
    image,
    result_artifacts,
    sample_table,
    timeline_table,
)
from ganscale.tracking.wandb_server import CONNECT_TIMEOUT, has_key, unreachable

RETRIES = 10_000
"""How often W&B repeats a failed request, at most a minute apart: about a week."""
GRACE = 10.0
"""Seconds beyond `wandb.timeout` that W&B's own processes get to stop."""
MAX_TITLE = 63
"""Characters of an alert's title."""


def _wants_online(config: Config) -> bool:
    """Whether a run logs to the server."""
    return config.wandb.mode == "online" or (config.wandb.mode == "auto" and has_key())


def run_id(folder: RunDir) -> str:
    """The W&B id of a run: drawn once, then kept in its folder, so that every attempt continues the same W&B run.

    Args:
        folder: the run's folder.
    """
    path = folder.path / "wandb_id"
    if not path.exists():
        write_atomically(path, f"{folder.path.name[:100]}-{uuid.uuid4().hex[:8]}\n")
    return path.read_text(encoding="utf-8").strip()


@dataclass(frozen=True)
class Attempt:
    """How far the newest attempt of a run got in W&B, kept in `wandb/attempt.json`.

    Attributes:
        directory: name of W&B's directory of the attempt, below `wandb/`.
        online: whether it logs to the server.
        first: step after which it logs; earlier attempts completed the rows up to there.
        images: step of its newest row.
        finished: whether all its rows are on the server (online) or in its directory (offline).
    """

    directory: str
    online: bool
    first: int
    images: int
    finished: bool = False

    def completed(self, folder: RunDir) -> int:
        """Return up to which step rows are complete, on the server or in directories that can be synced.

        Args:
            folder: the run's folder.
        """
        synced = not self.online and folder.path / "wandb" / self.directory not in _unsynced(folder)
        return self.images if self.finished or synced else self.first


def read_attempt(folder: RunDir) -> Attempt | None:
    """Return the note of the newest attempt; None where it is missing or damaged.

    Args:
        folder: the run's folder.
    """
    with suppress(OSError, ValueError, TypeError):
        return Attempt(**json.loads((folder.path / "wandb/attempt.json").read_bytes()))
    return None


def _unsynced(folder: RunDir) -> list[Path]:
    """Directories of offline attempts without the marker that `wandb sync` leaves."""
    return [path for path in folder.path.glob("wandb/offline-run-*") if not any(path.glob("*.synced"))]


def upload(config: Config, folder: RunDir, notify: Callable[[str], None]) -> None:
    """Log what the server lacks of a complete run, if it is to be online.

    Args:
        config: the whole run.
        folder: the run's folder.
        notify: takes a message for the user.
    """
    if not _wants_online(config):
        return
    attempt, newest = read_attempt(folder), max((row["images"] for row in read_metrics(folder)), default=-1)
    if attempt and attempt.completed(folder) >= newest and (attempt.online or not _unsynced(folder)):
        return
    problem = unreachable(min(config.wandb.timeout, CONNECT_TIMEOUT))
    if problem:
        notify(f"W&B cannot be reached ({problem}) and lacks a part of this run; run the same command again later")
    else:
        WandbTracker(config, folder, notify, environment=read_environment(folder)).close(completed=True)


def read_rows(folder: RunDir, after: int) -> dict[int, dict[str, Any]]:
    """The newer rows of a run's folder by step: numbers, and paths of pictures.

    Args:
        folder: the run's folder.
        after: step after which rows are wanted.
    """
    rows: dict[int, dict[str, Any]] = {}
    for row in read_metrics(folder):
        rows.setdefault(row["images"], {}).update(_numbers(row))
    rows |= _late_rows(folder, after, max(rows, default=after))
    for path in folder.samples.glob("*.png"):
        if path.stem.isdigit():
            rows.setdefault(int(path.stem), {})["samples"] = path
    for path in folder.samples.glob("*.npz"):
        if path.stem.isdigit():
            rows.setdefault(int(path.stem), {})[SAMPLE_TABLE] = path
    if 0 in rows and folder.real.exists():
        rows[0]["real"] = folder.real
    return {images: rows[images] for images in sorted(rows) if images > after}


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in row.items()}


def _late_rows(folder: RunDir, after: int, newest: int) -> dict[int, dict[str, Any]]:
    """Late scores by the step at which an attempt logs them, where that is after `after` and their images are not.

    Those that came beyond the newest row, which a resumed attempt trains again, follow it at once: no later step is
    taken from a row to come.
    """
    late: dict[int, list[dict[str, Any]]] = {}
    for row in read_raw_metrics(folder):
        if LATE in row:
            late.setdefault(row[LATE], []).append(_numbers({k: v for k, v in row.items() if k != LATE}))
    found: dict[int, dict[str, Any]] = {}
    for at, rows in sorted(late.items()):
        for step, row in zip(_late_steps(at, len(rows)), rows, strict=True):
            if step > after >= row["images"]:
                found[step if step < newest else max(newest, *found, after) + 1] = row
    return found


def _late_steps(at: int, count: int) -> range:
    """Steps of late scores: right before that of the tick at which they have come, as steps only grow in W&B."""
    return range(at - count, at)


def trimmed(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Counts and edges without the empty bins at both ends; at least one bin stays.

    Args:
        histogram: with at least one bin.
    """
    counts, edges = np.asarray(histogram.counts), np.asarray(histogram.edges)
    filled = np.flatnonzero(counts)
    first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (0, 0)
    return counts[first : last + 1], edges[first : last + 2]


def _with_media(images: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `read_rows` with pictures and tables in place of their files; damaged ones are left out."""
    import wandb

    found = {name: value for name, value in row.items() if not isinstance(value, Path) and value is not None}
    for name, path in row.items():
        if isinstance(path, Path):
            with suppress(Exception):  # whatever a damaged file leads to: W&B lacks this picture, not the whole attempt
                table = read_table(path) if name == SAMPLE_TABLE else None
                if name != SAMPLE_TABLE or table:
                    found[name] = sample_table(images, table) if table else wandb.Image(str(path))
    return found


def _line(event: Mapping[str, Any]) -> str:
    """A health event as a line of the run's notes."""
    return f"at {event.get('images')} images: {event.get('kind')}: {event.get('text')}"


class WandbTracker(DetailedTracker, CheckpointTracker, EventTracker, LateTracker, TableTracker):
    """Logs numbers, sample grids, tables, health events and checkpoints to a W&B run, online or offline.

    A server that does not answer at the start makes this attempt an offline one; W&B itself retries one that goes away
    later. The first failure of a call turns W&B off for the rest of the attempt, with a warning.

    Args:
        config: the whole run.
        folder: the run's folder; W&B's files go below it.
        notify: takes a message for the user.
        environment: versions and devices, logged as a section of the W&B config.
    """

    def __init__(
        self,
        config: Config,
        folder: RunDir,
        notify: Callable[[str], None],
        *,
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        self._config, self._folder, self._notify = config, folder, notify
        self._environment = dict(environment or {})
        self._online = _wants_online(config)
        self._off = config.wandb.mode == "disabled"
        self._run: Any = None
        self._raised: set[str] | None = None  # lines of the events with an alert, from the first one on
        self._attempt = Attempt("", self._online, first=-1, images=-1)
        self._reached = -1  # W&B has the rows up to this step
        self._last_checkpoint: tuple[int, Place] | None = None
        self._guard(self._start)

    def _start(self) -> None:
        import wandb

        # Open the run, offline if the server does not take it.
        earlier = read_attempt(self._folder)
        timeout = min(self._config.wandb.timeout, CONNECT_TIMEOUT)
        problem = unreachable(timeout) if self._online else ""
        if self._online and not problem:
            try:
                self._run = self._open()
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                wandb.teardown()  # ends W&B's processes
        if problem and earlier and earlier.online and not earlier.finished:
            # Nobody knows which rows the server has: after a sync, an offline attempt would repeat some.
            self._off = True
            self._notify(f"W&B cannot be reached ({problem}); the same command logs this attempt's rows later")
            return
        if problem:
            self._online = False
            self._notify(f"W&B cannot be reached ({problem}); this attempt is logged offline")
        completed = earlier.completed(self._folder) if earlier else -1
        if self._run is None:
            self._run = self._open()

        # Continue after the rows that W&B has.
        self._reached = int(self._run.starting_step) - 1 if self._online else completed
        directory = Path(self._run.sync_dir).name
        self._attempt = Attempt(directory, self._online, first=self._reached, images=self._reached)
        self._note()
        self._replace_offline_attempts(earlier)
        self._define_metrics()
        # W&B would ask the server for the type of each artifact's name, and wait for the answer.
        self._run._assert_can_log_artifact = lambda artifact: None
        place = self._run.url if self._online else f"offline; upload with: wandb sync {self._run.sync_dir}"
        self._notify(f"W&B run {self._run.id}: {place}")
        self._catch_up(earlier)
        self._use_data()
        self._log_timeline()

    def _open(self) -> Any:
        """Create the W&B run, or resume it where the server knows it."""
        import wandb

        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # W&B's telemetry of itself
        config = self._config
        settings = wandb.Settings(
            mode="online" if self._online else "offline",
            silent=True,
            console="off",
            init_timeout=config.wandb.timeout,
            finish_timeout=config.wandb.timeout,
            finish_timeout_raises=True,
            x_graphql_retry_max=RETRIES,
            x_file_stream_retry_max=RETRIES,
            x_file_transfer_retry_max=RETRIES,
        )
        return wandb.init(
            project=config.wandb.project,
            entity=config.wandb.entity or None,
            group=config.wandb.group or None,
            tags=list(config.wandb.tags) or None,
            id=run_id(self._folder),
            name=config.run.name,
            resume="allow",
            dir=self._folder.path,
            config=config.model_dump(mode="json") | {"environment": self._environment},
            settings=settings,
        )

    def _replace_offline_attempts(self, earlier: Attempt | None) -> None:
        """Rename the directories of offline attempts whose rows are logged again, so that no sync repeats them.

        Offline these are attempts that did not finish, whose files may be damaged; online all that are not synced.
        """
        for path in _unsynced(self._folder):
            name = path.name.removeprefix("offline-")  # begins with the time
            newest = earlier.directory.removeprefix("offline-") if earlier and not self._online else ""
            kept = name < newest or (name == newest and earlier and earlier.finished)
            if not kept and path.name != self._attempt.directory:
                path.rename(path.with_name(f"replaced-{path.name}"))

    def _note(self) -> None:
        """Write how far this attempt is; as often as rows, so not synced to the disk."""
        path = self._folder.path / "wandb/attempt.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self._attempt)), encoding="utf-8")
        new.replace(path)

    def _define_metrics(self) -> None:
        """Make images the x axis of every chart, and keep each metric's best and last value."""
        self._run.define_metric("images", hidden=True)
        self._run.define_metric("*", step_metric="images")
        for name, facts in METRICS.items():
            best = "max" if facts.higher_is_better else "min"
            self._run.define_metric(name, step_metric="images", summary=f"{best},last")

    def _catch_up(self, earlier: Attempt | None) -> None:
        """Log what the run folder has and W&B lacks, and upload media that an unfinished attempt left."""
        reached = self._reached
        for images, row in read_rows(self._folder, reached).items():
            self._log(images, _with_media(images, row))
        for event in read_events(self._folder):
            if event.get("images", -1) > reached:
                self._alert(event)
        if self._online and earlier and earlier.online and not earlier.finished:
            files = self._folder.path / "wandb" / earlier.directory / "files"
            for path in sorted(files.glob("media/**/*.*")):
                self._run.save(str(path), base_path=str(files), policy="now")

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Log a row of numbers (part of `Tracker`); its step is `images`."""
        self._guard(lambda: self._log(images, metrics))

    def _log(self, images: int, row: Mapping[str, Any]) -> None:
        """Add to the row of a step; steps that W&B has, also those before a rollback, are left out.

        W&B commits a row when the next step begins.
        """
        if images <= self._reached or images < self._attempt.images:
            return
        self._run.log({"images": images, **row}, step=images)
        if images > self._attempt.images:
            self._attempt = replace(self._attempt, images=images)
            self._note()

    def late(self, scores: Mapping[int, Mapping[str, float]], *, at: int) -> None:
        """Log late scores (part of `LateTracker`): W&B's own step is new, `images`, every chart's x axis, is theirs."""

        def log() -> None:
            for step, (images, numbers) in zip(_late_steps(at, len(scores)), scores.items(), strict=True):
                if step > self._attempt.images:
                    self._log(step, {"images": images, **numbers})

        self._guard(log)

    def saving(self, images: int) -> None:
        """Commit this step's row (part of `CheckpointTracker`): a run that resumes here does not log it again."""

        def commit() -> None:
            if self._attempt.images == images > self._reached:
                self._run.log({}, step=images, commit=True)
                self._reached = images

        self._guard(commit)

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Log a picture of samples (part of `Tracker`)."""
        self._guard(lambda: self._log(images, {"samples": image(picture)}))

    def table(self, images: int, table: SampleTable) -> None:
        """Log a table of samples (part of `TableTracker`)."""
        self._guard(lambda: self._log(images, {SAMPLE_TABLE: sample_table(images, table)}))

    def details(self, images: int, pictures: Mapping[str, np.ndarray], histograms: Mapping[str, Histogram]) -> None:
        """Log further pictures, and histograms without their empty outer bins (part of `DetailedTracker`)."""

        def log() -> None:
            import wandb

            row = {name: image(picture) for name, picture in pictures.items()}
            row |= {name: wandb.Histogram(np_histogram=trimmed(each)) for name, each in histograms.items()}
            if row:
                self._log(images, row)

        self._guard(log)

    def summary(
        self,
        facts: Mapping[str, Any],
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        pictures: Mapping[str, Path],
    ) -> None:
        """Log the state of a sweep.

        Args:
            facts: numbers by name, for the W&B summary.
            columns: names of the columns of the table of trials.
            rows: a row per trial.
            pictures: image files by name.
        """

        def log() -> None:
            import wandb

            self._run.summary.update(dict(facts))
            table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
            self._run.log({"trials": table, **{name: wandb.Image(str(path)) for name, path in pictures.items()}})

        self._guard(log)

    def event(self, images: int, kind: str, text: str) -> None:
        """Raise an alert and add to the run's notes, unless they have it, and log the time line (an `EventTracker`)."""

        def log() -> None:
            self._alert({"images": images, "kind": kind, "text": text})
            self._log_timeline()

        self._guard(log)

    def _alert(self, event: Mapping[str, Any]) -> None:
        notes, newest = (self._run.notes or "").splitlines(), _line(event)
        if self._raised is None:
            self._raised = set(notes)
        if newest in self._raised:
            return
        self._raised.add(newest)
        known = [_line(each) for each in read_events(self._folder)]  # offline, `notes` lacks those of earlier attempts
        known = known[: known.index(newest)] if newest in known else known  # the next ones have their own alerts
        self._run.notes = "\n".join(dict.fromkeys((*notes, *known, newest)))
        title = f"{event.get('kind')} in {self._folder.path.name}"[:MAX_TITLE]
        self._run.alert(title=title, text=newest, level="WARN")

    def _log_timeline(self) -> None:
        """Put the time line, if anything happened, and the goodput so far into the run's summary."""
        incidents = timeline(self._folder)
        spent = goodput(self._folder, incidents)
        facts: dict[str, Any] = {} if spent.share is None else {"goodput": spent.share, "seconds_lost": spent.lost}
        if incidents:
            facts["timeline"] = timeline_table(incidents)
        if facts:
            self._run.summary.update(facts)

    def _use_data(self) -> None:
        """Declare the data as this run's input, where it logs artifacts; W&B's `use_artifact` waits for the server."""
        if self._config.wandb.artifacts == "none":
            return
        artifact = data_artifact(self._config.data.name, self._folder.data)
        if artifact:
            self._run._log_artifact(artifact, is_user_created=True, use_after_commit=True)

    def saved(self, images: int, folder: Place, *, best: bool) -> None:
        """Upload a checkpoint as an artifact, if `wandb.artifacts` includes it and it is not too large."""
        self._last_checkpoint = (images, folder)
        which = self._config.wandb.artifacts
        if which == "all" or (which == "best" and best):
            self._guard(lambda: self._log_artifact(images, folder, best=best))

    def _log_artifact(self, images: int, folder: Place, *, best: bool) -> None:
        files = list[Place]()
        with suppress(FileNotFoundError):  # a later checkpoint, written meanwhile, has taken its place
            files = sorted(folder.iterdir(), key=lambda path: path.name)
        if not files:
            return
        size, limit = sum(size_of(path) for path in files) / 2**20, self._config.wandb.artifact_mib
        if size > limit:
            skipped = f"the checkpoint at {images:,} images is not uploaded"
            self._notify(f"{skipped}: {size:,.0f} MiB is more than wandb.artifact_mib = {limit}")
            return
        aliases = ["latest", f"images-{images}", *(["best"] if best else [])]
        self._run.log_artifact(checkpoint_artifact(self._run.id, images, files), aliases=aliases)
        metadata = {"images": images, "checkpoint": f"checkpoint-{self._run.id}:images-{images}"}
        for artifact in result_artifacts(self._run.id, images, self._folder, metadata):
            self._run.log_artifact(artifact, aliases=aliases)

    def close(self, *, completed: bool) -> None:
        """Finish the W&B run, waiting at most `wandb.timeout + GRACE` seconds for the upload (part of `Tracker`)."""
        run, last = self._run, self._last_checkpoint
        if run is None:
            return
        if self._config.wandb.artifacts == "best" and not self._config.checkpoint.best_metric and last:
            self._guard(lambda: self._log_artifact(*last, best=True))
        self._guard(self._log_timeline)
        self._run, self._off = None, False  # after a failure too: W&B may still have rows to upload
        finished = threading.Event()

        def finish() -> None:
            with suppress(TimeoutError):
                run.finish(exit_code=0 if completed else 1)
                finished.set()

        thread = threading.Thread(target=lambda: self._guard(finish), daemon=True)
        thread.start()
        thread.join(self._config.wandb.timeout + GRACE)
        if finished.is_set():
            self._attempt = replace(self._attempt, finished=True)
            self._guard(self._note)
        elif not self._off:
            self._notify("the upload to W&B is incomplete; run the same command again to complete it")

    def _guard(self, action: Callable[[], None]) -> None:
        """Run an action unless W&B is off; its failure turns W&B off, with a warning."""
        if self._off:
            return
        try:
            action()
        except Exception as error:
            self._off = True
            self._notify(f"W&B failed and is off from here on ({type(error).__name__}: {error}); training continues")
