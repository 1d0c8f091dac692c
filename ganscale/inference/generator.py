"""A trained generator, ready to use, and how it is rebuilt from its description and its weights.

The image of a seed is a function of the seed alone. Its z is row `seed` of a random stream, and the network always
processes blocks of `LANES` rows with the seed at row `seed % LANES`: matrix products of other sizes round differently,
so without fixed blocks the last bits would depend on which other images are requested together with it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ganscale.config import Config, ConfigError
from ganscale.config.networks import GENERATORS, named
from ganscale.inference.averages import Average
from ganscale.models import Geometry
from ganscale.models.layers import latent_averages
from ganscale.parallel.random import Stream
from ganscale.training.batches import latents

LANES = 32
"""Rows of every batch that the network processes."""

MAX_SEED = 2**48
"""Seeds lie below it, so that no two of them share random words at any latent_dim."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Description:
    """Everything except the weights that is needed to rebuild a generator.

    Attributes:
        generator: the architecture's settings as in `model.generator`, with its name.
        latent_dim: length of z.
        latent: "normal" (standard normal) or "uniform" (on [-1, 1]).
        shape: of one example: `(C, H, W)` for images, `(2,)` for points.
        num_classes: classes of the labels; 0 if the generator takes none.
        dtype: of weights and results, "float32" or "float64".
        data: name of the data set that it was trained on.
        run: name of the run that it comes from.
        images: images seen by the run so far.
        sha256: of the checkpoint's state, or empty; of a reconstructed average, of that and how it was made.
        scale: of latents (`data.latents.LatentSource`); else empty.
    """

    generator: dict[str, Any]
    latent_dim: int
    latent: str
    shape: tuple[int, ...]
    num_classes: int
    dtype: str
    data: str
    run: str
    images: int
    sha256: str
    scale: tuple[tuple[float, float], ...] = ()

    @property
    def is_image(self) -> bool:
        """Images lie in [-1, 1]; points and latents are unbounded."""
        return len(self.shape) == 3 and not self.scale

    def to_json(self) -> dict[str, Any]:
        """Plain mappings, lists, texts and numbers."""
        found = {**asdict(self), "shape": list(self.shape)}
        return found if self.scale else {name: value for name, value in found.items() if name != "scale"}


class LoadedGenerator(nn.Module):
    """The moving average of a trained generator, in eval mode and without gradients.

    Args:
        network: maps z `[N, latent_dim]` and labels to examples `[N, *shape]`.
        description: its architecture, data and origin.
        config: of the run that it comes from; None when it was loaded from an export.

    Attributes:
        latent_dim: length of z.
        latent: "normal" or "uniform".
        num_classes: classes of the labels, 0 if it takes none.
        shape: of one example: `(C, H, W)` for images, `(2,)` for points.
        average: how the weights were reconstructed, if they were (`load_generator(ema=...)`).
    """

    average: Average | None = None

    def __init__(self, network: nn.Module, description: Description, config: Config | None = None) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.description = description
        self.config = config
        self.latent_dim = description.latent_dim
        self.latent = description.latent
        self.num_classes = description.num_classes
        self.shape = description.shape
        self.dtype = DTYPES[description.dtype]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def truncates_w(self) -> bool:
        """Whether truncation moves w towards its average (StyleGAN2) instead of z towards 0."""
        return bool(latent_averages(self.network))

    @property
    def can_truncate(self) -> bool:
        """Whether truncation has an effect: not where the network divides z by its size and has no average of w."""
        return self.truncates_w or not getattr(self.network, "normalizes_z", False)

    def forward(self, z: Tensor, labels: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """The network itself: z `[N, latent_dim]` and classes int64 `[N]` to examples `[N, *shape]`, not clipped.

        Args:
            z: latents.
            labels: classes; None for a generator without.
            truncation: psi, as in `sample`.
        """
        if truncation != 1.0 and self.truncates_w:
            return self.network(z, labels, truncation=truncation)
        z = z if truncation == 1.0 else z * truncation
        return self.network(z, labels) if self.num_classes else self.network(z)

    def latents(self, seeds: Iterable[int]) -> Tensor:
        """z of each seed on the CPU: `[N, latent_dim]`, standard normal or uniform on [-1, 1]."""
        stream = Stream(0, "generate/latent")
        rows = [
            latents(stream, self.latent, self.latent_dim, start, stop, self.dtype) for start, stop in _ranges(seeds)
        ]
        return torch.cat(rows) if rows else torch.empty(0, self.latent_dim, dtype=self.dtype)

    def sample(
        self, seeds: int | Iterable[int], labels: int | Sequence[int] | Tensor | None = None, truncation: float = 1.0
    ) -> Tensor:
        """Examples of seeds; each depends on its seed, its label and `truncation` alone.

        Args:
            seeds: of the examples, each from 0 to 2^48 - 1; a number N stands for the seeds 0 to N - 1.
            labels: a class for all, or one per seed; by default `seed % num_classes`. Only for conditional generators.
            truncation: psi in [0, 1] of the truncation trick: less variety for more typical examples. With StyleGAN2
                w' = mean(w) + psi (w - mean(w)) (Karras et al. 2019, appendix B), else z' = psi z; 1 as in training.

        Returns:
            Images `[N, C, H, W]` in [-1, 1] (clipped), latents as the autoencoder takes them, or points `[N, 2]` as
            they are, on the generator's device.

        Raises:
            ValueError: a seed, a label or `truncation` lies outside its range, or the lengths differ.
        """
        chosen = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]
        for seed in chosen:
            if not 0 <= seed < MAX_SEED:
                raise ValueError(f"seed {seed} is not in 0 to 2^48 - 1")
        if not 0.0 <= truncation <= 1.0:
            raise ValueError(f"truncation {truncation} is not in [0, 1]")
        lanes = [seed % LANES for seed in chosen]
        return self.decode(self.latents(chosen), self.classes(chosen, labels), lanes=lanes, truncation=truncation)

    def classes(self, seeds: Sequence[int], labels: int | Sequence[int] | Tensor | None = None) -> Tensor | None:
        """The class of each seed: int64 `[N]`, or None without classes. Arguments and errors: `sample`."""
        if not self.num_classes:
            if labels is not None:
                raise ValueError("labels are given, but this generator takes none")
            return None
        if labels is None:
            chosen = [seed % self.num_classes for seed in seeds]
        elif isinstance(labels, int):
            chosen = [labels] * len(seeds)
        else:
            chosen = [int(label) for label in labels]
        if len(chosen) != len(seeds):
            raise ValueError(f"{len(chosen)} labels for {len(seeds)} seeds")
        for label in chosen:
            if not 0 <= label < self.num_classes:
                raise ValueError(f"label {label} is not in 0 to {self.num_classes - 1}")
        return torch.tensor(chosen, dtype=torch.int64)

    @torch.no_grad()
    def decode(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        lanes: Sequence[int] | None = None,
        truncation: float = 1.0,
    ) -> Tensor:
        """Examples of latents, computed in blocks of `LANES` rows.

        Args:
            z: `[N, latent_dim]`.
            labels: classes int64 `[N]`; None for a generator without classes.
            lanes: row of its block at which each example is computed, in [0, LANES); by default consecutive rows.
            truncation: psi, as in `sample`.

        Returns:
            Images `[N, C, H, W]` in [-1, 1] (clipped), latents as the autoencoder takes them, or points `[N, 2]`.
        """
        lanes = [row % LANES for row in range(len(z))] if lanes is None else lanes
        examples = self.in_blocks(
            lambda z, labels: self(z, labels, truncation), lanes, z.to(self.dtype), labels, shape=self.shape
        )
        if self.description.scale:
            zero, one = examples.new_tensor(self.description.scale).T[:, :, None, None]
            return zero + one * examples
        return examples.clamp(-1.0, 1.0) if self.description.is_image else examples

    @torch.no_grad()
    def in_blocks(
        self, function: Callable[..., Tensor], lanes: Sequence[int], *inputs: Tensor | None, shape: tuple[int, ...]
    ) -> Tensor:
        """What a function makes of each row, computed in blocks of `LANES` rows: `[N, *shape]`.

        Args:
            function: of this generator's network, from `inputs` to one result per row.
            lanes: row of its block at which each row is computed, in [0, LANES).
            inputs: `[N, ...]` each; None stays None.
            shape: of one result.
        """
        places = list(_places(lanes))
        at = torch.tensor(places, dtype=torch.int64)
        size = -(-(max(places) + 1) // LANES) * LANES if places else 0
        padded: list[Tensor | None] = []
        for each in inputs:
            rows = None if each is None else torch.zeros(size, *each.shape[1:], dtype=each.dtype)
            padded.append(None if rows is None or each is None else rows.index_copy(0, at, each.cpu()).to(self.device))
        results = [
            function(*(None if each is None else each[start : start + LANES] for each in padded))
            for start in range(0, size, LANES)
        ]
        whole = torch.cat(results) if results else torch.empty(0, *shape, dtype=self.dtype, device=self.device)
        return whole.index_select(0, at.to(self.device))


def rebuild(
    description: Description,
    weights: dict[str, Tensor],
    config: Config | None = None,
    device: torch.device | str = "cpu",
) -> LoadedGenerator:
    """Build the described network and load its weights.

    Args:
        description: of the generator.
        weights: its state dict.
        config: of the run that it comes from; None if unknown.
        device: where it computes.

    Raises:
        ConfigError: the architecture is unknown here, or the weights do not fit it.
    """
    network = build_network(description)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).partition("\n")[2].strip().partition("\n")[0]
        raise ConfigError(
            f"the weights do not fit the architecture: {reason}",
            key="model.generator.name",
            value=description.generator.get("name"),
            remedy="load it with the code that trained it",
        ) from None
    return LoadedGenerator(network.to(device), description, config)


def build_network(description: Description) -> nn.Module:
    """The described generator with initial weights.

    Args:
        description: of the generator; its weights are not part of it.

    Raises:
        ConfigError: the architecture or one of its settings is unknown here.
    """
    name = description.generator.get("name")
    remedy = f"add it with ganscale.register first; known here: {', '.join(GENERATORS)}"
    if name not in GENERATORS:
        raise ConfigError("unknown architecture", key="model.generator.name", value=name, remedy=remedy)
    try:
        settings = named(GENERATORS[name].settings, name).model_validate_json(json.dumps(description.generator))
        geometry = Geometry(description.shape, description.latent_dim, description.num_classes)
        with torch.random.fork_rng(devices=[]):
            network = GENERATORS[name].make(settings, geometry)
    except (ValidationError, ValueError) as error:
        reason = str(error).replace("\n", " ")[:200]
        remedy = "load it with the version of ganscale that wrote it"
        raise ConfigError(
            f"cannot be built ({reason})", key="model.generator.name", value=name, remedy=remedy
        ) from None
    return network.to(DTYPES[description.dtype])


def _ranges(seeds: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Seeds as ranges (start, stop) of successive ones, in order."""
    for _, run in groupby(enumerate(seeds), key=lambda pair: pair[1] - pair[0]):
        own = [seed for _, seed in run]
        yield own[0], own[-1] + 1


def _places(lanes: Iterable[int]) -> Iterator[int]:
    """A distinct row for each example: in the first block whose row `lane` is free."""
    taken: Counter[int] = Counter()
    for lane in lanes:
        yield taken[lane] * LANES + lane
        taken[lane] += 1
