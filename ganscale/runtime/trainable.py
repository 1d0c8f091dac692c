"""A trial of Ray Tune: one configuration with all of its seeds, in the trial's own process."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ray.tune import Trainable

from ganscale.config import Config
from ganscale.config.space import Space
from ganscale.config.sweep import Sweep
from ganscale.extension import extend
from ganscale.runtime.trial import Candidate
from ganscale.search.record import TrialRow
from ganscale.search.score import standing

SCORE, IMAGES = "score", "images"
"""Of what a trial reports: the number that schedulers compare, and the time that they go by."""


class Job(NamedTuple):
    """What all trials of a sweep have in common; plain data, as it travels to other processes.

    Attributes:
        sweep: `Sweep` as plain mappings.
        base: the base run as plain mappings.
        folder: of the trials.
        metrics: that are optimised.
        seeds: run.seed of each run.
        one_seed_each: whether trial i runs seeds[i] alone, and not all of them.
        use_gpu: whether trials compute on GPUs.
        from_end: whether a trial that goes on starts reporting at its last row (population-based training), not its
            first (so that a scheduler sees again what it saw before).
        keep: checkpoints that a finished run keeps.
        extension: the user's own networks and losses.
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
    extension: dict[str, Any]


def trial_config(space: Space, sweep: Sweep, drawn: dict[str, Any]) -> Config:
    """The run of a configuration in this sweep.

    Raises:
        ConfigError: the values contradict each other.
    """
    config = space.config(drawn)
    settings = sweep.sweep
    cluster = {"num_workers": settings.workers, "cpus_per_worker": settings.cpus_per_worker}
    return config.model_copy(update={"cluster": config.cluster.model_copy(update=cluster)})


def reported(row: TrialRow, metrics: tuple[str, ...], sweep: Sweep) -> dict[str, Any]:
    """What Tune is told: finite plain numbers only, as others poison schedulers and snapshots."""
    judged = standing(row.seeds, metrics, sweep.sweep)
    return {
        SCORE: judged.score,
        IMAGES: row.images,
        "spent": row.spent,
        "failures": judged.failures,
        "successes": -1 if judged.successes is None else judged.successes,
        "done": row.last,
    }


class TrialActor(Trainable):
    """Runs configurations one after another in one process, so that only the first pays for imports."""

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        """Take the job, and the first configuration."""
        assert job is not None, "given by with_parameters"
        with suppress(ValueError):  # a process that runs its second sweep knows them already
            extend(**job.extension)
        self._job = job
        self._sweep = Sweep.model_validate(job.sweep)
        self._space = Space(self._sweep, job.base)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on with another configuration."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        drawn = json.loads(config["drawn"])
        run = trial_config(self._space, self._sweep, drawn)
        device = torch.device("cuda", 0) if self._job.use_gpu else torch.device("cpu")
        os.environ["OMP_NUM_THREADS"] = str(run.cluster.cpus_per_worker)
        self._candidate = Candidate(
            run,
            drawn,
            self._job.seeds[config["index"] :][:1] if self._job.one_seed_each else self._job.seeds,
            self._job.metrics,
            Path(self._job.folder) / f"{config['index']:04d}",
            device=device,
            stop_failing=self._sweep.sweep.stop_failing,
            keep=self._job.keep,
        )
        self._next = max(0, len(self._candidate.rows) - 1) if self._job.from_end else 0

    def step(self) -> dict[str, Any]:
        """Train all seeds to their next evaluation, or tell again what is recorded."""
        row = self._candidate.row(self._next)
        self._next += 1
        return reported(row, self._job.metrics, self._sweep)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the states of all seeds; only population-based training asks for it."""
        torch.save({"states": self._candidate.states(), "next": self._next}, Path(checkpoint_dir) / "states.pt")

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Take over the states of another trial (or its own, after a pause); settings stay this trial's own."""
        saved = torch.load(Path(checkpoint) / "states.pt", map_location="cpu", weights_only=True)
        self._candidate.adopt(saved["states"])
        self._next = len(self._candidate.rows)
