"""A trial of Ray Tune: one configuration with all of its seeds."""

import json
import math
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ray.tune import Checkpoint, Trainable

from ganscale.config import parse
from ganscale.config.register import register
from ganscale.launch.placement import Placement
from ganscale.launch.prometheus import GaugeTracker
from ganscale.storage.lease import Fence
from ganscale.storage.store import Place
from ganscale.sweep.config import Sweep
from ganscale.sweep.executors import InProcessExecutor, TrialSpec, WorkerGroupExecutor
from ganscale.sweep.results import read_rows
from ganscale.sweep.sampler import audited_seeds
from ganscale.sweep.score import standing
from ganscale.sweep.space import Space

SCORE, IMAGES = "score", "images"
"""Keys of a trial's reports: what schedulers compare, and their time axis."""


class Job(NamedTuple):
    """What all trials of a sweep share, as plain data, since it travels to other processes."""

    sweep: dict[str, Any]  # `Sweep` as plain mappings
    base: dict[str, Any]  # the base run as plain mappings
    folder: Place  # folder of the trials
    metrics: tuple[str, ...]  # metrics that are optimized
    seeds: tuple[int, ...]  # `run.seed` of each run
    one_seed_each: bool  # whether trial i runs seeds[i] only, instead of all seeds
    use_gpu: bool  # whether trials compute on GPUs
    # whether a resumed trial reports its last row first (population-based training) instead of all rows, which
    # restore the scheduler's state
    from_end: bool
    keep: int  # number of checkpoints that a finished run keeps
    storage: str  # folder for Ray's own files; empty where nodes share none
    extension: dict[str, Any]  # the user's own networks and losses
    driver: Fence  # lease of the sweep


def trial_number(name: str) -> int:
    """The number of a trial's configuration.

    Args:
        name: Of the trial, by `results.title`.
    """
    return int(name.partition(" ")[0])


class TrialActor(Trainable):
    """Trains configurations one after another, so that only the first pays for imports and workers (Ray's protocol)."""

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        """Set up the job and the first configuration (Ray's protocol)."""
        assert job is not None, "given by with_parameters"
        with suppress(ValueError):  # already registered by the previous sweep in this process
            register(**job.extension)
        self._job = job
        self._sweep = Sweep.model_validate(job.sweep)
        self._space = Space(self._sweep, job.base)
        self._executor: InProcessExecutor | WorkerGroupExecutor | None = None
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Continue with another configuration (Ray's protocol)."""
        job, settings, drawn = self._job, self._sweep.sweep, json.loads(new_config["drawn"])
        number = trial_number(self.trial_name)  # after an exploit step, config["index"] is the donor's
        raw = self._space.raw(drawn)
        cluster = {"num_workers": settings.workers, "cpus_per_worker": settings.cpus_per_worker}
        run = parse({**raw, "cluster": {**raw.get("cluster", {}), **cluster}})
        self._folder = job.folder / f"{number:04d}"
        seeds = job.seeds[number : number + 1] if job.one_seed_each else job.seeds
        self._spec = TrialSpec(
            config=run.model_dump(mode="json"),
            drawn=drawn,
            seeds=seeds,
            metrics=job.metrics,
            folder=self._folder,
            stop_failing=settings.stop_failing,
            audited=() if job.one_seed_each else audited_seeds(settings, number, seeds),
            keep=job.keep,
            driver=job.driver,
        )
        if self._executor is None and settings.workers > 1:
            placement = Placement(settings.workers, job.use_gpu, "PACK")
            self._temporary = tempfile.TemporaryDirectory(prefix="ganscale-", ignore_cleanup_errors=True)
            storage = Path(job.storage or self._temporary.name)
            self._executor = WorkerGroupExecutor(run, placement, storage, f"{settings.name}-workers")
        elif self._executor is None:
            self._executor = InProcessExecutor(torch.device("cuda", 0) if job.use_gpu else torch.device("cpu"))
        self._gauges = GaugeTracker(f"{settings.name}/{number:04d}")
        self._next = max(0, len(read_rows(self._folder)) - 1) if job.from_end else 0
        return True

    def _execute(self, operation: Any, argument: Any) -> Any:
        assert self._executor is not None, "setup opens it"
        return self._executor.run(self._spec, operation, argument)

    def step(self) -> dict[str, Any]:
        """Train all seeds to their next evaluation, or report a recorded row (Ray's protocol)."""
        row = self._execute("row", self._next)
        self._next += 1
        found = standing(row.seeds, self._job.metrics, self._sweep.sweep)
        # Plain finite numbers only: others break schedulers and snapshots.
        means = {name: value for name, value in found.means.items() if math.isfinite(value)}
        numbers = {SCORE: found.score, "spent": row.spent, "failures": found.failures, **means}
        self._gauges.log(row.images, numbers)
        # Population-based training saves when it needs to; else Tune's checkpoint is a reference that costs little.
        references = not self._job.from_end
        return {
            **numbers,
            IMAGES: row.images,
            "settings": dict(row.drawn),
            "done": row.last,
            "should_checkpoint": references,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the states of all seeds for population-based training, else where the trial lies (Ray's protocol)."""
        if not self._job.from_end:
            runs = [str(self._folder / f"seed-{seed}") for seed in self._spec.seeds]
            Checkpoint.from_directory(checkpoint_dir).set_metadata({"path": str(self._folder), "runs": runs})
            return
        shared, own = self._folder / "states.pt", Path(checkpoint_dir) / "states.pt"
        self._execute("save", shared)  # on the storage that workers share; Ray's folder is on this node only
        if isinstance(shared, Path):
            shutil.move(shared, own)
        else:
            own.write_bytes(shared.read_bytes())
            shared.unlink()

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Continue from the states of another trial, or from its own after a pause (Ray's protocol).

        A reference is no state: the trial's own folder is, and its rows are reported again.
        """
        if not self._job.from_end:
            return
        shared, own = self._folder / "states.pt", Path(checkpoint) / "states.pt"
        if isinstance(shared, Path):
            shutil.copy(own, shared)
        else:
            shared.store.put(shared.key, own.read_bytes())
        self._execute("load", shared)
        shared.unlink()
        self._next = len(read_rows(self._folder))

    def cleanup(self) -> None:
        """Free the workers (Ray's protocol)."""
        if self._executor is not None:
            self._executor.close()
