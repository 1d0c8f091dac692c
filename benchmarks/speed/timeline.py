"""Where an iteration's time goes, seen from outside: methods of one experiment are wrapped while it is measured.

A run that is not measured holds none of this. On a GPU each change of phase waits for the device, so phases add up to
more than an iteration that runs undisturbed.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ganscale.training.build import Experiment


class Timeline:
    """Adds up the time of phases that may lie inside one another; an inner phase's time is not the outer one's.

    Attributes:
        seconds: by phase, since the last lap.
        laps: what `seconds` was in each lap.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.laps: list[dict[str, float]] = []
        self._device = device
        self._clock = clock
        self._stack: list[str] = []
        self._since = 0.0

    def _build_ddp_buckets(self) -> None:
        """Book the time since the last change."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = self._clock()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def lap(self) -> None:
        """An iteration begins."""
        self._build_ddp_buckets()
        self.laps.append(self.seconds)
        self.seconds = defaultdict(float)

    def rename(self, phase: str) -> None:
        """From now on the innermost phase is another one."""
        if self._stack:
            self._build_ddp_buckets()
            self._stack[-1] = phase

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The block's time is this phase's."""
        self._build_ddp_buckets()
        self._stack.append(name)
        try:
            yield
        finally:
            self._build_ddp_buckets()
            self._stack.pop()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls are a phase."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return timed


@contextmanager
def replaced(thing: Any, name: str, value: Any) -> Iterator[None]:
    """Give one object another method for a while; its class keeps its own."""
    assert name not in vars(thing), "nobody else replaces it"
    setattr(thing, name, value)
    try:
        yield
    finally:
        delattr(thing, name)


@contextmanager
def watched(experiment: Experiment, timeline: Timeline) -> Iterator[None]:
    """Book an experiment's iterations by phase: data, generator, discriminator, optimizer, ema, other.

    A G update begins in D, forward and backward, and turns to G when the gradient arrives at the fakes. Each iteration
    begins a lap.
    """
    step, state, read = experiment.step, experiment.state, experiment.sampler.batches
    make, update = step._fakes_with_graph, step._update_generator

    def batches(images: int) -> Any:
        timeline.lap()
        with timeline.phase("data"):
            return read(images)

    def watch_fakes(fakes: Tensor) -> None:
        handle = fakes.register_hook(lambda gradient: (timeline.rename("generator"), handle.remove(), gradient)[2])

    def fakes_with_graph(*args: Any) -> Tensor:
        with timeline.phase("generator"):
            fakes = make(*args)
        if inside:
            timeline.rename("discriminator")
            watch_fakes(fakes)
        return fakes

    inside: list[bool] = []

    def update_generator(micros: Any, fakes: Tensor | None, *args: Any, **kwargs: Any) -> Any:
        with timeline.phase("discriminator"):
            inside.append(True)
            if fakes is not None:
                watch_fakes(fakes)
            loss = update(micros, fakes, *args, **kwargs)
            inside.pop()
            return loss

    with ExitStack() as stack:
        for thing, name, value in (
            (experiment.sampler, "batches", batches),
            (step, "_fakes_with_graph", fakes_with_graph),
            (step, "_fakes_without_graph", timeline.wrap("generator", step._fakes_without_graph)),
            (step, "_update_discriminator", timeline.wrap("discriminator", step._update_discriminator)),
            (step, "_update_generator", update_generator),
            (step.d, "apply", timeline.wrap("optimizer", step.d.apply)),
            (step.g, "apply", timeline.wrap("optimizer", step.g.apply)),
            (state.ema, "update", timeline.wrap("ema", state.ema.update)),
        ):
            stack.enter_context(replaced(thing, name, value))
        yield
