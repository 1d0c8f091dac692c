"""Health of a run: a verdict at every tick, and what follows from it, on all replicas alike.

Rank 0 decides, as it alone has the rows of earlier attempts, and broadcasts the decision; all restore their state.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ganscale.config.evaluation import METRICS
from ganscale.config.health import Health
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.health import detectors, stragglers
from ganscale.health.policy import Decision, healthy_until, respond, rollback_limit
from ganscale.models.layers import EqualLinear
from ganscale.models.transformer import MAPPING_RATE, ScaledLinear
from ganscale.parallel.collectives import broadcast_ints
from ganscale.parallel.replica import Replica
from ganscale.run.drift import DriftCheck
from ganscale.run.straggler_check import StragglerCheck
from ganscale.run.warm_start import warm_start
from ganscale.storage import checkpoint
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.files import write_atomically
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_rollbacks
from ganscale.training.build import Experiment, initial_state
from ganscale.training.loop import Tick
from ganscale.training.statistics import weight_norm
from ganscale.training.step import Side

TIMES = ("seconds_per_iteration", "images_per_second", "decode_limit", *stragglers.METRICS)
ACTIONS = ("continue", "warn", "stop", "rollback")


@torch.no_grad()
def acting_weights(side: Side) -> list[Tensor]:
    """A network's trained weights as its layers use them: those of mapping networks are stored over their rate.

    Args:
        side: the network's part in the update.
    """
    rates: dict[int, float] = {}
    for module in side.network.modules():
        scaled = MAPPING_RATE if isinstance(module, ScaledLinear) else 1.0
        rate = module.rate if isinstance(module, EqualLinear) else scaled
        if rate != 1.0:
            rates |= {id(parameter): rate for parameter in module.parameters(recurse=False)}
    return [each * rates[id(each)] if id(each) in rates else each for each in side.parameters]


def weight_norms(experiment: Experiment) -> dict[str, float]:
    """Norms of both networks' acting weights, by their names in the log.

    Args:
        experiment: the run's objects.
    """
    step = experiment.step
    return {
        "weight_norm_d": float(weight_norm(acting_weights(step.d))),
        "weight_norm_g": float(weight_norm(acting_weights(step.g))),
    }


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A row of metrics.jsonl without its images, null as NaN.

    Args:
        row: as read.
    """
    return {name: math.nan if value is None else float(value) for name, value in row.items() if name != "images"}


class HealthMonitor:
    """Checks a run's health at its ticks; every replica makes one and calls it alike.

    Args:
        experiment: the run, at the state from which it starts.
        folder: the run's.
        store: its checkpoints.
        history: on rank 0, rows of metrics.jsonl from earlier attempts.
        settings: in place of the run's section `health`.
        flush: waits until checkpoints that are being written are there; called before they are read or marked.
        late: evaluations of earlier ticks that have come by this one; their scores belong to the rows of those ticks.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: RunDir,
        store: CheckpointStore,
        *,
        history: Sequence[Mapping[str, Any]] = (),
        settings: Health | None = None,
        flush: Callable[[], None] = lambda: None,
        late: Callable[[], Sequence[Evaluation]] = tuple,
    ) -> None:
        self._experiment, self._folder, self._store, self._flush = experiment, folder, store, flush
        self._settings = settings or experiment.config.health
        self._loss, self._late = experiment.config.loss.name, late
        self._replica = Replica.current()
        rows = [row for row in history if row["images"] <= experiment.state.images]
        self._images: list[int] = [row["images"] for row in rows]
        self._rows = [numbers(row) for row in rows]
        self._drift = DriftCheck(experiment, store, self._settings, flush=flush)
        self._stragglers = StragglerCheck(experiment.device, self._settings)
        verdict = self._verdict() if rows else None
        self._reported = {verdict.kind} if verdict else set[str]()

    def __call__(self, tick: Tick, row: Mapping[str, float]) -> Decision:
        """Decide what follows from a tick; after a rollback the run's state is an earlier one.

        Args:
            tick: the newest.
            row: its metrics, with the evaluation's if there was one.

        Raises:
            OSError: a rollback could not be recorded in the run's folder.
        """
        for evaluation in self._late():
            if evaluation.images in self._images:
                self._rows[self._images.index(evaluation.images)] |= evaluation.numbers()
        drift = self._drift(tick)
        if drift.action == "rollback":
            self._restore(drift.target, self._experiment.state.rollbacks)
        if drift.action != "continue":
            return drift
        decision = Decision()
        if self._replica.is_rank_zero:
            self._images.append(tick.images)
            self._rows.append({name: value for name, value in row.items() if name not in TIMES})
            decision = self._decide()
        decision = self._agree(decision)
        if decision.action == "rollback":
            self._restore(decision.target, self._experiment.state.rollbacks + 1)
        return self._stragglers(tick) if decision.action == "continue" else decision

    def _verdict(self) -> detectors.Verdict | None:
        settings = self._settings
        evaluations = [row for row in self._rows if any(name in METRICS for name in row)]
        return detectors.diagnose(
            self._rows, evaluations, loss=self._loss, patience=settings.patience, ignore=settings.ignore
        )

    def _decide(self) -> Decision:
        verdict = self._verdict()
        if verdict is None:
            self._reported.clear()
            return Decision()
        if self._settings.response == "warn" and verdict.kind in self._reported:
            return Decision()
        self._reported.add(verdict.kind)
        rollbacks = self._experiment.state.rollbacks
        length = self._experiment.config.train.images
        decision = respond(self._settings, verdict, target=0, rollbacks=rollbacks, length=length)
        if decision.action == "warn":
            return decision
        self._flush()
        healthy = healthy_until(self._images, min(verdict.since, self._suspicion()))
        if decision.action == "rollback":
            healthy = rollback_limit(healthy, self._images[-1], read_rollbacks(self._folder), length=length)
            found = self._store.newest(lambda _: None, until=healthy)
            target = found.images if found else 0
            decision = respond(self._settings, verdict, target=target, rollbacks=rollbacks, length=length)
        self._store.mark(healthy, str(verdict))
        if decision.action == "rollback":
            self._record(decision, str(verdict))
        return decision

    def _suspicion(self) -> int:
        """Index of the first row with a critical verdict."""
        settings = self._settings
        return detectors.first_suspect_tick(
            self._rows, loss=self._loss, patience=settings.patience, ignore=settings.ignore
        )

    def _record(self, decision: Decision, reason: str) -> None:
        """Write the rollback to the run folder, so that it holds for later attempts."""
        row = {"at": self._images[-1], "to": decision.target, "kind": decision.kind, "reason": reason}
        rows = [*read_rollbacks(self._folder), row]
        write_atomically(self._folder.rollbacks, json.dumps(rows, indent=1) + "\n")
        self._folder.push()

    def _agree(self, decision: Decision) -> Decision:
        """Rank 0's decision, on all replicas; the others get no text."""
        code = [ACTIONS.index(decision.action), decision.target]
        action, target = broadcast_ints(code, self._experiment.device)
        return decision if self._replica.is_rank_zero else Decision(ACTIONS[action], target)

    def _restore(self, target: int, rollbacks: int) -> None:
        """Restore the state at `target` images, with so many rollbacks in it."""
        experiment = self._experiment
        state = experiment.state
        if target:
            _, saved = checkpoint.load(self._folder.checkpoints / f"{target:012d}")
        else:
            source = experiment.sampler.source
            config = experiment.config
            first = initial_state(config, source.shape, experiment.device, num_classes=source.num_classes)
            if config.train.init_from:
                warm_start(config, first, source, self._folder)
            saved = first.state_dict()
        state.load_state_dict(saved)
        state.rollbacks = rollbacks
        kept = sum(images <= target for images in self._images)
        del self._images[kept:], self._rows[kept:]
        self._reported.clear()
