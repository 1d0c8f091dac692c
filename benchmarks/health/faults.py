"""Faults to inject into healthy runs: by settings where possible, otherwise by wrappers of the data or the latents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from benchmarks.health.setups import Setup
from ganscale.data import Source
from ganscale.training.build import Experiment

Settings = Callable[[Setup], tuple[str, ...]]
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
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


def _jump(share: float) -> Settings:
    """Multiply both learning rates by 100 after a share of the run."""

    def settings(setup: Setup) -> tuple[str, ...]:
        begin = int(share * setup.images)
        move = f"{{start: {setup.rate}, end: {min(10.0, 100 * setup.rate)}, begin: {begin}, over: 1}}"
        return f"optim.lr_g={move}", f"optim.lr_d={move}"

    return settings


def _eager_d(setup: Setup) -> tuple[str, ...]:
    """Let D learn quickly and unpunished."""
    return (*_rates(1, 3)(setup), "penalty.r1=0", "penalty.r2=0", "penalty.dragan=0")


class Wrapped:
    """Base of the sources that change the examples of another source.

    Args:
        source: the data set to read from.
        length: of the run, in images.
    """

    def __init__(self, source: Source, length: int) -> None:
        self._source, self._length = source, length
        self.shape, self.num_classes = source.shape, source.num_classes

    def _changed(self, examples: Tensor, start: int) -> Tensor:
        """The examples in place of those from position `start` on."""
        raise NotImplementedError

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """As `Source.read`."""
        examples, labels = self._source.read(start, stop)
        return self._changed(examples, start), labels


class FewClasses(Wrapped):
    """Yields examples of some classes only, taken from a larger read of the wrapped source."""

    def classes(self, start: int, stop: int) -> Sequence[int]:
        """The classes of the rows from `start` to `stop`: only the first."""
        return (0,)

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """As `Source.read`."""
        factor = 4 * self.num_classes
        examples, labels = self._source.read(start * factor, stop * factor)
        assert labels is not None, "a source with classes"
        wanted = torch.isin(labels, torch.tensor(self.classes(start, stop)))
        rows = wanted.nonzero().squeeze(1)
        rows = rows[torch.arange(stop - start) % len(rows)]
        return examples[rows], labels[rows]


class ByClass(FewClasses):
    """Yields batches of one class each, as unshuffled files do."""

    def classes(self, start: int, stop: int) -> Sequence[int]:
        """One class per batch, in cyclic order."""
        return (start // (stop - start) % self.num_classes,)


class Dwindling(FewClasses):
    """Yields all classes at first, one after the other is lost in the middle half of the run, and two remain."""

    def classes(self, start: int, stop: int) -> Sequence[int]:
        """The first classes; their number falls with the position."""
        share = min(1.0, max(0.0, 2.0 * start / self._length - 0.5))
        return range(round(self.num_classes - share * (self.num_classes - 2)))


class Damaged(Wrapped):
    """Sets one example of every read to NaN, from half of the run on."""

    def _changed(self, examples: Tensor, start: int) -> Tensor:
        if start < BAD_FROM * self._length:
            return examples
        return torch.cat((torch.full_like(examples[:1], torch.nan), examples[1:]))


class Outliers(Wrapped):
    """Every tenth example is ten times too large."""

    def _changed(self, examples: Tensor, start: int) -> Tensor:
        outlier = (torch.arange(start, start + len(examples)) % 10 == 0).view(-1, *[1] * (examples.dim() - 1))
        return torch.where(outlier, 10.0 * examples, examples)


class HalfRange(Wrapped):
    """Scales examples to [0, 1] instead of [-1, 1]."""

    def _changed(self, examples: Tensor, start: int) -> Tensor:
        return (examples + 1.0) / 2.0


class DeadRank(Wrapped):
    """The second half of every batch is zero, as if one of two workers read empty files."""

    def _changed(self, examples: Tensor, start: int) -> Tensor:
        half = len(examples) // 2
        return torch.cat((examples[:half], torch.zeros_like(examples[half:])))


class Repeated(Wrapped):
    """Yields the first `count` examples again and again."""

    count = 16

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """As `Source.read`."""
        rows = torch.arange(start, stop) % self.count
        examples, labels = self._source.read(0, self.count)
        return examples[rows], None if labels is None else labels[rows]


class OnePercent(Repeated):
    """Yields one percent of MNIST's training images again and again, or as many points."""

    count = 600


class Tiny(Repeated):
    """Yields 128 examples again and again: at least as many as most setups' batches, so that these hold no copies."""

    count = 128


class ShuffledLabels(Wrapped):
    """Yields the labels of other examples."""

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """As `Source.read`."""
        return self._source.read(start, stop)[0], self._source.read(start + (1 << 20), stop + (1 << 20))[1]


def _source(change: type[Wrapped]) -> Callable[[Experiment], None]:
    """Wrap the run's data."""

    def wrap(experiment: Experiment) -> None:
        experiment.sampler.source = change(experiment.sampler.source, experiment.config.train.images)

    return wrap


def _latents(scale: float) -> Callable[[Experiment], None]:
    """Scale z for the generator and its moving average, in training and in evaluations."""

    def wrap(experiment: Experiment) -> None:
        for network in (experiment.state.generator, experiment.state.ema.module):
            network.register_forward_pre_hook(lambda _, inputs: (scale * inputs[0], *inputs[1:]))

    return wrap


def _dropout(experiment: Experiment) -> None:
    """Drop 70 % of all inputs of the generator's layers but the first, in training."""
    layers = [module for module in experiment.state.generator.modules() if isinstance(module, LAYERS)]
    for layer in layers[1:]:
        layer.register_forward_pre_hook(lambda _, inputs: (dropout(inputs[0], 0.7), *inputs[1:]))


def _is_critic(setup: Setup) -> bool:
    return setup.has("loss.name=wasserstein")


def _is_cross_entropy(setup: Setup) -> bool:
    """Whether the objective is cross-entropy, so that `minimax` can replace it."""
    return not setup.has("loss.name=")


def _has_norms(setup: Setup) -> bool:
    """Whether D may have batch norm: R3GAN has no norm layers, and penalties need rows that are independent."""
    return "r3gan" not in setup.name and not setup.has("penalty.") and not setup.has("model.packing")


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("rates-x100", "both learning rates times 100", _rates(100, 100)),
        Fault("rates-jump", "both learning rates times 100 from half of the run on", _jump(BAD_FROM)),
        Fault("rates-jump-late", "both learning rates times 100 from 70 % of the run on", _jump(0.7)),
        Fault("fast-g", "G's learning rate times 50", _rates(50, 1)),
        Fault("frozen-d", "D does not learn (rate 1e-12)", lambda s: ("optim.lr_d=1e-12", f"optim.lr_g={s.rate}")),
        Fault("slow-d", "D learns a thousand times slower than G", lambda s: (f"optim.lr_d={s.rate / 1000}",)),
        Fault("momentum", "beta1 0.99", lambda _: ("optim.betas_g=[0.99, 0.999]", "optim.betas_d=[0.99, 0.999]")),
        Fault("no-noise", "G gets zeros instead of z", wrap=_latents(0.0)),
        Fault("large-noise", "G gets z times 30", wrap=_latents(30.0)),
        Fault("dropout", "70 % dropout in G", wrap=_dropout),
        Fault("one-class", "the data set yields one class only", wrap=_source(FewClasses)),
        Fault("mode-dropping", "the data lose class after class, until two remain", wrap=_source(Dwindling)),
        Fault(
            "batch-norm-leak",
            "batches of one class each, and batch norm in D",
            lambda _: ("model.discriminator.norm=batch", "model.discriminator.spectral_norm=false"),
            _source(ByClass),
            fits=_has_norms,
        ),
        Fault(
            "no-penalty",
            "WGAN without gradient penalty and without clipping",
            lambda _: ("penalty.gp=0", "loss.clip_weights=0"),
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
        Fault("damaged-data", "an example of every batch is NaN from half of the run on", wrap=_source(Damaged)),
        Fault("outliers", "every tenth example is ten times too large", wrap=_source(Outliers)),
        Fault("wrong-range", "the data lie in [0, 1]", wrap=_source(HalfRange)),
        Fault("dead-rank", "half of every batch is zero", wrap=_source(DeadRank)),
        Fault("repeated-data", "the data are 16 examples", wrap=_source(Repeated)),
        Fault(
            "few-data",
            "the data are 600 examples, D's rate times 3, no penalty",
            _eager_d,
            _source(OnePercent),
            fits=lambda setup: not _is_critic(setup),
        ),
        Fault(
            "shuffled-labels",
            "each example has the class of another",
            wrap=_source(ShuffledLabels),
            fits=lambda setup: setup.is_conditional,
        ),
        Fault(
            "tiny-data",
            "the data are 128 examples, D's rate times 3, no penalty",
            _eager_d,
            _source(Tiny),
            fits=lambda setup: not _is_critic(setup),
        ),
    )
}


def injected(fault: str, setup: Setup) -> tuple[str, ...]:
    """Overrides that inject a fault into a setup.

    Args:
        fault: name of the fault; empty for none.
        setup: that gets it.
    """
    return FAULTS[fault].settings(setup) if fault else ()
