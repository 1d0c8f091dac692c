"""Whether all replicas still hold the same bits, and what is done when one does not: a machine that computes wrongly.

All replicas see the same numbers, so they decide alike without asking rank 0.
"""

import torch
import torch.distributed as dist

from ganscale.health.policy import Decision
from ganscale.health.state_hash import all_gather_ints, minority_ranks, state_hash
from ganscale.parallel.collectives import Replica
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.training.build import Experiment
from ganscale.training.loop import Tick

KIND = "replica-drift"


def respond_to_drift(response: str, ranks: list[int], *, target: int, rollbacks: int, most: int) -> Decision:
    """What follows from replicas that differ.

    The rates stay as they are, unlike after other verdicts: with the same bits everywhere the run was healthy.

    Args:
        response: `health.response`.
        ranks: of the replicas that differ from the others.
        target: images of the newest checkpoint, at which all were alike; 0 for the beginning.
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
    """

    def __init__(self, experiment: Experiment, store: CheckpointStore) -> None:
        self._experiment, self._store = experiment, store
        settings = experiment.config.health
        self._replica = Replica.current()
        self._every = 0 if KIND in settings.ignore or self._replica.world_size == 1 else settings.compare_every
        self._compared = experiment.state.images
        self._rollbacks, self._told = 0, False

    def __call__(self, tick: Tick) -> Decision:
        """Compare if it is due."""
        reached = self._every and tick.images // self._every > self._compared // self._every
        saves = tick.due & {"checkpoint", "end", "eval"} or self._experiment.config.checkpoint.every == "auto"
        if not self._every or not (reached or saves):
            return Decision()
        self._compared = tick.images
        device = self._experiment.device
        ranks = minority_ranks(all_gather_ints(state_hash(self._experiment.state.state_dict()), device))
        settings = self._experiment.config.health
        if not ranks or (self._told and settings.response == "warn"):
            return Decision()
        self._told = True
        target = self._target(device) if settings.response == "rollback" else 0
        decision = respond_to_drift(
            settings.response, ranks, target=target, rollbacks=self._rollbacks, most=settings.max_rollbacks
        )
        if decision.action == "rollback":
            self._rollbacks += 1
            self._compared = decision.target
        return decision

    def _target(self, device: torch.device) -> int:
        """Images of the newest good checkpoint, as rank 0 finds it."""
        target = torch.zeros(1, dtype=torch.int64, device=device)
        if self._replica.is_rank_zero:
            found = self._store.newest(lambda _: None)
            target[0] = found.images if found else 0
        dist.broadcast(target, 0)
        return int(target)
