"""The real examples of an evaluation: the reference that samples are compared with, and others that give the floor."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ganscale.config import DATASETS, EXTRACTORS, Config
from ganscale.config.checks import extractor_name
from ganscale.config.datasets import resolution_text
from ganscale.config.table import find, resolve
from ganscale.data import open_source
from ganscale.data.source import Finite, Reader, Source
from ganscale.parallel.random import derive_seed, permutation

READING = 2
"""Of the way in which pictures are read; another one makes what was seen in them before invalid."""


@dataclass(frozen=True)
class Reals:
    """Real examples to look at.

    Attributes:
        num_reference: rows of the reference.
        reference: reads them; they are what the run trains on, in a fixed order.
        held_out: reads as many examples as there are samples, from a set that the run never trains on (drawn with
            replacement where that is smaller); None where there is none: the floor then judges draws from one half
            of the reference by the other half.
        num_training: size of the set that the run trains on; 0 if it is endless.
        training: reads all of it, in its own order; the reference is the same if it is as large.
        identify: gives a text that changes when an example of the reference changes.
        draw: text that changes with the number and the seed of those held out.
    """

    num_reference: int
    reference: Reader
    held_out: Reader | None
    num_training: int
    training: Reader
    identify: Callable[[], str]
    draw: str

    @property
    def identity(self) -> str:
        """Of the reference; reading the data for it may take seconds."""
        return self.identify()

    @property
    def held_out_identity(self) -> str:
        """Of those held out."""
        return f"{self.identify()}{self.draw}"


def make_reals(config: Config, source: Source, *, num_samples: int, seed: int) -> Reals:
    """The real examples for a run's data: the training set of a finite one, else fresh examples.

    Args:
        config: of the run.
        source: its training data, which are read but whose position does not change.
        num_samples: number of samples to be judged.
        seed: of the draws.

    Raises:
        ConfigError: the data set is unknown.
        FileNotFoundError: the test set is not there.
    """
    entry = find(DATASETS, config.data.name, key="data.name")
    if not isinstance(source, Finite):
        return _fresh(config, num_samples, seed)
    count = source.num_images
    if entry.reference_size:
        count = min(count, max(entry.reference_size, num_samples))

    most = EXTRACTORS[extractor_name(config)].max_reference * num_samples
    rows = torch.arange(count)
    if 0 < most < count:
        rows, count = permutation(seed, "evaluation/reference", count)[:most], most

    def reference(start: int, stop: int) -> Tensor:
        return source.gather(rows[start:stop])[0]

    labeled = None if entry.held_out is None else resolve(entry.held_out)(config, num_samples, seed)
    held_out = None if labeled is None else lambda start, stop: labeled(start, stop)[0]
    ending = (f"/{seed}" if most else "") + (f"/{READING}" if entry.has_pictures else "")

    def identify() -> str:
        return f"{config.data.name}/{resolution_text(config.data.resolution)}/{count}/{source.state_hash()}{ending}"

    def training(start: int, stop: int) -> Tensor:
        return source.gather(torch.arange(start, stop))[0]

    draw = f"/{num_samples}/{seed}"
    return Reals(count, reference, held_out, source.num_images, training, identify, draw)


def _fresh(config: Config, num_samples: int, seed: int) -> Reals:
    """Examples of an endless data set that the run never trains on."""

    def fresh(stream: str) -> Reader:
        own = config.run.model_copy(update={"seed": derive_seed(seed, f"evaluation/{stream}")})
        source = open_source(config.model_copy(update={"run": own}), torch.device("cpu"), torch.float64)
        return lambda start, stop: source.read(start, stop)[0]

    identity = f"{config.data.name}/{num_samples}/{seed}"
    reference = fresh("reference")
    return Reals(num_samples, reference, fresh("held_out"), 0, reference, lambda: identity, "")
