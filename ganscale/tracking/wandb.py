"""Weights & Biases. The only file that imports wandb; nothing that goes wrong here stops training."""

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
from ganscale.runfolder import RunFolder

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


class WandbTracker:
    """Numbers and sample grids in a W&B run, online or offline.

    Args:
        config: the whole run.
        folder: the run's folder; W&B's files go below it.
        say: takes a sentence for the user.
    """

    def __init__(self, config: Config, folder: RunFolder, say: Callable[[str], None]) -> None:
        self._say = say
        self._run: Any = None
        mode = config.wandb.mode
        if mode == "auto":
            mode = "online" if has_key() else "offline"
        self._off = mode == "disabled"
        self._guard(lambda: self._start(config, folder, mode))

    def _start(self, config: Config, folder: RunFolder, mode: str) -> None:
        import wandb

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
            config=config.model_dump(mode="json"),
            settings=settings,
        )
        self._run.define_metric("images", hidden=True)
        self._run.define_metric("*", step_metric="images")
        place = self._run.url if mode == "online" else f"offline; upload with: wandb sync {Path(self._run.dir).parent}"
        self._say(f"W&B run {self._run.id}: {place}")

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Log a row of numbers. Its step is `images`: a row that a resumed run makes again is not a second one."""
        self._guard(lambda: self._run.log({"images": images, **metrics}, step=images))

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Log a picture of samples."""

        def send() -> None:
            import wandb

            self._run.log({"images": images, "samples": wandb.Image(picture)}, step=images)

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

    def close(self, *, completed: bool) -> None:
        """End the W&B run, waiting at most `FINISH_TIMEOUT` seconds for the upload."""
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
