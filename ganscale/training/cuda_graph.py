"""Iterations as CUDA graphs: launched at once, where launching their kernels one by one takes longer than running them.

A graph does again what was recorded, on the same memory. So everything that differs between iterations (examples, z,
positions, rates, weights) is copied into fixed tensors first; what decides which kernels run (which penalties are due)
chooses the graph.
"""

import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ganscale.training.batches import Batches
from ganscale.training.objective import Batch
from ganscale.training.schedules import Controls, Number, PenaltyWeights, is_on
from ganscale.training.statistics import Statistics
from ganscale.training.step import Step

_logger = logging.getLogger(__name__)
WARM_UP = 3
"""Iterations of a kind that run eagerly before it is recorded: they allocate what is kept and choose kernels."""

Key = tuple[Any, ...]
Record = Callable[[Callable[[], Statistics]], tuple[Callable[[], None], Statistics]]
"""Runs a function and returns what repeats it, and its result, which is overwritten by each repetition."""


class StepFunction(Protocol):
    """An iteration: `Step`, or what stands in for it."""

    def __call__(self, batches: Batches, controls: Controls) -> Statistics:
        """Run one iteration.

        Args:
            batches: this replica's rows.
            controls: of the iteration.
        """
        ...


def record_on_cuda(run: Callable[[], Statistics]) -> tuple[Callable[[], None], Statistics]:
    """Capture a function as a CUDA graph.

    Args:
        run: the function, without arguments and without a sync.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # DataLoader pins memory in a thread
        result = run()
    return graph.replay, result


@dataclass
class _Graph:
    """An iteration that was recorded.

    Attributes:
        batches: fixed tensors of its inputs.
        values: float64 `[k]`: of rates, weights and the like.
        positions: int64 `[m]`: of the batches.
        replay: repeats it.
        result: overwritten by each repetition.
    """

    batches: list[Batch]
    values: Tensor
    positions: Tensor
    replay: Callable[[], None]
    result: Statistics


class GraphedStep:
    """Runs iterations as CUDA graphs, one for each kind of iteration; those that return details run eagerly.

    The rates of Adam are rounded to float32, which is what its kernel reads from the graph's memory.

    Args:
        step: the eager iteration.
        device: where it runs.
        record: how an iteration is recorded; other than CUDA's in tests.
    """

    def __init__(self, step: Step, device: torch.device, record: Record = record_on_cuda) -> None:
        self.step = step
        self._device, self._record = device, record
        self._seen: dict[Key, int] = {}
        self._graphs: dict[Key, _Graph] = {}
        self._works = True
        self._moments: list[Tensor] = []

    def __call__(self, batches: Batches, controls: Controls) -> Statistics:
        """Run one iteration.

        Args:
            batches: this replica's rows.
            controls: of the iteration.
        """
        controls = replace(controls, lr_g=_float32(controls.lr_g), lr_d=_float32(controls.lr_d))
        if controls.details or not self._works:
            return self.step(batches, controls)
        key, moments = _kind(batches, controls), self._state()
        if any(old is not new for old, new in zip(self._moments, moments, strict=False)):
            self._graphs.clear()  # a state was loaded: Adam's moments lie elsewhere
        self._moments = moments
        graph = self._graphs.get(key)
        if graph is None:
            self._seen[key] = self._seen.get(key, 0) + 1
            if self._seen[key] <= WARM_UP:
                return self.step(batches, controls)
            try:
                graph = self._graphs[key] = self._capture(batches, controls)
            except RuntimeError as error:  # what was recorded has not run
                _logger.warning("train.cuda_graphs: iterations run eagerly: %s", str(error).splitlines()[0])
                self._works = False
                return self.step(batches, controls)
        self._fill(graph, _flat(batches), controls)
        graph.replay()
        # The next replay overwrites them.
        loss_d, loss_g, penalties, sums, norms = graph.result
        penalties, sums = ({name: value.clone() for name, value in each.items()} for each in (penalties, sums))
        return Statistics(loss_d.clone(), loss_g.clone(), penalties, sums, norms)

    def _capture(self, batches: Batches, controls: Controls) -> _Graph:
        flat = _flat(batches)
        values = torch.zeros(len(_numbers(controls)), dtype=torch.float64, device=self._device)
        positions = torch.zeros(len(flat), dtype=torch.int64, device=self._device)
        fixed = [
            Batch(each.reals.clone(), each.z.clone(), None if each.labels is None else each.labels.clone(), position)
            for each, position in zip(flat, positions, strict=True)
        ]
        inside = _with_tensors(controls, values)
        groups = [group for side in (self.step.g, self.step.d) for group in side.optimizer.param_groups]
        for group in groups:
            group["capturable"] = True  # else Adam refuses to be recorded; fused, it computes the same
        try:
            replay, result = self._record(lambda: self.step(_shaped(fixed, batches), inside()))
        finally:
            for group in groups:
                group["capturable"] = False  # as checkpoints have it
        return _Graph(fixed, values, positions, replay, result)

    def _fill(self, graph: _Graph, batches: Sequence[Batch], controls: Controls) -> None:
        """Copy an iteration's inputs to where the graph reads them."""
        for fixed, batch in zip(graph.batches, batches, strict=True):
            fixed.reals.copy_(batch.reals, non_blocking=True)
            fixed.z.copy_(batch.z, non_blocking=True)
            if fixed.labels is not None and batch.labels is not None:
                fixed.labels.copy_(batch.labels, non_blocking=True)
        self._put(graph.values, _numbers(controls))
        self._put(graph.positions, [batch.position for batch in batches])

    def _state(self) -> list[Tensor]:
        """One tensor of each optimizer's state, of which loading a state makes new ones."""
        states = [side.optimizer.state.get(side.parameters[0], {}) for side in (self.step.g, self.step.d)]
        return [state["exp_avg"] for state in states if "exp_avg" in state]

    def _put(self, target: Tensor, numbers: Sequence[Number]) -> None:
        """Copy host numbers to the device without waiting for it."""
        source = torch.tensor(numbers, dtype=target.dtype, pin_memory=target.is_cuda)
        target.copy_(source, non_blocking=True)


def _rate(value: Tensor) -> Tensor:
    """As Adam's kernel reads it from memory, whatever the type of the weights."""
    return value.float()


def _float32(rate: Number) -> Number:
    return struct.unpack("f", struct.pack("f", rate))[0]


def _flat(batches: Batches) -> list[Batch]:
    return [batch for micros in (*batches.discriminator, batches.generator or ()) for batch in micros]


def _shaped(flat: Sequence[Batch], like: Batches) -> Batches:
    """The inverse of `_flat`."""
    rest: Iterator[Batch] = iter(flat)
    updates = [[next(rest) for _ in micros] for micros in like.discriminator]
    return Batches(updates, None if like.generator is None else [next(rest) for _ in like.generator])


def _kind(batches: Batches, controls: Controls) -> Key:
    """What decides which kernels run."""
    shapes = tuple((batch.reals.shape, batch.labels is None) for batch in _flat(batches))
    due = tuple(tuple(map(is_on, astuple(weights))) for weights in controls.penalties)
    p = controls.augment_p
    return shapes, due, is_on(controls.noise), p if p in (0.0, 1.0) else "p", controls.betas_g, controls.betas_d


def _numbers(controls: Controls) -> list[Number]:
    """The numbers of an iteration that a graph reads from memory."""
    weights = [weight for each in controls.penalties for weight in astuple(each)]
    return [controls.lr_g, controls.lr_d, controls.noise, controls.augment_p, *weights]


def _with_tensors(controls: Controls, values: Tensor) -> Callable[[], Controls]:
    """Controls whose numbers that have an effect are read from `values`, as `_numbers` lists them."""
    names = [field.name for field in fields(PenaltyWeights)]

    def inside() -> Controls:
        lr_g, lr_d, noise, p, *rest = values
        penalties = []
        for old, part in zip(controls.penalties, _parts(rest, len(names)), strict=True):
            weights = zip(names, part, strict=True)
            penalties.append(replace(old, **{name: value for name, value in weights if is_on(getattr(old, name))}))
        return replace(
            controls,
            lr_g=_rate(lr_g),
            lr_d=_rate(lr_d),
            noise=noise if is_on(controls.noise) else 0.0,
            augment_p=controls.augment_p if controls.augment_p in (0.0, 1.0) else p,
            penalties=tuple(penalties),
        )

    return inside


def _parts(values: Sequence[Tensor], size: int) -> Iterator[Sequence[Tensor]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
