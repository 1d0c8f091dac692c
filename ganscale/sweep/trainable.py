"""A trial of Ray Tune: one configuration with all of its seeds."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ray.tune import Trainable

from ganscale.config import Config, parse
from ganscale.config.register import register
from ganscale.launch.placement import Placement
from ganscale.sweep.config import Sweep
from ganscale.sweep.executors import InProcessExecutor, TrialExecutor, TrialSpec, WorkerGroupExecutor
from ganscale.sweep.record import TrialRow, read_rows
from ganscale.sweep.score import standing
from ganscale.sweep.space import Space

SCORE, IMAGES = "score", "images"
"""Of what a trial reports: the number that schedulers compare, and the time that they go by."""


class Job(NamedTuple):
    """What all trials of a sweep have in common; plain data, as it travels to other processes.

    Attributes:
        sweep: `Sweep` as plain mappings.
        base: the base run as plain mappings.
        folder: of the trials.
        metrics: that are optimized.
        seeds: run.seed of each run.
        one_seed_each: whether trial i runs seeds[i] alone, and not all of them.
        use_gpu: whether trials compute on GPUs.
        from_end: whether a trial that goes on starts reporting at its last row (population-based training), not its
            first (so that a scheduler sees again what it saw before).
        keep: checkpoints that a finished run keeps.
        storage: folder for Ray's own files.
        extension: what the user registered.
    """

    sweep: dict[str, Any]
    base: dict[str, Any]
    folder: str
    metrics: tuple[str, ...]
    seeds: tuple[int, ...]
    one_seed_each: bool
    use_gpu: bool
    from_end: bool
    keep: int
    storage: str
    extension: dict[str, Any]


def trial_config(space: Space, sweep: Sweep, drawn: dict[str, Any]) -> Config:
    """The run of a configuration in this sweep.

    Raises:
        ConfigError: the values contradict each other.
    """
    raw, settings = space.raw(drawn), sweep.sweep
    cluster = {"num_workers": settings.workers, "cpus_per_worker": settings.cpus_per_worker}
    raw["cluster"] = {**raw.get("cluster", {}), **cluster}
    return parse(raw)


def reported(row: TrialRow, metrics: tuple[str, ...], sweep: Sweep) -> dict[str, Any]:
    """What Tune is told: finite plain numbers only, as others poison schedulers and snapshots."""
    judged = standing(row.seeds, metrics, sweep.sweep)
    return {SCORE: judged.score, IMAGES: row.images, "spent": row.spent, "done": row.last}


class TrialActor(Trainable):
    """Trains configurations one after another, so that only the first pays for imports and workers."""

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        """Take the job, and the first configuration."""
        assert job is not None, "given by with_parameters"
        with suppress(ValueError):  # a process that runs its second sweep knows them already
            register(**job.extension)
        self._job = job
        self._sweep = Sweep.model_validate(job.sweep)
        self._space = Space(self._sweep, job.base)
        self._place: TrialExecutor | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on with another configuration."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        job, drawn = self._job, json.loads(config["drawn"])
        number = int(self.trial_name)  # config["index"] is the donor's after an exchange
        run = trial_config(self._space, self._sweep, drawn)
        self._work = TrialSpec(
            config=run.model_dump(mode="json"),
            drawn=drawn,
            seeds=job.seeds[number : number + 1] if job.one_seed_each else job.seeds,
            metrics=job.metrics,
            folder=str(Path(job.folder) / f"{number:04d}"),
            stop_failing=self._sweep.sweep.stop_failing,
            keep=job.keep,
        )
        if self._place is None:
            self._place = self._open(run)
        self._next = max(0, len(read_rows(Path(self._work.folder))) - 1) if job.from_end else 0

    def _open(self, run: Config) -> TrialExecutor:
        workers = self._sweep.sweep.workers
        if workers > 1:
            placement = Placement(workers, self._job.use_gpu, "PACK")
            return WorkerGroupExecutor(run, placement, Path(self._job.storage))
        return InProcessExecutor(torch.device("cuda", 0) if self._job.use_gpu else torch.device("cpu"))

    def step(self) -> dict[str, Any]:
        """Train all seeds to their next evaluation, or tell again what is recorded."""
        assert self._place is not None, "setup opens it"
        row = self._place.row(self._work, self._next)
        self._next += 1
        return reported(row, self._job.metrics, self._sweep)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the states of all seeds; only population-based training asks for it."""
        assert self._place is not None, "setup opens it"
        path = Path(self._work.folder) / "states.pt"
        self._place.save(self._work, path)  # on storage that the workers share
        path.replace(Path(checkpoint_dir) / "states.pt")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Take over the states of another trial (or its own, after a pause); settings stay this trial's own."""
        assert self._place is not None, "setup opens it"
        path = Path(self._work.folder) / "states.pt"
        shutil.copy(Path(checkpoint) / "states.pt", path)
        self._place.load(self._work, path)
        path.unlink()
        self._next = len(read_rows(Path(self._work.folder)))

    def cleanup(self) -> None:
        """Free the workers."""
        if self._place is not None:
            self._place.close()
