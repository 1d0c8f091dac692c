"""What one replica does, under any launcher: build, resume, train, save, track. Knows nothing of Ray."""

import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ganscale.build import Experiment, build
from ganscale.collectives import Replica
from ganscale.config import Config
from ganscale.environment import environment
from ganscale.loop import Tick, train
from ganscale.runfolder import RunFolder, WriterLock, checkpoint_store
from ganscale.runtime.begin import check_shared, forget, note_fault, resume, take
from ganscale.runtime.heartbeat import EVERY, Heartbeat
from ganscale.runtime.judge import Judge
from ganscale.runtime.notice import Notice, Reason
from ganscale.runtime.outlets import Outlets
from ganscale.runtime.painter import Painter
from ganscale.runtime.saving import Saver
from ganscale.runtime.watch import Watch, weight_norms
from ganscale.tracking import Tracker
from ganscale.tracking.console import Console
from ganscale.tracking.local import LocalTracker
from ganscale.tracking.tensorboard import TensorBoardTracker
from ganscale.tracking.wandb import WandbTracker

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
    lock = take(config, folder, replica, patience=patience, echo=echo)
    try:
        check_shared(folder, replica)
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
    resume(experiment, folder, replica, console)
    start = experiment.state.images
    if console:
        note_fault(folder, start, replica, again, console)
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


def _train(experiment: Experiment, judge: Judge, watch: Watch, notice: Notice) -> str:
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
    judge: Judge,
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
    outlets = Outlets(trackers, console, details=config.log.details)
    painter = Painter(experiment)
    completed = False
    try:
        if state.images == 0:
            outlets.show(0, painter)
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
                outlets.evaluated(evaluation, folder)
            outlets.row(tick, metrics)
            decision = watch(tick, metrics)
            outlets.decided(tick.images, decision)
            if decision.action == "roll back":
                outlets.rewind(local, decision.target)
                continue
            stops = decision.action == "stop"
            if stops or tick.due & {"samples", "end"}:
                outlets.show(tick.images, painter)
            if stops:
                save(metrics, last=True, suspect=decision.text)
                return f"{decision.kind} at {tick.images:,} images: {decision.text}"
            if save.due(tick) or (evaluation and save.store.is_best(metrics)):
                outlets.saving(tick.images)
                saved = save(metrics, last="end" in tick.due)
                if saved:
                    outlets.saved(tick.images, saved, save.store)
            elif "notice" in tick.due:
                save(metrics, last=False)
            if "notice" in tick.due and "end" not in tick.due:
                _farewell(notice.agreed, tick.images, console)
                return ""
        completed = True
        return ""
    finally:
        outlets.close(completed=completed)


def _leave(save: Saver, metrics: dict[str, float], reason: Reason, images: int, console: Console) -> None:
    """Save at a moment at which nothing else is due, and say why."""
    if reason != Reason.STORAGE:
        save(metrics, last=False)
    _farewell(reason, images, console)


def _farewell(reason: Reason, images: int, console: Console) -> None:
    console.say(f"leaving at {images:,} images: {WORDS[reason]}")


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
