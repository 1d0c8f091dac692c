"""Faults to inject into healthy runs: by settings where possible, otherwise by wrappers of the data or the latents."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.health.setups import Setup
from ganscale.data import Source
from ganscale.training.build import Experiment

Settings = Callable[[Setup], tuple[str, ...]]
BAD_FROM = 0.5
"""Share of a run after which the late faults begin."""


@dataclass(frozen=True)
class Fault:
    """A fault that makes a run unhealthy.

    Attributes:
        name: key in `FAULTS`.
        meaning: short description.
        settings: returns the overrides that inject the fault into a setup.
        wrap: changes objects of the run that no setting reaches.
        fits: whether the fault applies to a setup.
    """

    name: str
    meaning: str
    settings: Settings = field(default=lambda _: ())
    wrap: Callable[[Experiment], None] = field(default=lambda _: None)
    fits: Callable[[Setup], bool] = field(default=lambda _: True)


def _rates(g: float, d: float) -> Settings:
    """Multiply both learning rates."""
    return lambda setup: (f"optim.lr_g={min(10.0, setup.rate * g)}", f"optim.lr_d={min(10.0, setup.rate * d)}")


def _jump(setup: Setup) -> tuple[str, ...]:
    begin = int(BAD_FROM * setup.images)
    move = f"{{start: {setup.rate}, end: {100 * setup.rate}, begin: {begin}, over: 1}}"
    return f"optim.lr_g={move}", f"optim.lr_d={move}"


class Wrapped:
    """Base of the sources that change the examples of another source.

    Args:
        source: the data set to read from.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.shape, self.num_classes = source.shape, source.num_classes


class OneClass(Wrapped):
    """Yields examples of class 0 only, taken from a larger read of the wrapped source."""

    def class_of(self, start: int, stop: int) -> int:
        """The class of the rows from `start` to `stop`."""
        return 0

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """As `Source.read`."""
        factor = 4 * self.num_classes
        examples, labels = self._source.read(start * factor, stop * factor)
        assert labels is not None, "a source with classes"
        rows = (labels == self.class_of(start, stop)).nonzero().squeeze(1)
        rows = rows[torch.arange(stop - start) % len(rows)]
        return examples[rows], labels[rows]


class ByClass(OneClass):
    """Yields batches of one class each, as unshuffled files do."""

    def class_of(self, start: int, stop: int) -> int:
        """One class per batch, in cyclic order."""
        return start // (stop - start) % self.num_classes


class Damaged(Wrapped):
    """Sets one example of every read to NaN, from a position on.

    Args:
        source: the data set to read from.
        begin: first affected position, in images.
    """

    def __init__(self, source: Source, begin: int) -> None:
        super().__init__(source)
        self._begin = begin

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """As `Source.read`."""
        examples, labels = self._source.read(start, stop)
        if start >= self._begin:
            examples = examples.clone()
            examples[0] = torch.nan
        return examples, labels


def _without_noise(experiment: Experiment) -> None:
    """Replace z by zeros for the generator and its moving average, in training and in evaluations."""
    for network in (experiment.state.generator, experiment.state.ema.module):
        network.register_forward_pre_hook(lambda _, inputs: (torch.zeros_like(inputs[0]), *inputs[1:]))


def _one_class(experiment: Experiment) -> None:
    experiment.sampler.source = OneClass(experiment.sampler.source)


def _by_class(experiment: Experiment) -> None:
    experiment.sampler.source = ByClass(experiment.sampler.source)


def _damage(experiment: Experiment) -> None:
    begin = int(BAD_FROM * experiment.config.train.images)
    experiment.sampler.source = Damaged(experiment.sampler.source, begin)


def _is_critic(setup: Setup) -> bool:
    return "loss.name=wasserstein" in setup.overrides


def _is_cross_entropy(setup: Setup) -> bool:
    """Whether the objective is cross-entropy, so that `minimax` can replace it."""
    return not any(override.startswith("loss.name=") for override in setup.overrides)


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("rates-x100", "both learning rates times 100", _rates(100, 100)),
        Fault("rates-jump", "both learning rates times 100 from half of the run on", _jump),
        Fault("fast-g", "G's learning rate times 50", _rates(50, 1)),
        Fault("frozen-d", "D does not learn (rate 1e-12)", lambda s: ("optim.lr_d=1e-12", f"optim.lr_g={s.rate}")),
        Fault("slow-d", "D learns a thousand times slower than G", lambda s: (f"optim.lr_d={s.rate / 1000}",)),
        Fault("no-noise", "G gets zeros instead of z", wrap=_without_noise),
        Fault("one-class", "the data set yields one class only", wrap=_one_class),
        Fault(
            "batch-norm-leak",
            "batches of one class each, and batch norm in D",
            lambda _: ("model.discriminator.norm=batch", "model.discriminator.spectral_norm=false"),
            _by_class,
            fits=lambda setup: "r3gan" not in setup.name,  # R3GAN has no norm layers
        ),
        Fault(
            "no-penalty",
            "WGAN without gradient penalty and without clipping",
            lambda _: ("penalty.gp=0",),
            fits=_is_critic,
        ),
        Fault(
            "strong-d",
            "D's rate times 10, G's divided by 10, five D updates, no penalty",
            lambda s: (*_rates(0.1, 10)(s), "optim.d_steps=5", "penalty.r1=0", "penalty.r2=0"),
            fits=lambda setup: not _is_critic(setup),
        ),
        Fault(
            "saturating",
            "the saturating loss, D's rate times 5, five D updates, no penalty",
            lambda s: ("loss.name=minimax", *_rates(1, 5)(s), "optim.d_steps=5", "penalty.r1=0"),
            fits=_is_cross_entropy,
        ),
        Fault("damaged-data", "an example of every batch is NaN from half of the run on", wrap=_damage),
    )
}
