"""Times the phases of an iteration by wrapping methods of one experiment.

On a GPU each change of phase synchronizes with the device, so the phases add up to more than the time of an
iteration without instrumentation.
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
    """Adds up the time of nested phases; the time of an inner phase does not count for the outer one.

    Args:
        device: to synchronize with.
        clock: returns seconds.

    Attributes:
        seconds: by phase, since the last lap.
        laps: `seconds` of each finished lap.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.laps: list[dict[str, float]] = []
        self._device = device
        self._clock = clock
        self._stack: list[str] = []
        self._since = 0.0

    def _add_elapsed(self) -> None:
        """Add the time since the last change to the current phase."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = self._clock()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def lap(self) -> None:
        """Begin the next iteration."""
        self._add_elapsed()
        self.laps.append(self.seconds)
        self.seconds = defaultdict(float)

    def rename(self, phase: str) -> None:
        """Continue the innermost phase under another name.

        Args:
            phase: the new name.
        """
        if self._stack:
            self._add_elapsed()
            self._stack[-1] = phase

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a `with` block.

        Args:
            name: of its phase.
        """
        self._add_elapsed()
        self._stack.append(name)
        try:
            yield
        finally:
            self._add_elapsed()
            self._stack.pop()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its calls are timed.

        Args:
            name: of the phase.
            function: to wrap.
        """

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return function(*args, **kwargs)

        return timed


@contextmanager
def replaced(thing: Any, name: str, value: Any) -> Iterator[None]:
    """Replace a method of one object in a `with` block.

    Args:
        thing: the object.
        name: of the method.
        value: the replacement.
    """
    assert name not in vars(thing), "it is replaced already"
    setattr(thing, name, value)
    try:
        yield
    finally:
        delattr(thing, name)


@contextmanager
def instrumented(experiment: Experiment, timeline: Timeline) -> Iterator[None]:
    """Time an experiment's iterations by phase: data, generator, discriminator, optimizer, ema, other.

    A G update begins in D, forward and backward, and changes to G when the gradient reaches the fakes. Each iteration
    is a lap.

    Args:
        experiment: to instrument in the `with` block.
        timeline: that adds up the times.
    """
    step, state, read = experiment.step, experiment.state, experiment.sampler.batches
    make, update = step._fakes_with_graph, step._update_generator

    def batches(images: int) -> Any:
        timeline.lap()
        with timeline.phase("data"):
            return read(images)

    def hook_fakes(fakes: Tensor) -> None:
        handle = fakes.register_hook(lambda gradient: (timeline.rename("generator"), handle.remove(), gradient)[2])

    def fakes_with_graph(*args: Any) -> Tensor:
        with timeline.phase("generator"):
            fakes = make(*args)
        if inside:
            timeline.rename("discriminator")
            hook_fakes(fakes)
        return fakes

    inside: list[bool] = []

    def update_generator(micros: Any, fakes: Tensor | None, *args: Any, **kwargs: Any) -> Any:
        with timeline.phase("discriminator"):
            inside.append(True)
            if fakes is not None:
                hook_fakes(fakes)
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
