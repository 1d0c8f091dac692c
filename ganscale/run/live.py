"""A run that outlives its workers: when one is lost, the others form a new group (`cluster.recovery: live`).

A process that trains stays; the group it trains in does not. Each group is one call of `run_worker`, so that everything
that depends on the number of workers is built again, from the copy of the state that each replica keeps in memory.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ganscale import __version__
from ganscale.config import Config, ConfigError
from ganscale.config.checks import check_workers
from ganscale.config.errors import ExecutionError
from ganscale.config.load import flat
from ganscale.parallel.collectives import broadcast_ints
from ganscale.parallel.members import FOLDER, Quorum
from ganscale.parallel.phase import PHASE
from ganscale.parallel.process_group import ProcessGroup, release_ended
from ganscale.parallel.quorum import Membership, QuorumError
from ganscale.parallel.replica import Replica
from ganscale.run.heartbeats import collective_timeout
from ganscale.run.outcome import Outcome
from ganscale.run.session import Live, run_worker
from ganscale.run.stop_signal import RegroupError, StopFile, StopReason
from ganscale.run.watchdog import EXIT_HANG
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.lease import BusyError
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import Place
from ganscale.training.transactions import Transactions

MAX_FAILURES = 3
"""Failures in a row of one transaction, with the same members, after which it is not the loss of one that fails it."""

MAX_BUSY = 10
"""Times in a row that workers without a state find another writer, which does not take them in."""

GRACE = 10.0
"""Seconds for which a worker that is to leave waits for a group that saves what it has in memory."""

OWN = ("run.", "train.device", "data.cache_", "data.num_workers", "wandb.", "cluster.")
"""Begins of the settings that may differ between the workers of a run."""

KEPT = ("run.seed", "cluster.num_workers")
"""Settings of those sections that may not."""

PATIENCE = 1800.0
"""Seconds, at least, to wait for a quorum: for workers that evaluate or save, and for others where too few are left."""

_logger = logging.getLogger(__name__)


def run_live(
    config: Config,
    path: Place,
    *,
    ask: Callable[[], StopReason] = lambda: StopReason.NONE,
    lighthouse: str | None = None,
    begin: Callable[[], None] = lambda: None,
    **options: Any,
) -> Outcome:
    """Train as one of the workers that reach a lighthouse, to the end of the run or until this one is to leave.

    There must be no default process group: this makes them, one after another.

    Args:
        config: the whole run.
        path: the run's folder, on storage that all workers share, or its place in a bucket.
        ask: whether this worker should leave (DRAIN) or the run stop (STOP); asked every few seconds.
        lighthouse: its address; None for that of the environment.
        begin: called before a group none of whose workers has a state reads it from storage; may raise.
        **options: of `run_worker`.

    Raises:
        ConfigError: of `run_worker`; or torchft or the lighthouse's address is not there.
        QuorumError: too few workers are left, or the lighthouse does not answer.
        RuntimeError: of `run_worker`, or a transaction failed `MAX_FAILURES` times though no worker was lost.
    """
    if options["device"].type != "cpu":
        remedy = "use cpu, or cluster.recovery = restart"
        raise ConfigError("live recovery is for CPUs", key="train.device", value=config.train.device, remedy=remedy)
    folder, (least, most) = RunDir(path), bounds(config)
    requests = StopFile(folder.stop)
    live = Live(Transactions(), lambda: None, lambda: None, least)
    failures = _Failures()
    rank, failure = None, options.pop("previous_failure", None)
    with Membership(lambda: _request_join(requests, folder, most), shared(config, folder), lighthouse) as membership:
        while True:
            release_ended()
            try:
                quorum, rank = _wait(config, membership, live.transactions, rank, folder, ask)
            except RegroupError:
                images = _store(folder).images()
                return Outcome(images, images, stop_reason=max(ask(), StopReason.DRAIN))
            except QuorumError:
                if (images := _store(folder).images()) >= config.train.images:  # the others have completed the run
                    return Outcome(images, images)
                raise
            try:
                with _group(config, quorum, rank) as group:
                    live.abort, live.start = group.abort, partial(_record, live.transactions, quorum, folder, requests)
                    _synchronize(live.transactions, quorum, folder)
                    if not live.transactions.count:
                        begin()
                    return run_worker(
                        config, path, ask=_asking(ask, requests), previous_failure=failure, live=live, **options
                    )
            except RegroupError as change:
                failure = None
                if change.leaves:
                    return Outcome(live.transactions.images, live.transactions.images, stop_reason=StopReason.DRAIN)
            except (RuntimeError, BusyError) as error:
                if isinstance(error, ExecutionError):
                    raise
                line = str(error).splitlines()[0][:200]
                _logger.warning("worker %d of %d: %s", rank, len(quorum.members), line)
                failure = None if isinstance(error, BusyError) else f"the workers formed a new group after: {line}"
                if isinstance(error, BusyError) and not live.transactions.count:
                    failures.add_busy(error)
                    _request_join(requests, folder, most)
                    membership.renew()  # it may be alone in its quorum while others train
                else:
                    failures.add(live.transactions.count, quorum, error)


def _wait(
    config: Config,
    membership: Membership,
    transactions: Transactions,
    rank: int | None,
    folder: RunDir,
    ask: Callable[[], StopReason],
) -> tuple[Quorum, int]:
    """The next quorum, of which this worker is one, and its rank; a spare one waits until it is needed."""
    least, most = bounds(config)
    patience = max(PATIENCE, 2.0 * collective_timeout(config))  # that the watchdog ends one that hangs
    started = time.monotonic()

    def poll() -> None:
        stays = GRACE if transactions.count else 0.0  # for a group that saves what is in memory
        if ask() >= StopReason.DRAIN and time.monotonic() - started >= stays:
            raise RegroupError(leaves=True)

    facts = transactions.count, transactions.group, rank
    while True:
        try:
            quorum = membership.quorum(*facts, least=least, most=most, timeout=patience, poll=poll)
        except QuorumError:
            if transactions.count or not _is_full(folder, most) or _store(folder).images() >= config.train.images:
                raise
            continue
        assert quorum.rank is not None
        return quorum, quorum.rank


def _synchronize(transactions: Transactions, quorum: Quorum, folder: RunDir) -> None:
    """Give all members the newest state; none, if a group that has been lost since was further; a collective call.

    The group is later than the recorded one: the clock of another lighthouse may be behind.
    """
    recorded = _last_group(folder)[0] if quorum.rank == 0 else 0
    (newest,) = broadcast_ints([recorded], torch.device("cpu"))
    if newest > quorum.members[quorum.source].group:
        transactions.discard()
    transactions.synchronize(quorum.source, max(quorum.time, newest + 1))


def _record(transactions: Transactions, quorum: Quorum, folder: RunDir, requests: StopFile) -> None:
    """Record the group as the one that trains, which has let in those who requested it; rank 0 does, with the lease."""
    with suppress(OSError):
        folder.group.write_text(f"{transactions.group} {len(quorum.members)}", encoding="utf-8")
    if requests.read() == StopReason.RESIZE or not transactions.count:  # what an earlier attempt left
        requests.clear()


def _last_group(folder: RunDir) -> tuple[int, int]:
    """When the last group that trained the run was formed, and its number of workers; 0 without one."""
    with suppress(OSError, ValueError):
        time_, size = folder.group.read_text(encoding="utf-8").split()
        return int(time_), int(size)
    return 0, 0


def _is_full(folder: RunDir, most: int) -> bool:
    """Whether the last group had as many workers as it may have."""
    return _last_group(folder)[1] >= most


def _store(folder: RunDir) -> CheckpointStore:
    return CheckpointStore(folder.checkpoints)


def bounds(config: Config) -> tuple[int, int]:
    """How many workers a run with live recovery may have: with a fixed number fewer continue when some are lost.

    Args:
        config: the run.
    """
    wanted = config.cluster.num_workers
    least, most = wanted if isinstance(wanted, tuple) else (1, wanted)
    most = config.train.batch_size if most == "auto" else most
    while most > least and not _has_rows(config, most):
        most -= 1
    return least, most


def _has_rows(config: Config, num_workers: int) -> bool:
    with suppress(ConfigError):
        check_workers(config, num_workers)
        return True
    return False


def shared(config: Config, folder: RunDir) -> dict[str, str]:
    """What must be the same on all workers of a run: its folder, and all settings but those of a machine.

    Args:
        config: the run.
        folder: the run's.
    """
    place = folder.root.absolute() if isinstance(folder.root, Path) else folder.root
    settings = {"version": __version__} | flat(config.model_dump(mode="json"))
    kept = {key: json.dumps(value) for key, value in settings.items() if key in KEPT or not key.startswith(OWN)}
    return {FOLDER: str(place)} | kept


def _group(config: Config, quorum: Quorum, rank: int) -> ProcessGroup:
    store, timeout = quorum.members[0].store, collective_timeout(config)
    return ProcessGroup(store, quorum.name, rank, len(quorum.members), timeout=timeout, overdue=_end)


def _end() -> None:
    """End this process: the others have given its group up long ago, and it may hold the run's lease."""
    _logger.error("the other workers have given this one up, which hangs in %s: it ends", PHASE.name)
    os._exit(EXIT_HANG)


def _request_join(requests: StopFile, folder: RunDir, most: int) -> None:
    """Ask those who train to form a new group with this worker, if there is room for it."""
    if requests.read() in (StopReason.NONE, StopReason.DRAIN) and not _is_full(folder, most):
        requests.write(StopReason.RESIZE)


def _asking(ask: Callable[[], StopReason], requests: StopFile) -> Callable[[], StopReason]:
    """Ask this worker, and on rank 0 the run's folder, where a worker that waits has requested to join."""

    def asked() -> StopReason:
        found = requests.read() if Replica.current().is_rank_zero else StopReason.NONE
        return max(ask(), found if found in (StopReason.RESIZE, StopReason.STOP) else StopReason.NONE)

    return asked


class _Failures:
    """Failures in a row of one transaction with the same members."""

    def __init__(self) -> None:
        self._last: tuple[int, frozenset[str]] | None = None
        self._count = self._busy = 0

    def add(self, count: int, quorum: Quorum, error: Exception) -> None:
        """Count one.

        Args:
            count: of the transaction.
            quorum: that failed.
            error: why.

        Raises:
            RuntimeError: it is one too many.
        """
        self._busy = 0
        this = count, frozenset(member.id for member in quorum.members)
        self._count = self._count + 1 if this == self._last else 1
        self._last = this
        if self._count >= MAX_FAILURES:
            raise error

    def add_busy(self, error: BusyError) -> None:
        """Count that workers without a state found another writer, which may be a group that is to take them in.

        Args:
            error: that names it.

        Raises:
            BusyError: it is one too many.
        """
        self._busy += 1
        if self._busy >= MAX_BUSY:
            raise error
