"""`train.shards`: an update as a fixed number of virtual replicas, so that its bits do not depend on the real ones."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ganscale.parallel.replica import Replica
from ganscale.parallel.shards import ShardGroup
from ganscale.training.batches import Batches
from ganscale.training.objective import Batch
from ganscale.training.probe import Probe
from ganscale.training.schedules import Controls, Number
from ganscale.training.state import TrainState
from ganscale.training.statistics import Statistics
from ganscale.training.step import Side, Step


class ShardStep(Step):
    """The update of one shard: its own forward and backward, then one step of the optimizers for all shards.

    Args:
        *arguments: of `Step`.
        owner: all shards of this process.
        **options: of `Step`.
    """

    def __init__(self, *arguments: Any, owner: "ShardedStep", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._owner = owner

    def _parallel(self, module: nn.Module, replica: Replica) -> nn.Module:
        return module

    def _zero_grad(self, side: Side) -> None:
        for parameter in side.parameters:
            parameter.grad = None

    def _apply(self, side: Side, rate: Number, betas: tuple[float, float], *, measure: bool) -> Tensor | None:
        whole = self._owner.steps[0]
        target = whole.g if side is self.g else whole.d
        return self._owner.apply(self, side, partial(target.apply, rate, betas, measure=measure), target)


class ShardedStep:
    """An iteration as `Step` makes it, computed shard by shard, with all sums over shards in a fixed order.

    The shards of this process have networks of their own, which share their weights; gradients and buffers are their
    own. The first shard has the networks of the run's state.

    Args:
        group: the shards.
        state: the run's.
        make_step: builds an update of networks and optimizers, for `replica`, as an object of the class `kind`.
    """

    def __init__(self, group: ShardGroup, state: TrainState, make_step: Callable[..., Step]) -> None:
        self.group = group
        states = [state, *(_replicate(state) for _ in group.own[1:])]
        replicas = (Replica(shard, group.num_replicas) for shard in group.own)
        make = partial(make_step, kind=partial(ShardStep, owner=self))
        self.steps = [make(each, replica=replica) for each, replica in zip(states, replicas, strict=True)]
        buffers = [
            [
                *_kept(each.generator),
                *_kept(each.discriminator),
                each.logit_averages.totals,
                each.path_length,
            ]
            for each in states
        ]
        self._buffers = buffers[0], buffers[1:]

    def __call__(self, batches: Batches, controls: Controls) -> Statistics:
        """Run one iteration; the statistics have a row for each own shard.

        Args:
            batches: this process's rows, each micro-batch as one batch per shard.
            controls: rates, penalty weights and the like for this iteration.
        """
        self._copy_buffers()  # a state may have been loaded
        parts = split(batches, len(self.steps))
        return _stacked(self.group.run(lambda position: self.steps[position](parts[position], controls)))

    def apply(self, step: ShardStep, side: Side, update: Callable[[], Tensor | None], target: Side) -> Tensor | None:
        """Update a network once, by the mean of all shards' gradients; called by all shards' threads.

        Args:
            step: of the calling shard.
            side: of the calling shard.
            update: steps the optimizer of `target`.
            target: the first shard's side.
        """
        has_gradient = [parameter.grad is not None for parameter in side.parameters]
        gradients = [parameter.grad for parameter in side.parameters if parameter.grad is not None]
        for parameter in side.parameters:
            parameter.grad = None  # so that those that were added up are freed

        def finish(sums: list[Tensor]) -> Tensor | None:
            updated = [each for each, has in zip(target.parameters, has_gradient, strict=True) if has]
            for parameter, total in zip(updated, sums, strict=True):
                parameter.grad = torch.div(total, self.group.num_replicas, out=torch.empty_like(parameter))
            norm = update()
            self._copy_buffers()
            return norm

        return self.group.reduce(self.steps.index(step), gradients, finish)

    @torch.no_grad()
    def _copy_buffers(self) -> None:
        """Give all own shards the buffers of the first: running statistics, and what an optimizer step moved."""
        first, others = self._buffers
        for each in others:
            torch._foreach_copy_(each, first)  # pyright: ignore[reportPrivateImportUsage]


class ShardedProbe:
    """`Probe` of every own shard; the sums have a row for each.

    Args:
        group: the shards.
        probes: one for each own shard.
    """

    def __init__(self, group: ShardGroup, probes: Sequence[Probe]) -> None:
        self._group, self._probes = group, probes

    def __call__(self, batches: Batches, controls: Controls) -> dict[str, Tensor]:
        """Sums of D's answers, as `Probe` has them.

        Args:
            batches: of the newest iteration.
            controls: of the newest iteration.
        """
        parts = split(batches, len(self._probes))
        return _stacked_dicts(self._group.run(lambda position: self._probes[position](parts[position], controls)))


def split(batches: Batches, shards: int) -> list[Batches]:
    """The batches of each shard.

    Args:
        batches: of a process, each micro-batch as one batch per shard.
        shards: of the process.
    """

    def part(micros: list[Batch], position: int) -> list[Batch]:
        return micros[position::shards]

    return [
        Batches(
            [part(micros, position) for micros in batches.discriminator],
            None if batches.generator is None else part(batches.generator, position),
        )
        for position in range(shards)
    ]


def _kept(network: nn.Module) -> list[Tensor]:
    """The buffers that are state; not those in which an update adds up its rows."""
    names = network.state_dict().keys()
    return [buffer for name, buffer in network.named_buffers() if name in names]


def _replicate(state: TrainState) -> TrainState:
    """The state with copies of the networks that share their weights, but neither gradients nor buffers."""
    weights = [*state.generator.parameters(), *state.discriminator.parameters()]
    memo: dict[int, Any] = {id(each): nn.Parameter(each.detach(), requires_grad=each.requires_grad) for each in weights}
    generator, discriminator = (copy.deepcopy(each, memo) for each in (state.generator, state.discriminator))
    own = {"logit_averages": copy.deepcopy(state.logit_averages), "path_length": state.path_length.clone()}
    return replace(state, generator=generator, discriminator=discriminator, **own)


def _stacked_dicts(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def _stacked(parts: Sequence[Statistics]) -> Statistics:
    """A row for each shard; gradient norms are the same for all."""
    return Statistics(
        torch.stack([part.loss_d for part in parts]),
        torch.stack([part.loss_g for part in parts]),
        _stacked_dicts([part.penalties for part in parts]),
        _stacked_dicts([part.sums for part in parts]),
        parts[0].grad_norms,
    )
