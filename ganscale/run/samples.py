"""Pictures of a run: samples of the generator's moving average from fixed latents, and tables of these."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ganscale.config import DATASETS
from ganscale.data.order import draw
from ganscale.data.source import Finite
from ganscale.inference.interpolate import slerp
from ganscale.inference.neighbors import nearest, pixels
from ganscale.parallel.random import Stream
from ganscale.run.reals import ReducedImages, most, reduced
from ganscale.tracking.images import image_grid, num_shown, scatter, to_pixels
from ganscale.tracking.tables import SampleTable
from ganscale.training.build import Experiment
from ganscale.training.objective import pack

NUM_POINTS = 2500
"""Points in a picture of 2-D samples, as the evaluation of mixtures takes."""
CHUNK = 256
"""Examples per batch of the generator."""
WALKS, STEPS = 4, 8
"""Rows of the interpolation, and images of each."""
MOST_CLASSES, PER_CLASS = 10, 8
"""Rows of the samples by class, and images of each."""


class SampleRenderer:
    """Draws samples, class by class where the networks are conditional.

    Args:
        experiment: the run's objects on this replica.
        info: takes a line for the log.
    """

    def __init__(self, experiment: Experiment, info: Callable[[str], None] = lambda line: None) -> None:
        self._info = info
        config, sampler = experiment.config, experiment.sampler
        self._generator, self._seed = experiment.state.ema.module, config.run.seed
        self._source, self._device, self._uniform = sampler.source, experiment.device, config.model.latent == "uniform"
        self._is_image = len(sampler.source.shape) == 3
        self._shown = slice(num_shown(sampler.source.shape[0]) if experiment.state.scale else None)
        self._count = config.log.num_samples if self._is_image else NUM_POINTS
        self._z = sampler.latents(Stream(config.run.seed, "samples", experiment.device), 0, self._count)
        stream = Stream(config.run.seed, "samples/details", experiment.device)
        self._more = sampler.latents(stream, 0, max(2 * WALKS, PER_CLASS))
        self._experiment = experiment
        self._num_classes = sampler.source.num_classes if sampler.conditional else 0
        self._reference = None if self._is_image else sampler.source.read(0, NUM_POINTS)[0].double().cpu().numpy()

    def render(self) -> np.ndarray:
        """A grid of images or a scatter plot of points: uint8 `[H, W, 3]`."""
        labels = self._labels(torch.arange(self._count, device=self._device))
        samples = self._make(self._z, labels)
        return image_grid(samples) if self._reference is None else scatter(samples, self._reference)

    def details(self, *, first: bool) -> dict[str, np.ndarray]:
        """Further pictures by name, for images only: `interpolation`, `classes` and `real`.

        Args:
            first: whether to draw `real`.
        """
        if not self._is_image:
            return {}
        pictures = {"interpolation": self._interpolation()}
        if self._num_classes:
            pictures["classes"] = self._classes()
        if first:
            pictures["real"] = self._real()
        return pictures

    def table(self) -> SampleTable:
        """The first `log.table_samples` images of the grid with what is known of each."""
        count = self._experiment.config.log.table_samples
        labels = self._labels(torch.arange(count, device=self._device))
        samples = torch.from_numpy(self._make(self._z[:count], labels))
        pictures, distances, rows = self._nearest(samples)
        classes = [] if labels is None else self._class_names(labels.tolist())
        return SampleTable(
            to_pixels(samples.numpy()), classes, self._logits(samples, labels), pictures, distances, rows
        )

    def _nearest(self, samples: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nearest of `log.table_reals` real images: pictures, distances, rows; none of an infinite set."""
        source, config = self._source, self._experiment.config
        if not isinstance(source, Finite) or not config.log.table_reals:
            empty = np.empty(0)
            return np.empty((0, 1, 1, 3), np.uint8), empty, empty.astype(np.int64)
        finite, mirror = samples.nan_to_num(0.0, 0.0, 0.0), config.data.mirror
        rows = self._among[nearest(reduced(finite), self._reals, 1, mirror=mirror).rows[:, 0]]
        pictures, distances = [], []
        for sample, row in zip(finite.split(1), rows.split(1), strict=True):  # one at a time: they may be large
            real = source.gather(row)[0].double().cpu()
            sides = (real, real.flip(3)) if mirror else (real,)
            distances.append(min(float(pixels(sample - side).norm()) for side in sides))
            pictures.append(to_pixels(real.numpy()))
        return np.concatenate(pictures), np.array(distances), rows.numpy()

    @cached_property
    def _reals(self) -> ReducedImages:
        """The images of `_among`."""
        assert isinstance(self._source, Finite), "only a finite set has rows"
        return ReducedImages(self._source, self._among)

    @cached_property
    def _among(self) -> Tensor:
        """Rows of the training set among which the nearest are searched, int64 `[M]`."""
        assert isinstance(self._source, Finite), "only a finite set has rows"
        total, wanted = self._source.num_images, self._experiment.config.log.table_reals
        count = min(wanted, total, bound := most(self._source.shape))
        if count == bound < min(wanted, total):
            self._info(f"tables of samples search {count:,} real images of this size, not log.table_reals = {wanted:,}")
        return draw(total, count, seed=self._seed, stream="samples/table").cpu().sort().values

    @torch.no_grad()
    def _logits(self, samples: Tensor, labels: Tensor | None) -> np.ndarray:
        """D's logits in eval mode, where it waits for no other worker; with packing of whole packs, the rest NaN."""
        experiment, packing = self._experiment, self._experiment.config.model.packing
        discriminator, whole = experiment.state.discriminator, len(samples) // packing * packing
        logits = np.full(len(samples), np.nan)
        eager = torch.compiler.set_stance("force_eager") if experiment.config.train.compile else nullcontext()
        if whole:
            x = pack(samples[:whole].to(self._z), packing)
            given = None if labels is None else labels[:whole:packing]
            with eager, _in_eval_mode(discriminator), experiment.step.autocast():
                logits[:whole] = discriminator(x, given).double().cpu().repeat_interleave(packing).numpy()
        return logits

    def _class_names(self, labels: list[int]) -> list[str | int]:
        names = getattr(self._source, "class_names", ()) or DATASETS[self._experiment.config.data.name].class_names
        return [names[label] if names else label for label in labels]

    def _interpolation(self) -> np.ndarray:
        """A row per pair of latents, by slerp for normal z, straight for uniform z."""
        starts, ends = (z.unsqueeze(1) for z in self._more[: 2 * WALKS].split(WALKS))
        share = torch.linspace(0.0, 1.0, STEPS, dtype=starts.dtype, device=self._device).view(1, -1, 1)
        shape = (WALKS, STEPS, starts.shape[2])
        between = torch.lerp if self._uniform else slerp
        z = between(starts.expand(shape), ends.expand(shape), share.expand(WALKS, STEPS, 1))
        labels = self._labels(torch.arange(WALKS, device=self._device).repeat_interleave(STEPS))
        return image_grid(self._make(z.reshape(WALKS * STEPS, -1), labels), columns=STEPS)

    def _classes(self) -> np.ndarray:
        """A row per class, the same latents in each."""
        rows = min(self._num_classes, MOST_CLASSES)
        labels = torch.arange(rows, device=self._device).repeat_interleave(PER_CLASS)
        return image_grid(self._make(self._more[:PER_CLASS].repeat(rows, 1), labels), columns=PER_CLASS)

    def _real(self) -> np.ndarray:
        """As many real examples as samples."""
        source = self._source
        if isinstance(source, Finite):
            rows = draw(source.num_images, min(self._count, source.num_images), seed=self._seed, stream="samples/real")
            images = source.gather(rows)[0]
        else:
            images = source.read(0, self._count)[0]
        return image_grid(images[:, self._shown].double().cpu().numpy())

    def _labels(self, numbers: Tensor) -> Tensor | None:
        """Classes in turn; None where the networks get no labels."""
        return numbers % self._num_classes if self._num_classes else None

    @torch.no_grad()
    def _make(self, z: Tensor, labels: Tensor | None) -> np.ndarray:
        parts = [slice(start, start + CHUNK) for start in range(0, len(z), CHUNK)]
        chunks = [self._generator(z[part], None if labels is None else labels[part])[:, self._shown] for part in parts]
        return torch.cat(chunks).double().cpu().numpy()


@contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Switch all modules to eval mode, and each back to what it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
