"""One configuration of a sweep with all of its seeds, advanced together from evaluation to evaluation. Knows no Ray.

<sweep>/trials/<number>/
    rows.jsonl         a row per evaluation: images, drawn settings, and each seed's result
    end.json           how it ended; there once it is not to go on
    seed-<seed>/       a run's folder (config.yaml, metrics.jsonl, evaluations/, samples/, checkpoints/)

A row is written after the checkpoints of all seeds at its moment, so a trial that died goes on from its last row.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ganscale.config import DETECTORS, Config
from ganscale.config.checks import metric_names
from ganscale.evaluation.callback import can_sample, make_evaluator
from ganscale.evaluation.evaluator import Evaluator, store_evaluation
from ganscale.health import detectors
from ganscale.parallel.collectives import Replica
from ganscale.run.health_monitor import health_row, numbers
from ganscale.run.samples import SampleRenderer
from ganscale.storage import checkpoint
from ganscale.storage.checkpoint import CheckpointError, CheckpointStore, write_atomically
from ganscale.storage.run_dir import RunDir, prepare
from ganscale.sweep.record import TrialRow, read_rows
from ganscale.sweep.score import SeedResult
from ganscale.tracking.jsonl import JsonlTracker, read_metrics
from ganscale.training.build import Experiment, build
from ganscale.training.loop import Tick, train


class MultiSeedTrial:
    """A configuration in training; every replica makes one and calls it alike, rank 0 alone writes.

    Args:
        config: the run without its seed.
        drawn: the drawn values that it comes from.
        seeds: run.seed of each run.
        metrics: whose values count.
        folder: the trial's folder, on storage that all replicas share.
        device: where this replica computes.
        stop_failing: whether a seed with a bad verdict is not trained further.
        keep: checkpoints that are left when it is done; all others go.
    """

    def __init__(
        self,
        config: Config,
        drawn: Mapping[str, Any],
        seeds: Sequence[int],
        metrics: Sequence[str],
        folder: Path,
        *,
        device: torch.device,
        stop_failing: bool = True,
        keep: int = 0,
    ) -> None:
        torch.set_num_threads(config.cluster.cpus_per_worker)
        self.config, self.drawn, self.metrics, self.folder = config, dict(drawn), tuple(metrics), folder
        self._device, self._keep, self._replica = device, keep, Replica.current()
        self._runs = [SeedRun(config, seed, metrics, folder, device=device, stop=stop_failing) for seed in seeds]
        self._evaluator: Evaluator | None = None
        self._ready = False
        self.rows = read_rows(folder)
        if self._replica.is_rank_zero:
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def experiments(self) -> list[Experiment]:
        """The live objects of all seeds."""
        self._resume()
        return [run.experiment for run in self._runs]

    def row(self, number: int) -> TrialRow:
        """Row `number`: the recorded one, or trained now. All replicas ask for the same."""
        if number < len(self.rows):
            row = self.rows[number]
            if row.last and self._replica.is_rank_zero:  # whoever wrote it may have died before it noted the end
                self.end("complete")
            return row
        assert not (self.rows and self.rows[-1].last), "nobody asks for more than there is"
        self._resume()
        while len(self.rows) <= number:
            self._next()
        return self.rows[number]

    def _next(self) -> None:
        """Train all seeds to their next evaluation and record it."""
        started = time.perf_counter()
        before = self.rows[-1].images if self.rows else 0
        for run in self._runs:
            run.advance(self._evaluate)
        results = tuple(run.result for run in self._runs)
        alive = [run for run in self._runs if not run.result.failure]
        until, every = self.config.train.images, self.config.eval.every
        reached = max((run.result.images for run in alive), default=before + every)
        last = not alive or reached >= until
        images = until if reached >= until else reached // every * every
        row = TrialRow(images, self.drawn, results, time.perf_counter() - started, last)
        if self._replica.is_rank_zero:
            for run in alive:
                run.save()
            self._append(row)
            if last:
                self.end("complete")
        self.rows.append(row)

    def _append(self, row: TrialRow) -> None:
        lines = [json.dumps(r.as_json()) + "\n" for r in (*self.rows, row)]
        write_atomically(self.folder / "rows.jsonl", "".join(lines))

    def end(self, status: str) -> None:
        """Note that the trial is not to go on, show samples of it, and drop the checkpoints that are not kept."""
        for run in self._runs:
            run.finish(self._keep)
        end_trial(self.folder, status)

    def _resume(self) -> None:
        """Go on from the last row of which all checkpoints are good."""
        if self._ready:
            return
        self._ready = True
        number = 0
        if self._replica.is_rank_zero:
            number = next((n for n in range(len(self.rows), 0, -1) if self._restorable(self.rows[n - 1])), 0)
        if self._replica.world_size > 1:
            agreed = torch.tensor([number], device=self._device)
            dist.broadcast(agreed, 0)
            number = int(agreed)
            self.rows = read_rows(self.folder)
        del self.rows[number:]
        results = self.rows[-1].seeds if self.rows else [None] * len(self._runs)
        for run, result in zip(self._runs, results, strict=True):
            run.start(result)

    def _restorable(self, row: TrialRow) -> bool:
        with suppress(CheckpointError):
            for run, result in zip(self._runs, row.seeds, strict=True):
                if not result.failure:
                    checkpoint.verify(run.folder.checkpoints / f"{result.images:012d}")
            return True
        return False

    def _evaluate(self, experiment: Experiment, images: int) -> dict[str, float]:
        """The scores of one seed's average; the evaluator is made once, as seeds share data and protocol."""
        if not can_sample(experiment):
            return dict.fromkeys((*self.metrics, *metric_names(experiment.config)), math.nan)
        if self._evaluator is None:
            self._evaluator = make_evaluator(experiment.config, experiment.sampler.source, device=self._device)
        evaluation = self._evaluator.evaluate(experiment.state.ema.module, images)
        if self._replica.is_rank_zero:
            with suppress(OSError):
                store_evaluation(evaluation, self.folder / f"seed-{experiment.config.run.seed}" / "evaluations")
        return evaluation.numbers()

    def states(self) -> list[dict[str, Any]]:
        """All of each seed: both networks, average, optimizers and position."""
        return [experiment.state.state_dict() for experiment in self.experiments]

    def adopt(self, states: Sequence[dict[str, Any]]) -> None:
        """Take over another candidate's states; rates, betas and weights stay this candidate's own."""
        self._resume()
        for run, state in zip(self._runs, states, strict=True):
            run.adopt(state)


class SeedRun:
    """One seed of a configuration. Arguments: `MultiSeedTrial`."""

    def __init__(
        self, config: Config, seed: int, metrics: Sequence[str], folder: Path, *, device: torch.device, stop: bool
    ) -> None:
        run = config.run.model_copy(update={"seed": seed, "name": f"seed-{seed}", "dir": str(folder)})
        self.config = config.model_copy(update={"run": run})
        self.folder = RunDir(folder / f"seed-{seed}")
        self.result = SeedResult(seed, 0, {})
        self._metrics, self._device, self._stop = tuple(metrics), device, stop
        self._first = Replica.current().is_rank_zero
        self._history: list[dict[str, float]] = []
        self._tracker: JsonlTracker | None = None
        self._ticks: Iterator[Tick] = iter(())

    def start(self, result: SeedResult | None) -> None:
        """Build the run, at its beginning or at an earlier result."""
        self.experiment = build(self.config, device=self._device)
        if result:
            self.result = result
            if not result.failure:
                _, state = checkpoint.load(self.folder.checkpoints / f"{result.images:012d}")
                self.experiment.state.load_state_dict(state)
        if self._first:
            prepare(self.config, self.folder)
            self._tracker = JsonlTracker(self.folder, images=self.result.images)
            self._history = [numbers(row) for row in read_metrics(self.folder)]
        self._ticks = self._train()

    def adopt(self, state: dict[str, Any]) -> None:
        """Go on from another run's state."""
        self.experiment.state.load_state_dict(state)
        self.result = SeedResult(self.result.seed, self.experiment.state.images, {})
        self._history = []
        if self._tracker:
            self._tracker.close(completed=False)
            self._tracker = JsonlTracker(self.folder, images=self.result.images)
        self._ticks = self._train()

    def _train(self) -> Iterator[Tick]:
        config = self.config
        intervals = {"log": config.log.every, "eval": config.eval.every}
        e = self.experiment
        return train(e.state, e.step, e.sampler, intervals=intervals, until=config.train.images)

    def advance(self, evaluate: Any) -> None:
        """Train to the next evaluation, or to a bad verdict."""
        if self.result.failure:
            return
        for tick in self._ticks:
            state = self.experiment.state
            metrics = (
                tick.metrics
                | health_row(tick, self.experiment)
                | {
                    "lr_d": float(state.optimizer_d.param_groups[0]["lr"]),
                    "lr_g": float(state.optimizer_g.param_groups[0]["lr"]),
                }
            )
            self.result = replace(self.result, images=tick.images)
            evaluates = bool(tick.due & {"eval", "end"})
            if evaluates:
                found = evaluate(self.experiment, tick.images)
                metrics |= found
                values = {name: found[name] for name in self._metrics}
                self.result = replace(self.result, values=values)
            self._history.append(metrics)
            if self._tracker:
                with suppress(OSError):
                    self._tracker.log(tick.images, metrics)
            failure = self._verdict()
            if failure:
                self.result = replace(self.result, failure=failure)
            if failure or evaluates:
                return
        if not self.result.values:  # it was given the end of another run
            found = evaluate(self.experiment, self.result.images)
            self.result = replace(self.result, values={name: found[name] for name in self._metrics})

    def _verdict(self) -> str:
        """Why the seed has failed, the same on all replicas; empty if it has not."""
        if not self._stop:
            return ""
        text = ""
        if self._first:
            evaluations = [row for row in self._history if self._metrics[0] in row]
            settings = self.config.health
            verdict = detectors.diagnose(
                self._history,
                evaluations,
                loss=self.config.loss.name,
                patience=settings.patience,
                ignore=(*settings.ignore, *(kind for kind, entry in DETECTORS.items() if entry.is_transient)),
            )
            text = str(verdict) if verdict else ""
        if Replica.current().world_size > 1:
            agreed: list[Any] = [text]
            dist.broadcast_object_list(agreed, 0, device=self._device)
            text = str(agreed[0])
        return text

    def save(self) -> None:
        """Write a checkpoint of this moment; it and the one before stay."""
        store = CheckpointStore(self.folder.checkpoints, keep=2)
        config = self.config.model_dump(mode="json")
        store.save(self.experiment.state.state_dict(), config=config, metrics=dict(self.result.values))

    def finish(self, keep: int) -> None:
        """Show samples, and leave only the newest `keep` checkpoints."""
        if self._tracker:
            with suppress(OSError):
                self._tracker.samples(self.result.images, SampleRenderer(self.experiment).render())
            self._tracker.close(completed=True)
            self._tracker = None
        drop_checkpoints(self.folder.path, keep)


def drop_checkpoints(run: Path, keep: int) -> None:
    """Leave only the newest checkpoints of a run's folder."""
    for folder in CheckpointStore(run / "checkpoints").folders()[keep:]:
        shutil.rmtree(folder, ignore_errors=True)


def end_trial(folder: Path, status: str, reason: str = "") -> None:
    """Note how a trial ended, unless that is known already."""
    if not (folder / "end.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "end.json", json.dumps({"status": status, "reason": reason}) + "\n")
