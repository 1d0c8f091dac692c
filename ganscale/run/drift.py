"""Whether all replicas still hold the same bits, and the response when one does not: its machine computes wrongly.

All replicas see the same hashes, so they decide alike without asking rank 0.
"""

from collections.abc import Callable

from ganscale.config.health import Health
from ganscale.health.policy import Decision
from ganscale.health.state_hash import all_gather_ints, minority_ranks, state_hash
from ganscale.parallel.collectives import broadcast_ints
from ganscale.parallel.replica import Replica
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.training.build import Experiment
from ganscale.training.loop import Tick

KIND = "replica-drift"


def respond_to_drift(response: str, ranks: list[int], *, target: int, rollbacks: int, most: int) -> Decision:
    """What follows from replicas that differ. Unlike after other verdicts the rates stay: the run itself is healthy.

    Args:
        response: `health.response`.
        ranks: of the replicas that differ from the others.
        target: images of the newest checkpoint, at which all agreed; 0 for the beginning.
        rollbacks: rollbacks for this reason so far.
        most: `health.max_rollbacks`.
    """
    who = "the workers" if len(ranks) > 2 else " and ".join(f"worker {rank}" for rank in ranks)
    text = f"{who} no longer hold{'s' * (len(ranks) == 1)} the weights of the others: look for a faulty machine"
    if response == "warn":
        return Decision("warn", kind=KIND, text=text)
    if response == "stop":
        return Decision("stop", kind=KIND, text=text)
    if rollbacks >= most:
        return Decision("stop", kind=KIND, text=f"{text}; after {rollbacks} of {most} rollbacks")
    where = f"{target:,} images" if target else "the beginning"
    return Decision("rollback", target, KIND, f"{text}; rollback {rollbacks + 1} of {most} to {where}")


class DriftCheck:
    """Compares the replicas every `health.compare_every` images; all call it alike, at every tick.

    Args:
        experiment: the run.
        store: its checkpoints, each saved only after a comparison at the same tick.
        settings: of the section `health`.
        flush: waits until checkpoints that are being written are there.
    """

    def __init__(
        self,
        experiment: Experiment,
        store: CheckpointStore,
        settings: Health,
        *,
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        self._experiment, self._store, self._settings, self._flush = experiment, store, settings, flush
        self._replica = Replica.current()
        self._every = 0 if KIND in settings.ignore or self._replica.world_size == 1 else settings.compare_every
        self._compared = experiment.state.images
        self._rollbacks, self._reported = 0, False

    def __call__(self, tick: Tick) -> Decision:
        """Compare if it is due.

        Args:
            tick: the newest.
        """
        reached = self._every and tick.images // self._every > self._compared // self._every
        saves = tick.is_due("checkpoint", "end", "eval") or self._experiment.config.checkpoint.every == "auto"
        if not self._every or not (reached or saves):
            return Decision()
        self._compared = tick.images
        device = self._experiment.device
        ranks = minority_ranks(all_gather_ints(state_hash(self._experiment.state.state_dict()), device))
        settings = self._settings
        if not ranks or (self._reported and settings.response == "warn"):
            return Decision()
        self._reported = True
        target = self._target() if settings.response == "rollback" else 0
        decision = respond_to_drift(
            settings.response, ranks, target=target, rollbacks=self._rollbacks, most=settings.max_rollbacks
        )
        if decision.action == "rollback":
            self._rollbacks += 1
            self._compared = decision.target
        return decision

    def _target(self) -> int:
        """Images of the newest valid checkpoint, as rank 0 finds it."""
        self._flush()
        found = self._store.newest(lambda _: None) if self._replica.is_rank_zero else None
        return broadcast_ints([found.images if found else 0], self._experiment.device)[0]
