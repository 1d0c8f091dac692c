"""What one replica does, under any launcher: build, resume, train, save, track. Knows nothing of Ray."""

import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ganscale.config import Config
from ganscale.evaluation.callback import EvaluationCallback
from ganscale.parallel.collectives import Replica
from ganscale.run.checkpointing import Checkpointer
from ganscale.run.environment import environment
from ganscale.run.health_monitor import HealthMonitor, weight_norms
from ganscale.run.recovery import check_shared, forget, record_failure, resume, take
from ganscale.run.samples import SampleRenderer
from ganscale.run.stop_signal import StopReason, StopSignal
from ganscale.run.trackers import TrackerGroup
from ganscale.run.watchdog import EVERY, Watchdog
from ganscale.storage.run_dir import RunDir, WriterLock, checkpoint_store
from ganscale.tracking import Tracker
from ganscale.tracking.console import Console
from ganscale.tracking.jsonl import JsonlTracker
from ganscale.tracking.tensorboard import TensorBoardTracker
from ganscale.tracking.wandb import WandbTracker
from ganscale.training.build import Experiment, build
from ganscale.training.loop import Tick, train

WORDS = {
    StopReason.RESIZE: "the number of workers changes",
    StopReason.DRAIN: "the node of a worker is about to go",
    StopReason.STOP: "the run was asked to leave; the same command goes on from here",
    StopReason.STORAGE: "a checkpoint could not be saved (checkpoint.on_failure = stop)",
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
    left: StopReason = StopReason.NONE


def run_worker(
    config: Config,
    path: Path,
    *,
    device: torch.device,
    echo: bool,
    trackers: Sequence[Tracker] = (),
    ask: Callable[[], StopReason] = lambda: StopReason.NONE,
    previous_failure: str | None = None,
    callbacks: Sequence[Callable[[Tick], None]] = (),
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
        callbacks: called on rank 0 with each tick.
        again: where the same command starts the run again after a fault: what is known of that.

    Raises:
        BusyError: another process writes to the run's folder.
        ConfigError: its checkpoint is of other networks.
        RuntimeError: the replicas do not share the run's folder, or another process has taken it over.
        OSError: the last checkpoint could not be saved.
    """
    replica = Replica.current()
    folder = RunDir(path)
    torch.set_num_threads(config.cluster.cpus_per_worker)
    if config.train.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    patience = config.cluster.timeout * (0.5 if previous_failure is None else 1.0)
    lock = take(config, folder, replica, patience=patience, echo=echo)
    try:
        check_shared(folder, replica)
        console = Console(folder.log, echo=echo) if replica.is_rank_zero else None
        signal = StopSignal(device, ask)
        return _run(config, folder, lock, signal, device, console, trackers, previous_failure, callbacks)
    finally:
        if lock:
            lock.release()


def _run(
    config: Config,
    folder: RunDir,
    lock: WriterLock | None,
    stop_signal: StopSignal,
    device: torch.device,
    console: Console | None,
    trackers: Sequence[Tracker],
    previous_failure: str | None,
    callbacks: Sequence[Callable[[Tick], None]],
) -> Outcome:
    replica = Replica.current()
    if console:
        where = f"{replica.world_size} worker{'s' * (replica.world_size > 1)} on {device.type}"
        console.info(f"building {config.model.generator.name} on {config.data.name} for {where}")
    experiment = build(config, device=device, replica=replica)
    resume(experiment, folder, replica, console)
    start = experiment.state.images
    if console:
        record_failure(folder, start, replica, previous_failure, console)
    judge = EvaluationCallback(experiment, console)
    watch = HealthMonitor(experiment, folder, checkpoint_store(config, folder))
    info = console.info if console else lambda _: None
    try:
        with Watchdog(folder.heartbeats, experiment.state, timeout=config.cluster.timeout, info=info):
            if console and lock:
                diagnosis = _train_and_save(
                    experiment, folder, lock, judge, watch, stop_signal, console, trackers, callbacks
                )
            else:
                diagnosis = _train(experiment, judge, watch, stop_signal)
    except KeyboardInterrupt:
        forget(folder)
        raise
    if console:
        forget(folder)
    images = experiment.state.images
    left = stop_signal.agreed if images < config.train.images and not diagnosis else StopReason.NONE
    return Outcome(images, start, diagnosis, left)


def _train(experiment: Experiment, judge: EvaluationCallback, watch: HealthMonitor, stop_signal: StopSignal) -> str:
    """Other ranks: train, evaluate and roll back with rank 0, and leave with it."""
    for tick in _ticks(experiment, stop_signal):
        if tick.due != {"stop_signal"}:
            judge(tick)
            action = watch(tick).action
            if action == "stop":
                return "stopped"
            if action == "rollback":
                continue
        if "stop_signal" in tick.due:
            return ""
    return ""


def collective_timeout(config: Config) -> float:
    """Seconds after which a collective of the workers fails: later than the watchdog, which says more."""
    return 1.25 * config.cluster.timeout + 2 * EVERY


def _ticks(experiment: Experiment, stop_signal: StopSignal) -> Iterator[Tick]:
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
    state, step, sampler = experiment.state, experiment.step, experiment.sampler
    return train(state, step, sampler, intervals=intervals, until=until, stop_signal=stop_signal)


def _train_and_save(
    experiment: Experiment,
    folder: RunDir,
    lock: WriterLock,
    judge: EvaluationCallback,
    watch: HealthMonitor,
    stop_signal: StopSignal,
    console: Console,
    others: Sequence[Tracker],
    callbacks: Sequence[Callable[[Tick], None]],
) -> str:
    """Rank 0: train, and write what is due at each tick; returns why a verdict stopped the run, if so."""
    config, state = experiment.config, experiment.state
    save = Checkpointer(checkpoint_store(config, folder), experiment, console, stop_signal, remembered=folder.interval)
    local = JsonlTracker(folder, images=state.images)
    facts = environment(experiment.device, Replica.current())
    trackers: list[Tracker] = [local, WandbTracker(config, folder, console.info, environment=facts), console, *others]
    if config.log.tensorboard:
        trackers.append(TensorBoardTracker(folder, console.info, images=state.images))
    local.environment(facts)
    tracker_group = TrackerGroup(trackers, console, details=config.log.details)
    renderer = SampleRenderer(experiment)
    completed = False
    try:
        if state.images == 0:
            tracker_group.show(0, renderer)
        console.starts(state.images, config.train.images)
        for tick in _ticks(experiment, stop_signal):
            lock.check()
            metrics = tick.metrics | _facts(experiment)
            if tick.due == {"stop_signal"}:
                _leave(save, metrics, stop_signal.agreed, tick.images, console)
                return ""
            evaluation = judge(tick)
            if evaluation:
                metrics |= evaluation.numbers()
                tracker_group.evaluated(evaluation, folder)
            tracker_group.row(tick, metrics)
            for callback in callbacks:
                callback(tick)
            decision = watch(tick, metrics)
            tracker_group.decided(tick.images, decision)
            if decision.action == "rollback":
                tracker_group.rewind(local, decision.target)
                continue
            stops = decision.action == "stop"
            if stops or tick.due & {"samples", "end"}:
                tracker_group.show(tick.images, renderer)
            if stops:
                save(metrics, last=True, suspect=decision.text)
                return f"{decision.kind} at {tick.images:,} images: {decision.text}"
            if save.due(tick) or (evaluation and save.store.is_best(metrics)):
                tracker_group.saving(tick.images)
                saved = save(metrics, last="end" in tick.due)
                if saved:
                    tracker_group.saved(tick.images, saved, save.store)
            elif "stop_signal" in tick.due:
                save(metrics, last=False)
            if "stop_signal" in tick.due and "end" not in tick.due:
                _farewell(stop_signal.agreed, tick.images, console)
                return ""
        completed = True
        return ""
    finally:
        tracker_group.close(completed=completed)


def _leave(save: Checkpointer, metrics: dict[str, float], reason: StopReason, images: int, console: Console) -> None:
    """Save at a moment at which nothing else is due, and say why."""
    if reason != StopReason.STORAGE:
        save(metrics, last=False)
    _farewell(reason, images, console)


def _farewell(reason: StopReason, images: int, console: Console) -> None:
    console.info(f"leaving at {images:,} images: {WORDS[reason]}")


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
