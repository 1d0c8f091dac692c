"""Evaluations beside training (`eval.mode: async`): snapshots of the moving average that rank 0 hands to an executor.

Results are taken at ticks, in the order of their snapshots, and shared with all ranks, so that these decide alike. A
snapshot is a file in the run's folder until its scores are logged: evaluations that a stop or a crash interrupts are
done again when the run resumes.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ganscale.config import Config
from ganscale.evaluation.callback import EvaluationCallback
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.evaluation.worker import EvaluationExecutor, EvaluationFailedError, save_snapshot
from ganscale.parallel.collectives import broadcast_ints
from ganscale.parallel.phase import WAITING, phase
from ganscale.parallel.replica import Replica
from ganscale.run.callback import Callback
from ganscale.storage.run_dir import RunDir
from ganscale.training.build import Experiment
from ganscale.training.loop import Tick

MAX_FAILURES = 3
"""Failures in a row after which a run evaluates inline."""
SLICE = 1.0
"""Seconds after which workers that wait for an evaluation at a run's end hear from rank 0."""


class AsyncEvaluation(Callback):
    """Evaluates when it is due, on all ranks alike, without stopping training; all calls are collective.

    Args:
        experiment: the run's objects.
        folder: the run's.
        inline: what evaluates after too many failures; also decides when an evaluation is due.
        make_executor: starts a process; called by rank 0 with the run's config when there is work.
        info: takes a line for the log.
        skipped: evaluations that earlier attempts skipped.

    Attributes:
        late: evaluations of earlier ticks that came by this one, the same on all ranks.
        skipped: evaluations that were skipped or lost so far, the same on all ranks.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: RunDir,
        inline: EvaluationCallback,
        make_executor: Callable[[Config], EvaluationExecutor],
        info: Callable[[str], None],
        *,
        skipped: int = 0,
    ) -> None:
        self.late: list[Evaluation] = []
        self.skipped = skipped
        self._experiment, self._inline, self._make_executor, self._info = experiment, inline, make_executor, info
        self._folder = folder.pending_evaluations
        self._replica = Replica.current()
        self._executor: EvaluationExecutor | None = None
        self._queue: deque[int] = deque()  # the first is submitted if `_submitted`
        self._submitted = self._said = False
        self._failures = 0
        self._given_up = False  # on all ranks alike, after rank 0's MAX_FAILURES
        self._done: list[int] = []  # whose snapshots go once their scores are logged

    @property
    def pending(self) -> tuple[int, ...]:
        """On rank 0, images of the evaluations whose scores are still to come."""
        return tuple(self._queue)

    @property
    def _exhausted(self) -> bool:
        """On rank 0, whether too many processes have failed."""
        return self._failures >= MAX_FAILURES

    def on_start(self, session: Any) -> None:
        """Take up what an earlier attempt left, on rank 0."""
        if not self._replica.is_rank_zero:
            return
        for images in stored(self._folder):
            if images <= session.images:
                self._queue.append(images)
            else:  # the run comes there again
                self._remove(images)
        if self._queue:
            self._info(f"evaluations that were not done before are done now: at {self._list()} images")
            self._submit()

    def __call__(self, tick: Tick) -> Evaluation | None:
        """Take finished evaluations, submit the next if it is due, and at the run's end wait for all.

        Args:
            tick: the newest.

        Returns:
            The tick's own evaluation, if it was waited for or done inline.
        """
        if self._given_up:
            self.late = []
            return self._inline(tick)
        found = self._advance(0.0) if self._replica.is_rank_zero else []
        if self._inline.is_due(tick) and self._replica.is_rank_zero and not self._exhausted:
            self._request(tick)
        if tick.is_final:
            found += self._wait()
        found = self._share(found)
        own = next((evaluation for evaluation in found if evaluation.images == tick.images), None)
        self.late = [evaluation for evaluation in found if evaluation is not own]
        return own if own or not self._given_up else self._inline(tick)

    def on_tick(self, tick: Tick, session: Any) -> None:
        """Remove snapshots whose scores are logged, or which a rollback made void; called after the trackers."""
        for images in self._done:
            self._remove(images)
        self._done.clear()
        decision = session.decision
        if decision.action == "rollback":
            if self._queue and self._queue[0] > decision.target:
                self._close()
            while self._queue and self._queue[-1] > decision.target:
                self._remove(self._queue.pop())
        if self._queue and (tick.is_stop or decision.action == "stop"):
            self._info(f"evaluations are not done yet and will be when the run resumes: at {self._list()} images")

    def on_end(self, session: Any, *, completed: bool) -> None:
        """End the process."""
        self._close()

    def _request(self, tick: Tick) -> None:
        """Store a snapshot and queue it, unless the one before is not done and the config skips then."""
        images = tick.images
        if self._queue and self._experiment.config.eval.busy == "skip" and not tick.is_final:
            self.skipped += 1
            if not self._said:
                self._said = True
                self._info(
                    f"the evaluation at {images:,} images is skipped, as the one at {self._queue[0]:,} is not done "
                    "(eval.busy = skip); evaluations_skipped counts those that follow"
                )
            return
        try:
            save_snapshot(self._experiment.state.ema.module, self._folder / f"{images:012d}.pt")
        except OSError as error:
            self.skipped += 1
            self._info(f"the evaluation at {images:,} images is skipped: its snapshot could not be stored ({error})")
            return
        self._queue.append(images)
        if not self._submitted:
            self._submit()

    def _submit(self) -> None:
        """Start the first of the queue."""
        try:
            if self._executor is None:
                self._executor = self._make_executor(self._inline.config)
            self._executor.submit(self._queue[0], self._folder / f"{self._queue[0]:012d}.pt")
            self._submitted = True
        except EvaluationFailedError as error:
            self._failed(error)

    def _advance(self, timeout: float) -> list[Evaluation]:
        """Results that are there, or come within `timeout` seconds; the next of the queue is started."""
        found = []
        while self._queue:
            if not self._submitted:
                self._submit()
                continue
            assert self._executor is not None, "it was submitted"
            try:
                evaluation = self._executor.poll(timeout)
            except EvaluationFailedError as error:
                self._failed(error)
                continue
            if evaluation is None:
                break
            found.append(evaluation)
            self._done.append(self._queue.popleft())
            self._submitted, self._failures = False, 0
        return found

    def _failed(self, error: EvaluationFailedError) -> None:
        """Start again with another process, or give up."""
        self._close()
        self._failures += 1
        reason = f"the evaluation at {self._queue[0]:,} images failed: {error}"
        if self._failures < MAX_FAILURES:
            self._info(f"warning: {reason}; it is tried again in a new process")
            return
        self._info(
            f"warning: {reason}; after {self._failures} failures in a row the run evaluates inline, and the "
            f"evaluations at {self._list()} images are lost"
        )
        self.skipped += len(self._queue)
        while self._queue:
            self._remove(self._queue.pop())

    def _wait(self) -> list[Evaluation]:
        """All ranks wait until the queue is empty."""
        found: list[Evaluation] = []
        if self._queue:
            self._info(f"waiting for the evaluations at {self._list()} images")
        with phase(WAITING):
            while True:
                found += self._advance(SLICE)
                (left,) = broadcast_ints([len(self._queue)], self._experiment.device)
                if not left:
                    return found

    def _share(self, found: list[Evaluation]) -> list[Evaluation]:
        """Rank 0's results, on all ranks, and how things stand."""
        device, facts = self._experiment.device, [len(found), self.skipped, int(self._exhausted)]
        count, self.skipped, given_up = broadcast_ints(facts, device)
        self._given_up = bool(given_up)
        box: list[Any] = [found]
        if count and self._replica.world_size > 1:
            dist.broadcast_object_list(box, 0, device=device)
        return box[0]

    def _list(self) -> str:
        return ", ".join(f"{images:,}" for images in self._queue)

    def _remove(self, images: int) -> None:
        with suppress(OSError):
            (self._folder / f"{images:012d}.pt").unlink(missing_ok=True)

    def _close(self) -> None:
        executor, self._executor, self._submitted = self._executor, None, False
        if executor is not None:
            executor.close()


def stored(folder: Path) -> list[int]:
    """Images of the snapshots that wait for their evaluation, in order.

    Args:
        folder: of the snapshots.
    """
    return sorted(int(path.stem) for path in folder.glob("*.pt") if path.stem.isdigit())


def drop_pending(folder: RunDir, info: Callable[[str], None]) -> None:
    """Log which evaluations an asynchronous attempt left to an inline one, which cannot do them, and drop them.

    Args:
        folder: the run's.
        info: takes a line for the log.
    """
    left = stored(folder.pending_evaluations)
    if left:
        images = ", ".join(f"{each:,}" for each in left)
        info(f"eval.mode = inline: the evaluations that an attempt with async left are not done: at {images} images")
    for each in left:
        (folder.pending_evaluations / f"{each:012d}.pt").unlink(missing_ok=True)
