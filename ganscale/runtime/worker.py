"""What one replica does, under any launcher: build, resume, train, save, track. Knows nothing of Ray."""

import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from ganscale import checkpoint
from ganscale.build import Experiment, build
from ganscale.checkpoint import CheckpointStore
from ganscale.collectives import Replica
from ganscale.config import Config, ConfigError
from ganscale.environment import environment
from ganscale.evaluation import Evaluator, missing_extractor, store_evaluation
from ganscale.faults import Fault, note
from ganscale.loop import Tick, train
from ganscale.metrics.result import Evaluation
from ganscale.response import Decision
from ganscale.runfolder import BusyError, RunFolder, WriterLock, checkpoint_store, inspect, prepare
from ganscale.runtime.heartbeat import EVERY, Heartbeat, read_beats
from ganscale.runtime.judge import make_evaluator
from ganscale.runtime.notice import Notice, Reason
from ganscale.runtime.painter import Painter
from ganscale.runtime.saving import Saver
from ganscale.runtime.watch import Watch, can_sample, read_rollbacks, weight_norms
from ganscale.step import LOGIT_EDGES
from ganscale.tracking import CheckpointTracker, DetailedTracker, EventTracker, Histogram, Tracker
from ganscale.tracking.console import Console
from ganscale.tracking.local import LocalTracker, read_metrics
from ganscale.tracking.tensorboard import TensorBoardTracker
from ganscale.tracking.wandb import WandbTracker

T = TypeVar("T", bound=Tracker)

WORDS = {
    Reason.RESIZE: "the number of workers changes",
    Reason.DRAIN: "the node of a worker is about to go",
    Reason.STOP: "the run was asked to leave; the same command goes on from here",
    Reason.STORAGE: "a checkpoint could not be saved (checkpoint.on_failure = stop)",
}
"""What is said of each reason to leave."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        images: images reached.
        resumed_at: from where it went on.
        diagnosis: why a verdict stopped it; empty if it reached its end. On rank 0 only it says more than "stopped".
        left: why it was left before its end, to be gone on with.
    """

    images: int
    resumed_at: int
    diagnosis: str = ""
    left: Reason = Reason.NONE


def run_worker(
    config: Config,
    path: Path,
    *,
    device: torch.device,
    echo: bool,
    trackers: Sequence[Tracker] = (),
    ask: Callable[[], Reason] = lambda: Reason.NONE,
    again: str | None = None,
) -> Outcome:
    """Train one replica's share of a run to its end, resuming from the newest valid checkpoint.

    Every replica calls it with the same arguments; torch.distributed's default group, if there is one, joins them.

    Args:
        config: the whole run.
        path: the run's folder, on storage that all replicas share.
        device: where this replica computes.
        echo: whether rank 0 prints its progress (it always writes it to train.log).
        trackers: where rank 0's numbers and pictures go beside the run folder and W&B.
        ask: what is asked of this replica; all call it equally often, every few seconds.
        again: where the same command starts the run again after a fault: what is known of that.

    Raises:
        BusyError: another process writes to the run's folder.
        ConfigError: its checkpoint is of other networks.
        RuntimeError: the replicas do not share the run's folder, or another process has taken it over.
        OSError: the last checkpoint could not be saved.
    """
    replica = Replica.current()
    folder = RunFolder(path)
    torch.set_num_threads(config.cluster.cpus_per_worker)
    if config.train.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    patience = config.cluster.timeout * (0.5 if again is None else 1.0)
    lock = _take(config, folder, replica, patience=patience, echo=echo)
    try:
        _check_shared(folder, replica)
        console = Console(folder.log, echo=echo) if replica.is_first else None
        return _run(config, folder, lock, Notice(device, ask), device, console, trackers, again)
    finally:
        if lock:
            lock.release()


def _run(
    config: Config,
    folder: RunFolder,
    lock: WriterLock | None,
    notice: Notice,
    device: torch.device,
    console: Console | None,
    trackers: Sequence[Tracker],
    again: str | None,
) -> Outcome:
    replica = Replica.current()
    if console:
        where = f"{replica.world_size} worker{'s' * (replica.world_size > 1)} on {device.type}"
        console.say(f"building {config.model.generator.name} on {config.data.name} for {where}")
    experiment = build(config, device=device, replica=replica)
    _resume(experiment, folder, replica, console)
    start = experiment.state.images
    if console:
        _note_fault(folder, start, replica, again, console)
    judge = Judge(experiment, console)
    watch = Watch(experiment, folder, checkpoint_store(config, folder))
    say = console.say if console else lambda _: None
    try:
        with Heartbeat(folder.alive, experiment.state, timeout=config.cluster.timeout, say=say):
            if console and lock:
                diagnosis = _train_and_save(experiment, folder, lock, judge, watch, notice, console, trackers)
            else:
                diagnosis = _train(experiment, judge, watch, notice)
    except KeyboardInterrupt:
        forget(folder)
        raise
    if console:
        forget(folder)
    images = experiment.state.images
    left = notice.agreed if images < config.train.images and not diagnosis else Reason.NONE
    return Outcome(images, start, diagnosis, left)


def _train(experiment: Experiment, judge: "Judge", watch: Watch, notice: Notice) -> str:
    """Other ranks: train, evaluate and roll back with rank 0, and leave with it."""
    for tick in _ticks(experiment, notice):
        if tick.due != {"notice"}:
            judge(tick)
            action = watch(tick).action
            if action == "stop":
                return "stopped"
            if action == "roll back":
                continue
        if "notice" in tick.due:
            return ""
    return ""


def group_timeout(config: Config) -> float:
    """Seconds after which a collective of the workers fails: later than the watchdog, which says more."""
    return 1.25 * config.cluster.timeout + 2 * EVERY


def forget(folder: RunFolder) -> None:
    """Remove the signs of life of a run that ended in order: whoever finds some knows of a fault."""
    shutil.rmtree(folder.alive, ignore_errors=True)


def _note_fault(folder: RunFolder, start: int, replica: Replica, again: str | None, console: Console) -> None:
    """Rank 0: write down how the life before ended, if that was not in order."""
    beats = read_beats(folder.alive)
    first = next((beat for beat in beats if beat.rank == 0), None)
    if first is None:
        return
    cause = again or "it ended without a word: killed, or its machine went"
    with suppress(OSError):
        cause = f"{(folder.alive / 'hang.txt').read_text(encoding='utf-8')}"
    since = first.time
    with suppress(OSError):
        since = (folder.checkpoints / f"{start:012d}" / "manifest.json").stat().st_mtime
    reached = max([first.images, *(row["images"] for row in read_metrics(folder)[-1:])])
    fault = Fault(first.time, cause, len(beats), reached, start, max(0.0, time.time() - since))
    with suppress(OSError):
        note(folder.faults, fault)
    forget(folder)
    console.say(f"the life before ended at about {reached:,} images: {cause}; {fault.images_lost:,} images lost")


def _take(config: Config, folder: RunFolder, replica: Replica, *, patience: float, echo: bool) -> WriterLock | None:
    """Make rank 0 the folder's writer; if that cannot be, all replicas raise."""
    lock, refusal = None, None
    if replica.is_first:
        folder.path.mkdir(parents=True, exist_ok=True)
        try:
            say = partial(print, flush=True) if echo else lambda _: None
            lock = WriterLock(folder, patience=patience, say=say)
            inspect(config, folder)  # again: another driver may have been faster
            prepare(config, folder)
            lock.claim()
        except ConfigError as error:
            refusal = error
            if lock:
                lock.release()
    busy = _count(isinstance(refusal, BusyError), replica)
    if _count(refusal is not None, replica):
        kind, problem = (BusyError, "another process writes to it") if busy else (ConfigError, "worker 0 refuses it")
        raise refusal or kind(problem, key="run.name", value=config.run.name)
    return lock


def _count(fact: bool, replica: Replica) -> int:
    """On how many replicas it is so."""
    if replica.world_size == 1:
        return int(fact)
    number = torch.tensor([float(fact)], device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(number)
    return int(number)


def _ticks(experiment: Experiment, notice: Notice) -> Iterator[Tick]:
    config = experiment.config
    intervals = {
        "log": config.log.every,
        "samples": config.log.samples_every,
    }
    if config.checkpoint.every != "auto":
        intervals["checkpoint"] = config.checkpoint.every
    if config.eval.every:
        intervals["eval"] = config.eval.every
    until = config.train.images
    state, step, feed = experiment.state, experiment.step, experiment.feed
    return train(state, step, feed, intervals=intervals, until=until, notice=notice)


def _train_and_save(
    experiment: Experiment,
    folder: RunFolder,
    lock: WriterLock,
    judge: "Judge",
    watch: Watch,
    notice: Notice,
    console: Console,
    others: Sequence[Tracker],
) -> str:
    """Rank 0: train, and write what is due at each tick; returns why a verdict stopped the run, if so."""
    config, state = experiment.config, experiment.state
    save = Saver(checkpoint_store(config, folder), experiment, console, notice, remembered=folder.interval)
    local = LocalTracker(folder, images=state.images)
    facts = environment(experiment.device, Replica.current())
    trackers: list[Tracker] = [local, WandbTracker(config, folder, console.say, environment=facts), console, *others]
    if config.log.tensorboard:
        trackers.append(TensorBoardTracker(folder, console.say, images=state.images))
    local.environment(facts)
    painter = Painter(experiment)
    completed = False
    try:
        if state.images == 0:
            _show(trackers, 0, painter, console, details=config.log.details)
        console.starts(state.images, config.train.images)
        for tick in _ticks(experiment, notice):
            lock.check()
            metrics = tick.metrics | _facts(experiment)
            if tick.due == {"notice"}:
                _leave(save, metrics, notice.agreed, tick.images, console)
                return ""
            evaluation = judge(tick)
            if evaluation:
                metrics |= evaluation.numbers()
                _keep(evaluation, folder, console)
            _each(trackers, console, lambda tracker, at=tick.images, row=metrics: tracker.log(at, row))
            if config.log.details:
                _detail(trackers, tick.images, {}, _histograms(tick), console)
            decision = watch(tick, metrics)
            _tell(trackers, tick.images, decision, console)
            if decision.action == "roll back":
                _each([local], console, lambda tracker, to=decision.target: tracker.rewind(to))
                continue
            stops = decision.action == "stop"
            if stops or tick.due & {"samples", "end"}:
                _show(trackers, tick.images, painter, console, details=config.log.details)
            if stops:
                save(metrics, last=True, suspect=decision.text)
                return f"{decision.kind} at {tick.images:,} images: {decision.text}"
            if save.due(tick) or (evaluation and save.store.is_best(metrics)):
                takers = [tracker for tracker in trackers if isinstance(tracker, CheckpointTracker)]
                _each(takers, console, lambda tracker, at=tick.images: tracker.saving(at))
                saved = save(metrics, last="end" in tick.due)
                if saved:
                    _announce(takers, tick.images, saved, save.store, console)
            elif "notice" in tick.due:
                save(metrics, last=False)
            if "notice" in tick.due and "end" not in tick.due:
                _farewell(notice.agreed, tick.images, console)
                return ""
        completed = True
        return ""
    finally:
        _each(trackers, console, lambda tracker: tracker.close(completed=completed))


def _leave(save: Saver, metrics: dict[str, float], reason: Reason, images: int, console: Console) -> None:
    """Save at a moment at which nothing else is due, and say why."""
    if reason != Reason.STORAGE:
        save(metrics, last=False)
    _farewell(reason, images, console)


def _farewell(reason: Reason, images: int, console: Console) -> None:
    console.say(f"leaving at {images:,} images: {WORDS[reason]}")


def _each(trackers: Sequence[T], console: Console, action: Callable[[T], None]) -> None:
    """Tell every tracker; one that cannot write (a full disk) does not stop training."""
    for tracker in trackers:
        try:
            action(tracker)
        except OSError as error:
            console.say(f"{type(tracker).__name__} could not write ({error}); training goes on")


def _tell(trackers: Sequence[Tracker], images: int, decision: Decision, console: Console) -> None:
    """Pass a verdict, and what is done about it, to those trackers that take events."""
    if decision.action == "go on":
        return
    kind = decision.kind if decision.action == "warn" else f"{decision.kind}, {decision.action}"
    takers = [tracker for tracker in trackers if isinstance(tracker, EventTracker)]
    _each(takers, console, lambda tracker: tracker.event(images, kind, decision.text))


def _keep(evaluation: Evaluation, folder: RunFolder, console: Console) -> None:
    console.say(f"evaluation at {evaluation.images:,} images, {evaluation.line()}")
    try:
        store_evaluation(evaluation, folder.evaluations)
    except OSError as error:
        console.say(f"the evaluation could not be stored ({error}); training goes on")


def _show(trackers: Sequence[Tracker], images: int, painter: Painter, console: Console, *, details: bool) -> None:
    picture = painter.paint()
    _each(trackers, console, lambda tracker: tracker.samples(images, picture))
    if details:
        _detail(trackers, images, painter.details(first=images == 0), {}, console)


def _detail(
    trackers: Sequence[Tracker],
    images: int,
    pictures: Mapping[str, np.ndarray],
    histograms: Mapping[str, Histogram],
    console: Console,
) -> None:
    """Pass pictures and histograms to those trackers that take them."""
    takers = [tracker for tracker in trackers if isinstance(tracker, DetailedTracker)]
    _each(takers, console, lambda tracker: tracker.details(images, pictures, histograms))


def _histograms(tick: Tick) -> dict[str, Histogram]:
    """D's logits of a tick."""
    return {f"{side}_logits": Histogram(counts, LOGIT_EDGES) for side, counts in tick.histograms.items()}


def _announce(
    trackers: Sequence[CheckpointTracker], images: int, saved: Path, store: CheckpointStore, console: Console
) -> None:
    """Tell those trackers that want to know of a new checkpoint."""
    best = store.best()
    is_best = best is not None and best.images == images
    _each(trackers, console, lambda tracker: tracker.saved(images, saved, best=is_best))


def _resume(experiment: Experiment, folder: RunFolder, replica: Replica, console: Console | None) -> None:
    """Load the checkpoint that rank 0 finds newest and good, on every replica, with the roll-backs so far."""
    position = torch.tensor([-1, 0], dtype=torch.int64, device=experiment.device)
    if console:
        store = CheckpointStore(folder.checkpoints)
        store.clean()
        manifest = store.newest(console.say)
        if manifest:
            position[0] = manifest.images
        position[1] = len(read_rollbacks(folder))
    if replica.world_size > 1:
        dist.broadcast(position, 0)
    images, rollbacks = position.tolist()
    if images >= 0:
        _take_over(experiment, folder.checkpoints / f"{images:012d}")
        if console:
            console.say(f"resuming at {images:,} images")
    experiment.state.rollbacks = max(experiment.state.rollbacks, rollbacks)


def _take_over(experiment: Experiment, path: Path) -> None:
    """Load a checkpoint that was found good.

    Raises:
        ConfigError: it holds the state of other networks than this version builds from the config.
    """
    _, state = checkpoint.load(path)
    try:
        experiment.state.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"checkpoint {path.name} does not fit this run ({type(error).__name__})",
            key="run.name",
            value=experiment.config.run.name,
            remedy="go on with the version of ganscale that wrote it, start anew under another name, or move it away",
        ) from None


def _check_shared(folder: RunFolder, replica: Replica) -> None:
    """Every replica must see what rank 0 wrote; otherwise a resume would read another disk."""
    blind = _count(not folder.config.exists(), replica)
    if blind:
        raise RuntimeError(
            f"run.dir: {blind} of {replica.world_size} workers do not see {folder.path}; "
            "set run.dir to a folder on storage that every node mounts at the same path"
        )


def _facts(experiment: Experiment) -> dict[str, float]:
    """Rates, weight norms and memory, for the log."""
    state, step = experiment.state, experiment.step
    facts = {
        "iteration": float(state.iteration),
        "lr_d": float(state.optimizer_d.param_groups[0]["lr"]),
        "lr_g": float(state.optimizer_g.param_groups[0]["lr"]),
        **weight_norms(experiment),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (2**20 if sys.platform == "darwin" else 1024),
    }
    if step.adaptive is not None:
        facts["augment_p"] = state.augment_p
    if experiment.config.health.response == "rollback" or state.rollbacks:
        facts["rollbacks"] = float(state.rollbacks)
    if experiment.device.type == "cuda":
        facts["gpu_memory_mib"] = torch.cuda.max_memory_allocated(experiment.device) / 2**20
    return facts


class Judge:
    """Evaluates the generator's moving average when it is due, on all replicas together.

    Due are the ends of the interval `eval.every`, and the end of a run that is at least so long.
    """

    def __init__(self, experiment: Experiment, console: Console | None) -> None:
        self._experiment = experiment
        self._evaluator: Evaluator | None = None
        config = experiment.config
        self._on = 0 < config.eval.every <= config.train.images
        missing = missing_extractor(config) if self._on and config.eval.extractor == "auto" else None
        if missing:
            self._on = False
            if console:
                console.say(f"samples are not evaluated: {missing}")

    def __call__(self, tick: Tick) -> Evaluation | None:
        """The scores if they are due and there is anything to score: a generator of NaN makes no samples."""
        if not self._on or not tick.due & {"eval", "end"}:
            return None
        experiment = self._experiment
        if not can_sample(experiment):
            return None
        if self._evaluator is None:
            self._evaluator = make_evaluator(experiment.config, experiment.feed.source, device=experiment.device)
        return self._evaluator.evaluate(experiment.state.ema.module, tick.images)
