"""Weights & Biases. The only file that imports wandb; nothing that goes wrong here stops training."""

import logging
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ganscale.config import Config
from ganscale.config.evaluation import METRICS
from ganscale.storage.files import write_atomically
from ganscale.storage.run_dir import RunDir
from ganscale.tracking import Histogram
from ganscale.tracking.images import write_png
from ganscale.tracking.jsonl import read_environment, read_events
from ganscale.tracking.wandb_account import PATIENCE, has_key, unreachable
from ganscale.tracking.wandb_log import DELIVERED, last_step, lives, mend, missing_rows, undelivered

RETRIES = 10_000
"""How often W&B repeats a request that failed, at most a minute apart: about a week, for outages of any length."""
GRACE = 10.0
"""Seconds beyond `wandb.timeout` that W&B's own processes get to keep their word."""

KEPT = 16
"""Pictures whose files are kept for a while; W&B copies them when they are logged."""
MOST_TITLE = 63
"""Characters of an alert's title."""


def run_id(folder: RunDir) -> str:
    """The W&B id of a run: drawn once, then kept in its folder, so that a resumed run goes on in the same W&B run."""
    path = folder.path / "wandb_id"
    if not path.exists():
        write_atomically(path, f"{folder.path.name[:100]}-{uuid.uuid4().hex[:8]}\n")
    return path.read_text(encoding="utf-8").strip()


def asks_online(config: Config) -> bool:
    """Whether a run reports to the server."""
    return config.wandb.mode == "online" or (config.wandb.mode == "auto" and has_key())


def deliver(config: Config, folder: RunDir, info: Callable[[str], None]) -> None:
    """Send what the server lacks of a run that is complete; nothing to do where it has everything or is not asked for.

    Args:
        config: the whole run.
        folder: the run's folder.
        say: takes a sentence for the user.
    """
    if not asks_online(config) or not undelivered(folder):
        return
    problem = unreachable(min(config.wandb.timeout, PATIENCE))
    if problem:
        info(f"W&B cannot be reached ({problem}) and still lacks a part of this run")
    else:
        WandbTracker(config, folder, info, environment=read_environment(folder)).close(completed=True)


def trimmed(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Counts and edges without the empty bins at both ends; at least one bin stays."""
    counts, edges = np.asarray(histogram.counts), np.asarray(histogram.edges)
    filled = np.flatnonzero(counts)
    first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (0, 0)
    return counts[first : last + 1], edges[first : last + 2]


def _line(event: Mapping[str, Any]) -> str:
    """A health event as a line of the run's notes."""
    return f"at {event.get('images')} images: {event.get('kind')}: {event.get('text')}"


class WandbTracker:
    """Numbers, sample grids and health events in a W&B run, online or offline.

    A server that does not answer at the start makes this life of the run an offline one; one that goes away later is
    tried again until it is back, or until the end.

    Args:
        config: the whole run.
        folder: the run's folder; W&B's files go below it.
        say: takes a sentence for the user.
        environment: what the run runs on, to stand beside its config.
    """

    def __init__(
        self,
        config: Config,
        folder: RunDir,
        info: Callable[[str], None],
        *,
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        self._info, self._folder = info, folder
        self._artifacts, self._largest = config.wandb.artifacts, config.wandb.artifact_mib * 2**20
        self._has_best = bool(config.checkpoint.best_metric)
        self._last: tuple[int, Path] | None = None
        self._reached, self._pending = -1, -1
        self._environment = dict(environment or {})
        self._run: Any = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._drawn = 0
        self._owed: list[Path] = []
        self._timeout = config.wandb.timeout
        self._online = asks_online(config)
        self._off = config.wandb.mode == "disabled"
        self._guard(lambda: self._start(config))

    def _start(self, config: Config) -> None:
        for life in lives(self._folder):
            mend(life)
        earlier, self._owed = -1, undelivered(self._folder)
        problem = unreachable(min(self._timeout, PATIENCE)) if self._online else ""
        if self._online and not problem:
            try:
                self._run = self._open(config)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                self._forget()
        if problem:
            self._info(f"W&B cannot be reached ({problem}); this life of the run is kept in its folder")
            self._online = False
        if not self._online:
            earlier = last_step(self._folder)  # the server knows it without reading all files
            self._run = self._open(config)
        self._reached = int(self._run.starting_step) - 1 if self._online else earlier
        self._define()
        place = self._run.url if self._online else f"offline; upload with: wandb sync {Path(self._run.dir).parent}"
        self._info(f"W&B run {self._run.id}: {place}")
        self._catch_up()

    def _open(self, config: Config) -> Any:
        """Begin the run, or go on in it where the server knows it."""
        import wandb

        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # W&B's figures of itself are no news
        settings = wandb.Settings(
            mode="online" if self._online else "offline",
            silent=True,
            console="off",
            init_timeout=self._timeout,
            finish_timeout=self._timeout,
            finish_timeout_raises=True,
            x_disable_stats=False,
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

    def _forget(self) -> None:
        """End what a failed start has left running."""
        import wandb

        wandb.teardown()

    def _define(self) -> None:
        """Make images the x axis of every chart, and keep each metric's best and last value."""
        self._run.define_metric("images", hidden=True)
        self._run.define_metric("*", step_metric="images")
        for name, facts in METRICS.items():
            best = "max" if facts.higher_is_better else "min"
            self._run.define_metric(name, step_metric="images", summary=f"{best},last")

    def _catch_up(self) -> None:
        """Send what the run folder has and W&B has not: what was still on its way when an earlier life ended."""
        import wandb

        for images, row in missing_rows(self._folder, self._reached).items():
            shown = {key: wandb.Image(str(fact)) if isinstance(fact, Path) else fact for key, fact in row.items()}
            self._log(images, shown)
        for life in self._owed if self._online else ():
            for path in sorted(life.glob("files/media/**/*.*")):
                self._run.save(str(path), base_path=str(life / "files"), policy="now")

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Log a row of numbers; its step is `images`."""
        self._guard(lambda: self._log(images, metrics))

    def _log(self, images: int, row: Mapping[str, Any]) -> None:
        """Add to the row of a step, unless an earlier life of the run has logged it.

        W&B holds a row back until the next step begins; only then it counts as logged.
        """
        if images <= self._reached:
            return
        self._run.log({"images": images, **row}, step=images)
        self._pending = images

    def saving(self, images: int) -> None:
        """Complete the row of this step: a run that resumes at this checkpoint will not make it again."""

        def send() -> None:
            if self._pending == images:
                self._run.log({}, step=images, commit=True)
                self._reached = images

        self._guard(send)

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Log a picture of samples."""

        self._guard(lambda: self._log(images, {"samples": self._image(picture)}))

    def summary(
        self,
        facts: Mapping[str, Any],
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        pictures: Mapping[str, Path],
    ) -> None:
        """Show the end of a sweep: facts, a table of its trials, and picture files by name."""

        def send() -> None:
            import wandb

            for name, fact in facts.items():
                self._run.summary[name] = fact
            table = wandb.Table(columns=list(columns), data=[list(row) for row in rows])
            self._run.log({"trials": table, **{name: wandb.Image(str(path)) for name, path in pictures.items()}})

        self._guard(send)

    def details(self, images: int, pictures: Mapping[str, np.ndarray], histograms: Mapping[str, Histogram]) -> None:
        """Log further pictures, and histograms without their empty outer bins."""

        def send() -> None:
            import wandb

            row: dict[str, Any] = {name: self._image(picture) for name, picture in pictures.items()}
            for name, histogram in histograms.items():
                row[name] = wandb.Histogram(np_histogram=trimmed(histogram))
            if row:
                self._log(images, row)

        self._guard(send)

    def event(self, images: int, kind: str, text: str) -> None:
        """Raise an alert, and add a line to the run's notes, unless it is there already."""

        def send() -> None:
            notes = (self._run.notes or "").splitlines()
            newest = _line({"images": images, "kind": kind, "text": text})
            if newest in notes:
                return
            known = [_line(event) for event in read_events(self._folder)]  # offline, `notes` lacks an earlier life's
            notes += [line for line in dict.fromkeys((*known, newest)) if line not in notes]
            self._run.notes = "\n".join(notes)
            self._run.alert(title=f"{kind} in {self._folder.path.name}"[:MOST_TITLE], text=newest, level="WARN")

        self._guard(send)

    def _image(self, picture: np.ndarray) -> Any:
        """A picture as W&B takes it: from a file, since W&B's own compression takes three times as long."""
        import wandb

        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="ganscale-")
        self._drawn += 1
        path = Path(self._scratch.name) / f"{self._drawn % KEPT}.png"
        write_png(path, picture)
        return wandb.Image(str(path))

    def saved(self, images: int, folder: Path, *, best: bool) -> None:
        """Upload a checkpoint as an artifact, if the config asks for it and it is not too large."""
        self._last = (images, folder)
        if self._artifacts == "all" or (self._artifacts == "best" and best):
            self._upload(images, folder, best=best)

    def _upload(self, images: int, folder: Path, *, best: bool) -> None:
        size = sum(path.stat().st_size for path in folder.iterdir())
        if size > self._largest:
            self._info(
                f"the checkpoint at {images:,} images is not uploaded: {size / 2**20:,.0f} MiB is more than "
                f"wandb.artifact_mib = {self._largest // 2**20}"
            )
            return

        def send() -> None:
            import wandb

            artifact = wandb.Artifact(f"checkpoint-{self._run.id}", type="model", metadata={"images": images})
            for path in sorted(folder.iterdir()):
                artifact.add_file(str(path))
            self._run.log_artifact(artifact, aliases=["latest", f"images-{images}", *(["best"] if best else [])])

        self._guard(send)

    def close(self, *, completed: bool) -> None:
        """End the W&B run, waiting at most `wandb.timeout` seconds for the upload."""
        if self._artifacts == "best" and not self._has_best and self._last and self._run is not None:
            self._upload(*self._last, best=True)
        run, self._run = self._run, None
        if run is None:
            return
        self._off = False  # after a failed call too: what was taken before is still worth keeping
        if self._scratch is not None:
            self._scratch.cleanup()
        life, done = Path(run.dir).parent, threading.Event()

        def finish() -> None:
            with suppress(TimeoutError):
                run.finish(exit_code=0 if completed else 1)
                done.set()

        thread = threading.Thread(target=lambda: self._guard(finish), daemon=True)
        thread.start()
        thread.join(self._timeout + GRACE)
        if not done.is_set() and not self._off:
            self._info("W&B has not taken everything yet; the same command again sends the rest")
        if done.is_set() and self._online:
            for delivered in (*self._owed, life):
                with suppress(OSError):
                    (delivered / DELIVERED).touch()

    def _guard(self, action: Callable[[], None]) -> None:
        """Do it unless W&B is off; on any failure say so once and go on without W&B."""
        if self._off:
            return
        try:
            action()
        except Exception as error:
            self._off = True
            self._info(f"W&B failed and is off from here on ({type(error).__name__}: {error}); training goes on")
