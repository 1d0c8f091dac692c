"""Training and search from Python: `Trainer(config).fit()` and `Tuner(sweep).fit()`, as the commands run them."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ganscale.config import Config, ConfigError, load
from ganscale.config.errors import did_you_mean, shown

if TYPE_CHECKING:
    import pandas

    from ganscale.inference.load import LoadedGenerator
    from ganscale.storage.run_dir import RunDir
    from ganscale.storage.store import Place
    from ganscale.training.loop import Tick

LAUNCHERS = ("auto", "ray", "torchrun", "local")
Source = Config | Mapping[str, Any] | str | Path | None


class Table(list[dict[str, Any]]):
    """Rows as plain mappings."""

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the rows as a data frame; needs pandas."""
        import pandas

        return pandas.DataFrame(self)


@dataclass(frozen=True)
class Result:
    """How a run ended, and what its folder holds.

    Attributes:
        config: The run's config.
        folder: The run's folder, or its place in a bucket.
        images: Images reached.
        resumed_at: Images at which `fit` continued; equal to `images` if there was nothing left to train.
        stop_reason: Why training stopped before its end, by its name in `StopReason`; empty otherwise.
        diagnosis: The health verdict that stopped training; empty otherwise.
        ray_result: Ray Train's own result (`ray.train.Result`) of the last attempt, with `metrics` and `checkpoint` of
            the newest checkpoint; None with other launchers, and if there was nothing left to train.
    """

    config: Config
    folder: "Place"
    images: int
    resumed_at: int
    stop_reason: str = ""
    diagnosis: str = ""
    ray_result: Any = None

    @property
    def metrics(self) -> Table:
        """The rows of `metrics.jsonl`."""
        from ganscale.storage.run_dir import RunDir
        from ganscale.tracking.jsonl import read_metrics

        return Table(read_metrics(RunDir(self.folder).pull()))

    @property
    def last_checkpoint(self) -> "Place | None":
        """The folder of the newest valid checkpoint."""
        return self._checkpoint("newest")

    @property
    def best_checkpoint(self) -> "Place | None":
        """The folder of the best checkpoint by `checkpoint.best_metric`."""
        return self._checkpoint("best")

    def _checkpoint(self, choice: str) -> "Place | None":
        from ganscale.inference.load import choose_checkpoint

        try:
            return choose_checkpoint(self.folder, choice)
        except ConfigError:
            return None

    def load_generator(
        self, checkpoint: str | int = "newest", *, device: str = "cpu", ema: float | None = None
    ) -> "LoadedGenerator":
        """Load the moving average of the run's generator.

        Args:
            checkpoint: "newest", "best" or a number of images.
            device: Where it computes.
            ema: Width of another average of a run with `ema.profiles`; None for the run's own.

        Raises:
            ConfigError: There is no such checkpoint, or it does not give that average.
        """
        from ganscale.inference.load import load_generator

        return load_generator(self.folder, device=device, checkpoint=checkpoint, ema=ema)


class Trainer:
    """A run. `fit` again, or in another process, resumes it.

    Args:
        config: A `Config`, plain mappings, a YAML file or its URI in a bucket, or None for the default run.
        overrides: `section.key=value`, values in YAML syntax.
        launcher: "ray", "torchrun", "local" (this process), or "auto": torchrun under torchrun, otherwise Ray.
        callbacks: Called on rank 0 with each `Tick` after it was logged; Ray pickles them (cloudpickle).

    Raises:
        ConfigError: A setting is invalid.
    """

    def __init__(
        self,
        config: Source = None,
        overrides: Sequence[str] = (),
        *,
        launcher: str = "auto",
        callbacks: "Sequence[Callable[[Tick], None]]" = (),
    ) -> None:
        if launcher not in LAUNCHERS:
            raise ConfigError("unknown", key="launcher", value=launcher, remedy=did_you_mean(launcher, LAUNCHERS))
        if launcher == "auto":
            launcher = "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "ray"
        with _at_hand(config) as source:
            self.config = load(source, overrides)
        self.launcher, self.callbacks = launcher, tuple(callbacks)

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process reports for the run."""
        return self.launcher != "torchrun" or os.environ.get("RANK", "0") == "0"

    def fit(self) -> Result:
        """Train to the end, from the newest checkpoint if there is one.

        Raises:
            ConfigError: A setting is invalid on this machine or cluster, or the folder holds another run.
            ExecutionError: The workers failed more often than `cluster.max_restarts`.
            OSError: The last checkpoint could not be saved.
        """
        from ganscale.config.checks import check_files
        from ganscale.storage.run_dir import inspect, locate

        config = self.config
        with _logging():
            check_files(config)
        folder = locate(config)
        newest = inspect(config, folder)
        if config.train.init_from and newest is None:
            from ganscale.run.warm_start import locate as locate_start

            locate_start(config)
        with _logging():
            if newest and newest.images >= config.train.images:
                if self.is_rank_zero:
                    _send_to_wandb(config, folder)
                return Result(config, folder.root, newest.images, newest.images)
            if self.launcher == "ray":
                from ganscale.launch.ray_train import TrainingError, train_on_ray

                try:
                    outcome = train_on_ray(config, folder, callbacks=self.callbacks)
                except TrainingError as error:
                    raise TrainingError(f"{error}\n  log: {folder.root / 'train.log'}") from error
            else:
                from ganscale.launch.local import launch_local, launch_torchrun

                launch = launch_torchrun if self.launcher == "torchrun" else launch_local
                outcome = launch(config, folder.root, callbacks=self.callbacks)
        reason = outcome.stop_reason.name if outcome.stop_reason else ""
        result = getattr(outcome, "result", None)
        return Result(config, folder.root, outcome.images, outcome.resumed_at, reason, outcome.diagnosis, result)


@contextmanager
def _at_hand(source: Source) -> Iterator[Mapping[str, Any] | str | Path | None]:
    """A config as `load` takes it; one in a bucket, such as the `best.yaml` of a sweep, is downloaded for the block."""
    from ganscale.storage.store import is_uri, open_place

    if not isinstance(source, str) or not is_uri(source):
        yield source.model_dump(mode="json") if isinstance(source, Config) else source
        return
    with TemporaryDirectory(prefix="ganscale-") as folder:
        path = Path(folder, "config.yaml")
        try:
            path.write_bytes(open_place(source, key="config").read_bytes())
        except FileNotFoundError as error:
            remedy = "name a YAML file, e.g. s3://bucket/sweeps/NAME/best.yaml"
            raise ConfigError(
                f"no such config file ({error.strerror})", key="config", value=source, remedy=remedy
            ) from None
        try:
            yield path
        except ConfigError as error:
            if str(error.value) != str(path):
                raise
            message = str(error).partition("\n  remedy: ")[0].removeprefix(f"{error.key} = {shown(error.value)}: ")
            remedy = error.remedy.replace(str(path), "a local copy of it")
            raise ConfigError(message, key=error.key, value=source, remedy=remedy) from None


@dataclass(frozen=True)
class SweepResult:
    """The results of a sweep; its folder holds all of them.

    Attributes:
        folder: The sweep's folder, or its place in a bucket.
        summary: Leaderboard and winner as a text.
        results: A row per configuration, best first.
        best_config: The winner as a run; None if no configuration has a valid seed.
        best_value: The winner's mean of the first metric, over the fresh seeds if there were any.
        ray_result: Ray Tune's own results (`ray.tune.ResultGrid`) of the trials that this call ran, each with `metrics`
            and a `checkpoint` whose metadata name its folder; None if there were none to run.
    """

    folder: "Place"
    summary: str
    results: Table
    best_config: Config | None
    best_value: float | None
    ray_result: Any = None


class Tuner:
    """A sweep. `fit` again, or in another process, resumes it.

    Args:
        sweep: A sweep's YAML file, or its content as plain mappings.
        overrides: `sweep.key=value` for the sweep, `section.key=value` for its runs.

    Raises:
        ConfigError: A setting is invalid.
    """

    def __init__(self, sweep: Mapping[str, Any] | str | Path, overrides: Sequence[str] = ()) -> None:
        from ganscale.sweep.plan import load_plan

        self.plan = load_plan(sweep, list(overrides))

    def fit(self) -> SweepResult:
        """Run all configurations that have not ended, then the winner on fresh seeds.

        Raises:
            ConfigError: The cluster cannot hold a trial, or the folder holds another sweep.
            ExecutionError: Ray failed.
        """
        from ganscale.config.checks import check_files
        from ganscale.config.load import recorded
        from ganscale.sweep.tuner import search_on_ray, sweep_folder

        with _logging():
            check_files(self.plan.config, scores=True)
            summary, grid = search_on_ray(self.plan)
        folder = sweep_folder(self.plan)
        found = json.loads((folder.root / "results.json").read_text(encoding="utf-8"))
        rows, metric = Table(found["trials"]), self.plan.metrics[0]
        winner = next((row for row in rows if row["trial"] == found["winner"]), None)
        value = (found["confirmed"] or winner)["means"][metric] if winner else None
        folder.files.fetch(folder.best.name)
        return SweepResult(folder.root, summary, rows, recorded(folder.best) if winner else None, value, grid)


def _logging() -> Any:
    """Show log lines, unless the calling program has set up logging itself."""
    from ganscale.tracking.console import PACKAGE, Screen, setup_logging

    own = any(isinstance(handler, Screen) for handler in PACKAGE.handlers)
    return setup_logging() if own or not PACKAGE.hasHandlers() else nullcontext()


def _send_to_wandb(config: Config, folder: "RunDir") -> None:
    """Send W&B what it has not received."""
    if config.wandb.mode in ("online", "auto"):
        from ganscale.storage.lease import acquire
        from ganscale.tracking.console import PACKAGE
        from ganscale.tracking.wandb import upload

        if isinstance(folder.root, Path):
            upload(config, folder, PACKAGE.info)
            return
        lease = acquire(folder, patience=0.0, info=PACKAGE.info)
        try:
            lease.claim()
            folder.pull().write_as(lease.confirm)
            upload(config, folder, PACKAGE.info)
            folder.push()
        finally:
            folder.close()
            lease.release()
