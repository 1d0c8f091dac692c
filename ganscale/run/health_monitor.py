"""The watch over a run: a verdict at every tick, and what follows from it, on all replicas alike.

Rank 0 judges, as it alone has the rows of earlier lives, and tells the others what to do; all put back their state.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist

from ganscale.config.evaluation import METRICS
from ganscale.health import detectors
from ganscale.health.policy import Decision, healthy_until, respond, rollback_limit
from ganscale.parallel.collectives import Replica
from ganscale.run.drift import DriftCheck
from ganscale.storage import checkpoint
from ganscale.storage.checkpoint import CheckpointStore, write_atomically
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from ganscale.training.build import Experiment, initial_state
from ganscale.training.loop import Tick
from ganscale.training.step import weight_norm

TIMES = ("seconds_per_iteration", "images_per_second")
CODES = ("continue", "warn", "stop", "rollback")


def health_row(tick: Tick, experiment: Experiment) -> dict[str, float]:
    """What verdicts look at: the tick's metrics without times, and the weights' norms; the same on all replicas."""
    return {name: value for name, value in tick.metrics.items() if name not in TIMES} | weight_norms(experiment)


def weight_norms(experiment: Experiment) -> dict[str, float]:
    """Of both networks, under the names of the rows."""
    step = experiment.step
    return {
        "weight_norm_d": float(weight_norm(step.d.parameters)),
        "weight_norm_g": float(weight_norm(step.g.parameters)),
    }


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A row of metrics.jsonl, null as NaN."""
    return {name: math.nan if value is None else float(value) for name, value in row.items() if name != "images"}


def read_rollbacks(folder: RunDir) -> list[dict[str, Any]]:
    """Rollbacks of a run so far: images at which (`at`), to which (`to`), and the verdict (`kind`)."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(folder.rollbacks.read_text(encoding="utf-8"))
        if isinstance(found, list):
            return found
    return []


class HealthMonitor:
    """Judges a run at its ticks; every replica makes one and calls it alike.

    Args:
        experiment: the run, at the state from which it goes on.
        folder: the run's.
        store: its checkpoints.
    """

    def __init__(self, experiment: Experiment, folder: RunDir, store: CheckpointStore) -> None:
        self._experiment, self._folder, self._store = experiment, folder, store
        self._settings = experiment.config.health
        self._loss = experiment.config.loss.name
        self._replica = Replica.current()
        self._images: list[int] = []
        self._rows: list[dict[str, float]] = []
        self._told: set[str] = set()
        self._drift = DriftCheck(experiment, store)
        if self._replica.is_rank_zero:
            self._remember()

    def _remember(self) -> None:
        """The rows of earlier lives, and what was said of them."""
        rows = [row for row in read_metrics(self._folder) if row["images"] <= self._experiment.state.images]
        self._images = [row["images"] for row in rows]
        self._rows = [numbers(row) for row in rows]
        verdict = self._verdict()
        self._told = {verdict.kind} if verdict else set()

    def __call__(self, tick: Tick, row: Mapping[str, float] | None = None) -> Decision:
        """Judge the run with this tick; after a rollback its state is that of an earlier moment.

        Args:
            tick: the newest.
            row: on rank 0 the row of metrics, with the evaluation's if there was one.

        Raises:
            OSError: a rollback could not be noted in the run's folder.
        """
        drift = self._drift(tick)
        if drift.action == "rollback":
            self._restore(drift.target, self._experiment.state.rollbacks)
        if drift.action != "continue":
            return drift
        decision = Decision()
        if self._replica.is_rank_zero:
            assert row is not None, "rank 0 has the numbers"
            self._images.append(tick.images)
            self._rows.append({name: value for name, value in row.items() if name not in TIMES})
            decision = self._decide()
        decision = self._agree(decision)
        if decision.action == "rollback":
            self._go_back(decision)
        return decision

    def _verdict(self) -> detectors.Verdict | None:
        settings = self._settings
        evaluations = [row for row in self._rows if any(name in METRICS for name in row)]
        return detectors.diagnose(
            self._rows, evaluations, loss=self._loss, patience=settings.patience, ignore=settings.ignore
        )

    def _decide(self) -> Decision:
        verdict = self._verdict()
        if verdict is None:
            self._told.clear()
            return Decision()
        if self._settings.response == "warn" and verdict.kind in self._told:
            return Decision()
        self._told.add(verdict.kind)
        rollbacks = self._experiment.state.rollbacks
        length = self._experiment.config.train.images
        decision = respond(self._settings, verdict, target=0, rollbacks=rollbacks, length=length)
        if decision.action == "warn":
            return decision
        sound = healthy_until(self._images, min(verdict.since, self._suspicion()))
        if decision.action == "rollback":
            sound = rollback_limit(sound, self._images[-1], read_rollbacks(self._folder), length=length)
            found = self._store.newest(lambda _: None, until=sound)
            target = found.images if found else 0
            decision = respond(self._settings, verdict, target=target, rollbacks=rollbacks, length=length)
        self._store.mark(sound, str(verdict))
        if decision.action == "rollback":
            self._note(decision, str(verdict))
        return decision

    def _suspicion(self) -> int:
        """Index of the first row that was gravely bad."""
        settings = self._settings
        return detectors.first_suspect_tick(
            self._rows, loss=self._loss, patience=settings.patience, ignore=settings.ignore
        )

    def _note(self, decision: Decision, reason: str) -> None:
        """Write the rollback down, so that it holds for all later lives of the run."""
        row = {"at": self._images[-1], "to": decision.target, "kind": decision.kind, "reason": reason}
        rows = [*read_rollbacks(self._folder), row]
        write_atomically(self._folder.rollbacks, json.dumps(rows, indent=1) + "\n")

    def _agree(self, decision: Decision) -> Decision:
        """Rank 0's decision, on all replicas (without its words)."""
        if self._replica.world_size == 1:
            return decision
        code = [CODES.index(decision.action), decision.target]
        agreed = torch.tensor(code, dtype=torch.int64, device=self._experiment.device)
        dist.broadcast(agreed, 0)
        if self._replica.is_rank_zero:
            return decision
        action, target = agreed.tolist()
        return Decision(CODES[action], target)

    def _go_back(self, decision: Decision) -> None:
        """Put the state back, and note there that it was."""
        self._restore(decision.target, self._experiment.state.rollbacks + 1)

    def _restore(self, target: int, rollbacks: int) -> None:
        """Put the state back to `target` images, with so many rollbacks in it."""
        experiment = self._experiment
        state = experiment.state
        if target:
            _, saved = checkpoint.load(self._folder.checkpoints / f"{target:012d}")
        else:
            source = experiment.sampler.source
            saved = initial_state(
                experiment.config, source.shape, experiment.device, num_classes=source.num_classes
            ).state_dict()
        state.load_state_dict(saved)
        state.rollbacks = rollbacks
        kept = sum(images <= target for images in self._images)
        del self._images[kept:], self._rows[kept:]
        self._told.clear()
