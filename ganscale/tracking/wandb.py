"""Weights & Biases. The only file that imports wandb; nothing that goes wrong here stops training."""

import math
import netrc
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np

from ganscale.checkpoint import write_atomically
from ganscale.config import Config
from ganscale.config.evaluation import METRICS
from ganscale.runfolder import RunFolder
from ganscale.tracking import Histogram
from ganscale.tracking.local import read_metrics
from ganscale.tracking.wandb_log import last_step

FINISH_TIMEOUT = 120.0
"""Seconds that the end of a run waits for the upload; what is left can be sent by `wandb sync`."""


def has_key() -> bool:
    """Whether an API key is set up, in the environment or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        entry = netrc.netrc(path).authenticators(host)
        return entry is not None and bool(entry[2])
    except (OSError, RuntimeError, ValueError, netrc.NetrcParseError):
        return False


def run_id(folder: RunFolder) -> str:
    """The W&B id of a run: drawn once, then kept in its folder, so that a resumed run goes on in the same W&B run."""
    path = folder.path / "wandb_id"
    if not path.exists():
        write_atomically(path, f"{folder.path.name[:100]}-{uuid.uuid4().hex[:8]}\n")
    return path.read_text(encoding="utf-8").strip()


def trimmed(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Counts and edges without the empty bins at both ends; at least one bin stays."""
    counts, edges = np.asarray(histogram.counts), np.asarray(histogram.edges)
    filled = np.flatnonzero(counts)
    first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (0, 0)
    return counts[first : last + 1], edges[first : last + 2]


class WandbTracker:
    """Numbers and sample grids in a W&B run, online or offline.

    Args:
        config: the whole run.
        folder: the run's folder; W&B's files go below it.
        say: takes a sentence for the user.
        environment: what the run runs on, to stand beside its config.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        say: Callable[[str], None],
        *,
        environment: Mapping[str, Any] | None = None,
    ) -> None:
        self._say = say
        self._artifacts, self._largest = config.wandb.artifacts, config.wandb.artifact_mib * 2**20
        self._has_best = bool(config.checkpoint.best_metric)
        self._last: tuple[int, Path] | None = None
        self._reached, self._pending = -1, -1
        self._environment = dict(environment or {})
        self._run: Any = None
        mode = config.wandb.mode
        if mode == "auto":
            mode = "online" if has_key() else "offline"
        self._off = mode == "disabled"
        self._guard(lambda: self._start(config, folder, mode))

    def _start(self, config: Config, folder: RunFolder, mode: str) -> None:
        import wandb

        earlier = last_step(folder.path / "wandb")
        settings = wandb.Settings(
            mode="online" if mode == "online" else "offline",
            silent=True,
            console="off",
            init_timeout=60.0,
            x_disable_stats=False,
        )
        self._run = wandb.init(
            project=config.wandb.project,
            entity=config.wandb.entity or None,
            group=config.wandb.group or None,
            tags=list(config.wandb.tags) or None,
            id=run_id(folder),
            name=config.run.name,
            resume="allow",
            dir=folder.path,
            config=config.model_dump(mode="json") | {"environment": self._environment},
            settings=settings,
        )
        self._reached = max(earlier, int(self._run.starting_step) - 1)
        self._run.define_metric("images", hidden=True)
        self._run.define_metric("*", step_metric="images")
        for name, facts in METRICS.items():
            best = "max" if facts.higher_is_better else "min"
            self._run.define_metric(name, step_metric="images", summary=f"{best},last")
        place = self._run.url if mode == "online" else f"offline; upload with: wandb sync {Path(self._run.dir).parent}"
        self._say(f"W&B run {self._run.id}: {place}")

        self._catch_up(folder)

    def _catch_up(self, folder: RunFolder) -> None:
        """Log what the run folder has and W&B has not: what was still on its way when an earlier life was killed."""
        import wandb

        rows: dict[int, dict[str, Any]] = {}
        for row in read_metrics(folder):
            numbers = {name: math.nan if value is None else value for name, value in row.items()}
            rows.setdefault(row["images"], {}).update(numbers)
        for path in folder.samples.glob("*.png"):
            if path.stem.isdigit() and int(path.stem) > self._reached:
                rows.setdefault(int(path.stem), {})["samples"] = wandb.Image(str(path))
        for images in sorted(rows):
            self._log(images, rows[images])

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

        def send() -> None:
            import wandb

            self._log(images, {"samples": wandb.Image(picture)})

        self._guard(send)

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

            row: dict[str, Any] = {name: wandb.Image(picture) for name, picture in pictures.items()}
            for name, histogram in histograms.items():
                row[name] = wandb.Histogram(np_histogram=trimmed(histogram))
            if row:
                self._log(images, row)

        self._guard(send)

    def saved(self, images: int, folder: Path, *, best: bool) -> None:
        """Upload a checkpoint as an artifact, if the config asks for it and it is not too large."""
        self._last = (images, folder)
        if self._artifacts == "all" or (self._artifacts == "best" and best):
            self._upload(images, folder, best=best)

    def _upload(self, images: int, folder: Path, *, best: bool) -> None:
        size = sum(path.stat().st_size for path in folder.iterdir())
        if size > self._largest:
            self._say(
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
        """End the W&B run, waiting at most `FINISH_TIMEOUT` seconds for the upload."""
        if self._artifacts == "best" and not self._has_best and self._last and self._run is not None:
            self._upload(*self._last, best=True)
        run, self._run = self._run, None
        if run is None:
            return
        self._off = False  # after a failed call too: what was taken before is still worth keeping
        thread = threading.Thread(
            target=lambda: self._guard(lambda: run.finish(exit_code=0 if completed else 1)), daemon=True
        )
        thread.start()
        thread.join(FINISH_TIMEOUT)
        if thread.is_alive():
            self._say("W&B has not taken everything yet; send the rest with: wandb sync " + str(Path(run.dir).parent))

    def _guard(self, action: Callable[[], None]) -> None:
        """Do it unless W&B is off; on any failure say so once and go on without W&B."""
        if self._off:
            return
        try:
            action()
        except Exception as error:
            self._off = True
            self._say(f"W&B failed and is off from here on ({type(error).__name__}: {error}); training goes on")
