"""One configuration of a sweep with all of its seeds, advanced together from evaluation to evaluation. Knows no Ray.

<sweep>/trials/<number>/
    rows.jsonl         a row per evaluation: images, drawn settings, and each seed's result
    end.json           how it ended; present once it is not to be continued
    seed-<seed>/       a run's folder (config.yaml, metrics.jsonl, evaluations/, samples/, checkpoints/)

A row is written after the checkpoints of all seeds at its images, so an interrupted trial resumes from its last row.

In a bucket `lease.json` names the process that trains it (`TrialLease`), and the rows are replaced by compare-and-swap:
a process that another one has followed, but that still runs somewhere, can take no row back.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ganscale.config import DETECTORS, Config
from ganscale.evaluation.callback import make_evaluator
from ganscale.evaluation.evaluator import Evaluator
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.parallel.collectives import broadcast_ints
from ganscale.parallel.replica import Replica
from ganscale.run import drift
from ganscale.run.health_monitor import HealthMonitor
from ganscale.run.samples import SampleRenderer
from ganscale.run.session import Session
from ganscale.run.trackers import TrackerCallback
from ganscale.storage import checkpoint
from ganscale.storage.checkpoint import CheckpointError, CheckpointStore
from ganscale.storage.files import write_atomically
from ganscale.storage.lease import NO_DRIVER, Fence, LeaseLostError, TrialLease
from ganscale.storage.run_dir import RunDir, checkpoint_store, prepare
from ganscale.storage.store import Place, StorePath, is_uri, remove
from ganscale.sweep.results import TrialRow, read_rows
from ganscale.sweep.score import SeedResult
from ganscale.tracking.images import write_png
from ganscale.tracking.jsonl import JsonlTracker, read_metrics
from ganscale.training.build import Experiment, build
from ganscale.training.loop import Tick
from ganscale.training.statistics import has_finite_weights


class MultiSeedTrial:
    """A configuration in training; every replica makes one and calls it alike, only rank 0 writes.

    Args:
        config: the run without its seed.
        drawn: the drawn settings.
        seeds: run.seed of each run.
        metrics: names of the values that a result holds.
        folder: the trial's folder, on storage that all replicas share, or its place in a bucket.
        device: where this replica computes.
        stop_failing: whether to stop a seed with a health verdict.
        audited: the seeds that are trained on nevertheless; the verdict still makes them failures.
        keep: number of checkpoints to keep at the end.
        driver: the lease of the sweep, under which it trains.
    """

    def __init__(
        self,
        config: Config,
        drawn: Mapping[str, Any],
        seeds: Sequence[int],
        metrics: Sequence[str],
        folder: Place,
        *,
        device: torch.device,
        stop_failing: bool = True,
        audited: Sequence[int] = (),
        keep: int = 0,
        driver: Fence = NO_DRIVER,
    ) -> None:
        torch.set_num_threads(config.cluster.cpus_per_worker)
        self.config, self.drawn, self.metrics, self.folder = config, dict(drawn), tuple(metrics), folder
        self._device, self._keep, self._replica = device, keep, Replica.current()
        self._runs = [
            _SeedRun(
                config,
                SeedResult(seed, 0, {}, audited=seed in audited),
                metrics,
                folder,
                device=device,
                stop=stop_failing,
                evaluate=self._evaluate,
            )
            for seed in seeds
        ]
        self._evaluator: Evaluator | None = None
        self._ready, self._driver, self._etag = False, driver, ""
        self.rows = read_rows(folder)
        if self._replica.is_rank_zero:
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def experiments(self) -> list[Experiment]:
        """The objects of all seeds."""
        self._resume()
        return [run.experiment for run in self._runs]

    def row(self, number: int) -> TrialRow:
        """Row `number`: the recorded one, or trained now. A collective call.

        Args:
            number: from 0.
        """
        if number >= len(self.rows):
            assert not (self.rows and self.rows[-1].last), "the trial has no more rows"
            self._resume()
        if number < len(self.rows):
            row = self.rows[number]
            if row.last and self._replica.is_rank_zero:  # its writer may have died before it wrote the end
                self.end("complete")
            return row
        while len(self.rows) <= number:
            self._next()
        return self.rows[number]

    def _next(self) -> None:
        """Train all seeds to their next evaluation and record it."""
        started = time.perf_counter()
        before = self.rows[-1].images if self.rows else 0
        for run in self._runs:
            run.advance()
        results = tuple(run.result for run in self._runs)
        running = [run for run in self._runs if not run.result.has_ended]
        until, every = self.config.train.images, self.config.eval.every
        reached = max((run.result.images for run in running), default=before + every)
        last = not running or reached >= until
        images = until if reached >= until else reached // every * every
        row = TrialRow(images, self.drawn, results, time.perf_counter() - started, last)
        if self._replica.is_rank_zero:
            for run in self._runs:
                if run in running:
                    run.save()
                else:
                    run.folder.push()
            self._append(row)
            if last:
                self.end("complete")
        self.rows.append(row)

    def _append(self, row: TrialRow) -> None:
        path, text = self.folder / "rows.jsonl", "".join(json.dumps(r.as_json()) + "\n" for r in (*self.rows, row))
        if isinstance(path, Path):
            write_atomically(path, text)
        elif self._etag:
            self._etag = path.store.replace(path.key, text.encode(), self._etag)
        else:
            self._etag = path.store.create(path.key, text.encode())

    def end(self, status: str) -> None:
        """Record that the trial ends, with samples, and drop the checkpoints that are not kept.

        Args:
            status: how it ended.
        """
        for run in self._runs:
            run.finish(self._keep)
        end_trial(self.folder, status)

    def _resume(self) -> None:
        """Resume from the last row of which all checkpoints are valid."""
        if self._ready:
            return
        self._ready = True
        number, confirm = 0, None
        if self._replica.is_rank_zero:
            confirm = self._claim()
            number = next((n for n in range(len(self.rows), 0, -1) if self._restorable(self.rows[n - 1])), 0)
        if self._replica.world_size > 1:
            (number,) = broadcast_ints([number], self._device)
            self.rows = read_rows(self.folder)
        del self.rows[number:]
        results = self.rows[-1].seeds if self.rows else [None] * len(self._runs)
        for run, result in zip(self._runs, results, strict=True):
            run.start(result, confirm)

    def _claim(self) -> Callable[[], int]:
        """Become the trial's writer on rank 0; return what confirms that it is."""
        if isinstance(self.folder, Path):
            return lambda: 0
        lease, rows = TrialLease(self.folder, self._driver), self.folder / "rows.jsonl"
        with suppress(FileNotFoundError):
            self._etag = rows.entry().etag
        self.rows = read_rows(self.folder)  # the process before may have added one
        return lease.confirm

    def _restorable(self, row: TrialRow) -> bool:
        for run, result in zip(self._runs, row.seeds, strict=True):
            if not result.has_ended:
                try:
                    checkpoint.verify(run.folder.checkpoints / f"{result.images:012d}")
                except CheckpointError as error:
                    _raise_failure(run.folder, error)
                    return False
        return True

    def _evaluate(self, experiment: Experiment) -> Evaluation | None:
        """Scores of a seed's moving average; the evaluator is made once, as seeds share data and protocol."""
        generator = experiment.state.ema.module
        if not has_finite_weights(generator):
            return None
        if self._evaluator is None:
            self._evaluator = make_evaluator(experiment.config, experiment.sampler.source, device=self._device)
        return self._evaluator.evaluate(generator, experiment.state.images)

    def states(self) -> list[dict[str, Any]]:
        """Each seed's `TrainState.state_dict()`."""
        return [experiment.state.state_dict() for experiment in self.experiments]

    def adopt(self, states: Sequence[dict[str, Any]]) -> None:
        """Load another trial's states; rates, betas and penalty weights stay this trial's own.

        Args:
            states: of `states`, one per seed.
        """
        self._resume()
        for run, state in zip(self._runs, states, strict=True):
            run.adopt(state)


class _SeedRun:
    """One seed of a configuration, from `result` on. Most parameters are `MultiSeedTrial`'s; `evaluate` scores G."""

    def __init__(
        self,
        config: Config,
        result: SeedResult,
        metrics: Sequence[str],
        folder: Place,
        *,
        device: torch.device,
        stop: bool,
        evaluate: Callable[[Experiment], Evaluation | None],
    ) -> None:
        name = f"seed-{result.seed}"
        run = config.run.model_copy(update={"seed": result.seed, "name": name, "dir": str(folder)})
        self.config = config.model_copy(update={"run": run})
        self.folder = RunDir(folder / name)
        self.result = result
        self._metrics, self._device, self._stop, self._evaluate = tuple(metrics), device, stop, evaluate

    def start(self, result: SeedResult | None, confirm: Callable[[], int] | None) -> None:
        """Build the run, at its beginning or at an earlier result; rank 0 has `confirm`, as the trial's writer."""
        self.experiment = build(self.config, device=self._device)
        if result:
            self.result = result
            if not result.has_ended:
                self.experiment.state.load_state_dict(self._load(result.images))
        if confirm:
            self.folder.pull().write_as(confirm, periodic=False)  # `save` and `finish` push
            prepare(self.config, self.folder)
        self._open(read_metrics(self.folder) if confirm else ())

    def _load(self, images: int) -> dict[str, Any]:
        try:
            return checkpoint.load(self.folder.checkpoints / f"{images:012d}")[1]
        except CheckpointError as error:
            _raise_failure(self.folder, error)
            raise

    def adopt(self, state: dict[str, Any]) -> None:
        """Continue from another run's state."""
        self._ticks.close()
        self.experiment.state.load_state_dict(state)
        self.result = replace(self.result, images=self.experiment.state.images, values={}, failure="")
        self._open(())

    def _open(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Start a session at the experiment's state."""
        config, experiment = self.config, self.experiment
        callbacks, health = [], None
        if Replica.current().is_rank_zero:
            callbacks = [TrackerCallback([JsonlTracker(self.folder, images=self.result.images)], self.folder)]
        if self._stop:
            transient = (kind for kind, entry in DETECTORS.items() if entry.is_transient)
            ignore = (*config.health.ignore, *transient, drift.KIND)
            settings = config.health.model_copy(update={"response": "warn", "ignore": ignore})
            store = checkpoint_store(config, self.folder)
            health = HealthMonitor(experiment, self.folder, store, history=history, settings=settings)
        self._session = Session(
            experiment,
            intervals={"log": config.log.every, "eval": config.eval.every},
            evaluate=lambda tick: self._evaluate(experiment) if self._evaluates(tick) else None,
            health=health,
            callbacks=callbacks,
        )
        self._ticks = self._session.ticks()

    def _evaluates(self, tick: Tick) -> bool:
        return tick.is_due("eval", "end")

    def advance(self) -> None:
        """Train to the next evaluation, or to a health verdict that ends the seed."""
        if self.result.has_ended:
            return
        for tick in self._ticks:
            decision, failure = self._session.decision, self.result.failure
            if decision.action != "continue" and not failure:  # the text is on rank 0 only
                failure = f"{decision.kind}: {decision.text}"
            self.result = replace(self.result, images=tick.images, failure=failure)
            if self._evaluates(tick):
                self._score(self._session.evaluation)
            if self.result.has_ended or self._evaluates(tick):
                return
        if not self.result.values:  # it adopted the end of another run
            self._score(self._evaluate(self.experiment))

    def _score(self, evaluation: Evaluation | None) -> None:
        found = evaluation.numbers() if evaluation else {}
        values = {name: found.get(name, math.nan) for name in self._metrics}
        self.result = replace(self.result, values=values)

    def save(self) -> None:
        """Write a checkpoint of this state; it and the one before stay."""
        store = CheckpointStore(self.folder.checkpoints, keep=2, confirm=self.folder.committing)
        config = self.config.model_dump(mode="json")
        store.save(self.experiment.state.state_dict(), config=config, metrics=dict(self.result.values))

    def finish(self, keep: int) -> None:
        """Write samples, and keep only the newest checkpoints."""
        if hasattr(self, "experiment"):
            with suppress(OSError):
                write_png(
                    self.folder.samples / f"{self.result.images:08d}.png", SampleRenderer(self.experiment).render()
                )
                self.folder.push()
            self._ticks.close()
        drop_checkpoints(self.folder.root, keep)


def is_lost(error: BaseException) -> bool:
    """Whether a bucket has not answered as it should, or another process has taken a trial over: it is to be resumed.

    Args:
        error: what ended the trial's process.
    """
    return isinstance(error, LeaseLostError) or (isinstance(error, OSError) and is_uri(str(error.filename)))


def _raise_failure(folder: RunDir, error: CheckpointError) -> None:
    """Raise the failure of a bucket, if that and no damage is why a checkpoint cannot be read."""
    cause = error.__context__
    if isinstance(folder.root, StorePath) and isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        raise cause


def drop_checkpoints(run: Place, keep: int) -> None:
    """Keep only the newest checkpoints of a run's folder.

    Args:
        run: its folder.
        keep: how many.
    """
    for folder in CheckpointStore(run / "checkpoints").folders()[keep:]:
        remove(folder)


def end_trial(folder: Place, status: str, reason: str = "") -> None:
    """Record how a trial ended, unless that is recorded already.

    Args:
        folder: the trial's.
        status: how.
        reason: why, for people.
    """
    path, text = folder / "end.json", json.dumps({"status": status, "reason": reason}) + "\n"
    if isinstance(path, StorePath):
        with suppress(FileExistsError):
            path.store.create(path.key, text.encode())
    elif not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
