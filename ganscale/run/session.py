"""A run on one replica, under any launcher: build, resume, train, evaluate, watch, save. Knows nothing of Ray."""

import resource
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch

from ganscale.config import Config, ConfigError
from ganscale.config.errors import ExecutionError
from ganscale.config.objective import Scheduled
from ganscale.config.schedules import average_warning
from ganscale.data import Source
from ganscale.data.source import Decoding
from ganscale.evaluation.callback import EvaluationCallback
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.evaluation.worker import EvaluationExecutor, ProcessExecutor
from ganscale.health.policy import Decision
from ganscale.parallel.collectives import broadcast_ints
from ganscale.parallel.phase import phase
from ganscale.parallel.replica import Replica
from ganscale.run.async_evaluation import AsyncEvaluation, drop_pending
from ganscale.run.averages import AverageSnapshots
from ganscale.run.callback import Callback, TickFunction
from ganscale.run.checkpointing import Checkpointer
from ganscale.run.environment import environment
from ganscale.run.health_monitor import HealthMonitor, weight_norms
from ganscale.run.heartbeats import HeartbeatChannel, PlaceChannel, clear_heartbeats
from ganscale.run.outcome import Outcome
from ganscale.run.recovery import check_data, check_shared, record_failure, resume, take
from ganscale.run.samples import SampleRenderer
from ganscale.run.stop_signal import LiveStopSignal, RegroupError, StopReason, StopSignal
from ganscale.run.trackers import TrackerCallback
from ganscale.run.warm_start import recorded_start, warm_start
from ganscale.run.watchdog import Watchdog
from ganscale.storage.lease import Lease, LeaseLostError
from ganscale.storage.run_dir import RunDir, checkpoint_store
from ganscale.storage.store import Place
from ganscale.storage.workers import WorkerRecord, record_workers
from ganscale.tracking import Tracker
from ganscale.tracking.console import Console
from ganscale.tracking.jsonl import JsonlTracker, read_metrics, read_rollbacks
from ganscale.tracking.tensorboard import TensorBoardTracker
from ganscale.tracking.wandb import WandbTracker
from ganscale.training.build import Experiment, build, build_source
from ganscale.training.loop import Tick, train
from ganscale.training.memory import advice, is_out_of_memory, report, rows_at_a_time
from ganscale.training.transactions import Transactions


class OutOfMemoryError(ExecutionError):
    """The networks and their updates do not fit into a worker's memory."""


class Session:
    """The control flow of training, the same on every rank; ranks differ by their callbacks only.

    At each tick: evaluate, check health (which may roll the state back), call the callbacks, yield the tick. A quiet
    tick is for `Callback.on_quiet_tick` alone, as a run with `ema.profiles` is the run without.

    Args:
        experiment: the run's objects, at the state to start from.
        intervals: lengths in images, by name: ticks come where one ends.
        evaluate: scores the generator if the tick is one at which it should; called by all ranks. An `AsyncEvaluation`
            is one of the callbacks as well, the last of rank 0's own.
        health: decides what follows from a tick and its metrics; called by all ranks.
        callbacks: of this rank, in order.
        stop_signal: whether the ranks agreed to stop.
        lease: rank 0's right to write to the run folder, checked at each tick.
        transactions: of a run that outlives its workers.

    Attributes:
        metrics: of the current tick, with the evaluation's.
        evaluation: of the current tick, if there was one.
        late_evaluations: of earlier ticks that have come by the current one (`eval.mode: async`).
        decision: what follows from the current tick.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        intervals: Mapping[str, int],
        evaluate: Callable[[Tick], Evaluation | None] = lambda tick: None,
        health: Callable[[Tick, Mapping[str, float]], Decision] | None = None,
        callbacks: Sequence[Callback] = (),
        stop_signal: StopSignal | None = None,
        lease: Lease | None = None,
        transactions: Transactions | None = None,
    ) -> None:
        self._transactions = transactions
        self.experiment, self.config, self.replica = experiment, experiment.config, Replica.current()
        self.metrics: dict[str, float] = {}
        self.evaluation: Evaluation | None = None
        self.late_evaluations: list[Evaluation] = []
        self.decision = Decision()
        self._async = evaluate if isinstance(evaluate, AsyncEvaluation) else None
        self._intervals, self._evaluate, self._health = intervals, evaluate, health
        self._callbacks, self._lease = callbacks, lease
        self._stop_signal = stop_signal or StopSignal(experiment.device)

    @property
    def images(self) -> int:
        """Images so far."""
        return self.experiment.state.images

    @property
    def pending_evaluations(self) -> tuple[int, ...]:
        """On rank 0, images of the evaluations that are still to come."""
        return self._async.pending if self._async else ()

    @property
    def stop_reason(self) -> StopReason:
        """Why the run stops before its end, if it does."""
        early = self.images < self.config.train.images and self.decision.action != "stop"
        return self._stop_signal.agreed if early else StopReason.NONE

    def ticks(self) -> Generator[Tick]:
        """Train to the end of the run, or to a stop, and yield each tick after the callbacks.

        Raises:
            LeaseLostError: another process took the run folder over.
            ConfigError: the run folder was removed.
        """
        completed = False
        try:
            for callback in self._callbacks:
                callback.on_start(self)
            for tick in train(
                self.experiment,
                intervals=self._intervals,
                until=self.config.train.images,
                stop_signal=self._stop_signal,
                transactions=self._transactions,
            ):
                self._check_lease()
                if tick.is_quiet:
                    for callback in self._callbacks:
                        callback.on_quiet_tick(tick, self)
                    continue
                self._examine(tick)
                for callback in self._callbacks:
                    callback.on_tick(tick, self)
                yield tick
                if self.decision.action == "stop" or (tick.is_stop and not tick.is_final):
                    return
            self._check_lease()
            completed = True
        except RegroupError:
            completed = True  # as far as this group is concerned
            raise
        finally:
            with ExitStack() as ends:  # all of them, even if one fails
                for callback in reversed(self._callbacks):
                    ends.callback(callback.on_end, self, completed=completed)

    def _examine(self, tick: Tick) -> None:
        self.metrics = tick.metrics | run_facts(self.experiment)
        self.evaluation, self.late_evaluations, self.decision = None, [], Decision()
        if tick.is_stop_only:
            return
        with phase("evaluation"):
            self.evaluation = self._evaluate(tick)
        if self.evaluation:
            self.metrics |= self.evaluation.numbers()
        if self._async:
            self.late_evaluations = self._async.late
            self.metrics |= {"evaluations_skipped": float(self._async.skipped)} if self._async.skipped else {}
        if self._health:
            self.decision = self._health(tick, self.metrics)

    def _check_lease(self) -> None:
        """Raise on all ranks where rank 0 must not write any more: one small broadcast."""
        error = self._lease.problem() if self._lease else None
        codes = (None, LeaseLostError, ConfigError)
        (code,) = broadcast_ints([codes.index(type(error) if error else None)], self.experiment.device)
        if error:
            raise error
        if code:
            raise codes[code]("worker 0 lost the run folder")  # pyright: ignore[reportOptionalCall]


@dataclass
class Live:
    """What outlives a group of replicas, on one of them (`cluster.recovery: live`).

    Attributes:
        transactions: copies of the run's state.
        abort: lets the group's collective calls fail.
        start: called by rank 0 once it is the run's writer.
        least: number of workers that the run needs.
        source: the run's data, once they are open.
    """

    transactions: Transactions
    abort: Callable[[], None]
    start: Callable[[], None]
    least: int = 1
    source: Source | None = None

    def open(self, config: Config, device: torch.device) -> Source:
        """The run's data, opened once.

        Args:
            config: the run.
            device: where batches go.
        """
        self.source = self.source or build_source(config, device)
        return self.source


def run_intervals(config: Config) -> dict[str, int]:
    """Intervals of a run's ticks in images, by name.

    Args:
        config: the run.
    """
    intervals = {"log": config.log.every, "samples": config.log.samples_every}
    if config.checkpoint.every != "auto":
        intervals["checkpoint"] = config.checkpoint.every
    if config.ema.profiles:
        intervals["averages"] = config.ema.snapshot_every
    if config.eval.every:
        intervals["eval"] = config.eval.every
    return intervals


def run_worker(
    config: Config,
    path: Place,
    *,
    device: torch.device,
    echo: bool,
    trackers: Sequence[Tracker] = (),
    callbacks: Sequence[Callback | Callable[[Tick], None]] = (),
    ask: Callable[[], StopReason] = lambda: StopReason.NONE,
    previous_failure: str | None = None,
    make_executor: Callable[[Config], EvaluationExecutor] = ProcessExecutor,
    heartbeats: HeartbeatChannel | None = None,
    live: Live | None = None,
) -> Outcome:
    """Train one replica's share of a run to its end, resuming from the newest valid checkpoint.

    Every replica calls it with the same arguments; torch.distributed's default group, if there is one, joins them.

    Args:
        config: the whole run.
        path: the run's folder, on storage that all replicas share, or its place in a bucket.
        device: where this replica computes.
        echo: whether rank 0 prints its progress (it always writes it to train.log).
        trackers: further trackers of rank 0, beside the run folder and W&B.
        callbacks: `Callback` objects of every rank, or functions that rank 0 calls with each tick.
        ask: whether this replica should stop; all call it equally often, every few seconds.
        previous_failure: where the same command restarts the run after a failure: its cause.
        make_executor: starts the process that evaluates with `eval.mode: async`; called by rank 0 with the config.
        heartbeats: how this replica's heartbeats travel; None for files, or objects, where the run lies.
        live: what outlives this group of replicas (`run_live`); None for a run that restarts from its checkpoint.

    Raises:
        BusyError: another process writes to the run's folder.
        ConfigError: its checkpoint belongs to another run or network, its data have changed, or the folder was removed.
        OutOfMemoryError: the device's memory does not suffice.
        RuntimeError: the replicas do not share the run's folder, or another process has taken it over.
        RegroupError: another group is to continue; only with `live`.
        OSError: the last checkpoint could not be saved.
    """
    replica, folder = Replica.current(), RunDir(path)
    torch.set_num_threads(config.cluster.cpus_per_worker)
    if config.train.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    patience = config.cluster.timeout * (0.5 if previous_failure is None else 1.0)
    if live and not live.transactions.count:
        patience = 5.0  # a group that trains is to take these workers in, and does not while they wait for its lease
    lease = take(config, folder, replica, patience=patience, echo=echo)
    try:
        check_shared(folder, replica, live=live is not None)
        if live and lease:
            live.start()
        if lease:
            record_workers(folder, config, WorkerRecord(replica.world_size, device.type == "cuda"))
        console = Console(folder.log, echo=echo) if lease else None
        info = console.info if console else lambda _: None
        where = f"{replica.world_size} worker{'s' * (replica.world_size > 1)} on {device.type}"
        info(f"building {config.model.generator.name} on {config.data.name} for {where}")
        source = live.open(config, device) if live else build_source(config, device)
        check_data(config, folder, source, replica, info)
        if warning := average_warning(config):
            info(warning)
        if console and not (live and live.transactions.count):
            for line in report(config, source, device, replica):
                info(line)
        experiment = build(config, device=device, replica=replica, source=source)
        origin = _begin(experiment, folder, replica, info, live)
        start = experiment.state.images
        stop_signal = LiveStopSignal(device, ask, least=live.least) if live else StopSignal(device, ask)
        own: list[Callback] = []
        checkpointer: Checkpointer | None = None
        if console:
            record_failure(folder, start, previous_failure, info)
            saved = checkpoint_store(config, folder).images() if live and live.transactions.count else 0
            tracking, checkpointer = _rank_zero_callbacks(
                experiment, folder, stop_signal, console, trackers, origin, saved
            )
            own = [tracking, checkpointer]
            if config.ema.profiles:
                own.insert(1, AverageSnapshots(experiment, folder.averages, info))
        history = [row for row in read_metrics(folder) if row["images"] <= start] if lease else ()
        evaluate = _evaluation(experiment, folder, history, make_executor, info)
        own += [evaluate] if isinstance(evaluate, AsyncEvaluation) else []
        session = Session(
            experiment,
            intervals=run_intervals(config),
            evaluate=evaluate,
            health=HealthMonitor(
                experiment,
                folder,
                checkpoint_store(config, folder),
                history=history,
                flush=checkpointer.flush if checkpointer else lambda: None,
                late=lambda: session.late_evaluations,
            ),
            callbacks=[*own, *(each if isinstance(each, Callback) else TickFunction(each) for each in callbacks)],
            stop_signal=stop_signal,
            lease=lease,
            transactions=live.transactions if live else None,
        )
        watchdog = Watchdog(
            heartbeats or PlaceChannel(folder.heartbeats),
            experiment.state,
            timeout=config.cluster.timeout,
            info=info,
            abort=live.abort if live else None,
        )
        outcome = _train(session, folder, watchdog, start)
        folder.push()
        return outcome
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        rows = rows_at_a_time(config, replica)
        problem = f"out of memory on {device} with {rows} images at a time: {str(error).splitlines()[0]}"
        raise OutOfMemoryError(f"{problem}\n  remedy: {advice(config, rows)}") from error
    finally:
        if lease:
            with suppress(OSError, ExecutionError):  # after a failure: the cause matters more
                folder.push()
            folder.close()
            lease.release()


def _begin(
    experiment: Experiment, folder: RunDir, replica: Replica, info: Callable[[str], None], live: Live | None
) -> Mapping[str, Any]:
    """Resume the run, or start it, from other weights if it says so; return the record of these."""
    config = experiment.config
    if live and live.transactions.count:
        recorded = len(read_rollbacks(folder)) if replica.is_rank_zero else 0
        (recorded,) = broadcast_ints([recorded], experiment.device)
        if recorded > live.transactions.rollbacks:  # in the tick in which a worker was lost: it holds
            live.transactions.discard()
            info("the run was rolled back when a worker was lost: it continues from storage")
    if live and live.transactions.restore(experiment.state):
        info(f"continuing at {experiment.state.images:,} images, from the memory of a worker")
        return recorded_start(folder) if config.train.init_from else {}
    resumed = resume(experiment, folder, replica, info)
    if not config.train.init_from:
        return {}
    if resumed:
        info("train.init_from is not read: this run resumes its own checkpoint")
        return recorded_start(folder)
    return warm_start(config, experiment.state, experiment.sampler.source, folder, info)


def _train(session: Session, folder: RunDir, watchdog: Watchdog, start: int) -> Outcome:
    """Train to the end; the heartbeats stay where the run fails."""
    try:
        with watchdog:
            for _ in session.ticks():
                pass
    except (KeyboardInterrupt, RegroupError):
        clear_heartbeats(folder)
        raise
    if session.replica.is_rank_zero:
        clear_heartbeats(folder)
    decision, diagnosis = session.decision, ""
    if decision.action == "stop":
        diagnosis = f"{decision.kind} at {session.images:,} images: {decision.text}"
    return Outcome(session.images, start, diagnosis, session.stop_reason)


def _evaluation(
    experiment: Experiment,
    folder: RunDir,
    history: Sequence[Mapping[str, float]],
    make_executor: Callable[[Config], EvaluationExecutor],
    info: Callable[[str], None],
) -> EvaluationCallback | AsyncEvaluation:
    """What evaluates, as `eval.mode` says."""
    inline = EvaluationCallback(experiment, info)
    if experiment.config.eval.mode == "inline":
        if Replica.current().is_rank_zero:
            drop_pending(folder, info)
        return inline
    skipped = int(history[-1].get("evaluations_skipped", 0)) if history else 0
    return AsyncEvaluation(experiment, folder, inline, make_executor, info, skipped=skipped)


def _rank_zero_callbacks(
    experiment: Experiment,
    folder: RunDir,
    stop_signal: StopSignal,
    console: Console,
    others: Sequence[Tracker],
    origin: Mapping[str, Any],
    saved: int,
) -> tuple[TrackerCallback, Checkpointer]:
    """Trackers and checkpoints; `saved` is as of `JsonlTracker`."""
    config, state = experiment.config, experiment.state
    local = JsonlTracker(folder, images=state.images, saved=saved)
    facts = environment(experiment.device, Replica.current())
    facts |= {"init_from": dict(origin)} if origin else {}
    if names := getattr(experiment.sampler.source, "class_names", ()):
        facts["classes"] = list(names)
    local.environment(facts)
    local.attempt(state.images, workers=Replica.current().world_size)
    trackers: list[Tracker] = [local, WandbTracker(config, folder, console.info, environment=facts), console, *others]
    if config.log.tensorboard:
        trackers.append(TensorBoardTracker(folder, console.info, images=state.images))
    tracking = TrackerCallback(
        trackers,
        folder,
        console.info,
        renderer=SampleRenderer(experiment, console.info),
        details=config.log.details,
        tables=config.log.table_samples > 0,
    )
    console.starts(state.images, config.train.images)
    store = checkpoint_store(config, folder)
    return tracking, Checkpointer(store, experiment, tracking, stop_signal, remembered=folder.interval)


def run_facts(experiment: Experiment) -> dict[str, float]:
    """Rates, weight norms, memory and the limit of decoding, for the log.

    Args:
        experiment: the run's objects.
    """
    state = experiment.state
    facts = {
        "iteration": float(state.iteration),
        "lr_d": float(state.optimizer_d.param_groups[0]["lr"]),
        "lr_g": float(state.optimizer_g.param_groups[0]["lr"]),
        **weight_norms(experiment),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (2**20 if sys.platform == "darwin" else 1024),
    }
    source = experiment.sampler.source
    if isinstance(source, Decoding) and (limit := source.decode_limit()):
        facts["decode_limit"] = limit * Replica.current().world_size
    augment = experiment.config.augment
    if augment.adaptive or isinstance(augment.p, Scheduled):
        facts["augment_p"] = state.augment_p
    if experiment.schedule.gamma_rule is not None:
        facts["gamma"] = state.gamma
    if experiment.config.health.response == "rollback" or state.rollbacks:
        facts["rollbacks"] = float(state.rollbacks)
    if experiment.device.type == "cuda":
        facts["gpu_memory_mib"] = torch.cuda.max_memory_allocated(experiment.device) / 2**20
    return facts
