"""The tables of architectures: what each is built from, and what its settings must fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Union

from pydantic import Field, create_model

from ganscale.config import architectures as own
from ganscale.config.datasets import Resolution, height_width
from ganscale.config.errors import ConfigError
from ganscale.config.section import Section
from ganscale.config.table import Function, resolve

Check = Callable[[Any, Any, str], None]
"""`(config, settings, key)`: raises `ConfigError` where the settings at `key` contradict each other or the config."""
Unused = dict[str, tuple[str, str]]
"""Settings without effect, whatever their value: dotted key to (problem, remedy)."""


@dataclass(frozen=True)
class Architecture:
    """Everything about a generator or a discriminator.

    Attributes:
        settings: subclass of `Section`, or a reference to one: what can stand below model.generator or discriminator.
        build: `(settings, geometry) -> nn.Module`, often the network's class. A generator maps z `[N, latent_dim]` and
            labels to examples; a discriminator maps examples `[N, ...]` and labels to logits `[N]`.
        checks: of its settings, each as `Check`.
        needs_images: whether it cannot be used with 2-D points.
        is_bounded: whether all images of a generator lie in [-1, 1].
        unused: `(settings, key) -> Unused`, those of the settings at `key` that others leave without effect.
    """

    settings: type[Section] | str
    build: Function
    checks: tuple[Check, ...] = ()
    needs_images: bool = False
    is_bounded: bool = False
    unused: Callable[[Any, str], Unused] | None = None

    def make(self, settings: Any, geometry: Any) -> Any:
        """Build the network.

        Args:
            settings: of the network, an instance of the class `settings`.
            geometry: `ganscale.models.Geometry` of its input or output.
        """
        return resolve(self.build)(settings, geometry)


BIGGAN_CHANNELS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    2: ((4, 4, 4), (4, 4, 4, 4)),
    3: ((4, 4, 4, 4), (4, 4, 4, 4)),
    4: ((16, 16, 8, 4, 2), (1, 2, 4, 8, 16)),
    5: ((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16)),
    6: ((16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16)),
    7: ((16, 16, 8, 8, 4, 2, 1, 1), (1, 1, 2, 4, 8, 8, 16, 16)),
}
"""Multiples of BigGAN's width by the number of doublings from G's smallest map to the image: of G's maps from the
smallest, and after each of D's blocks (Brock et al. 2019, Tables 4, 5 and 6, and their code for 32 and 64 pixels)."""


def map_sides(resolution: Resolution) -> tuple[int, ...]:
    """Heights of the maps from the smallest (its shorter side has 4 to 7 pixels) by doubling up to `resolution`.

    28 gives (7, 14, 28), 32 gives (4, 8, 16, 32) and (48, 32) gives (6, 12, 24, 48), with widths of 4 to 32.

    Args:
        resolution: of the images in pixels.

    Raises:
        ValueError: the shorter side is not 4, 5, 6 or 7 times a power of two from 4, or does not divide the longer
            one as often.
    """
    height, width = height_width(resolution)
    heights = [height]
    while min(height, width) > 7 and height % 2 == width % 2 == 0:
        height, width = height // 2, width // 2
        heights.append(height)
    if not 4 <= min(height, width) <= 7 or len(heights) < 3:
        raise ValueError(f"a resolution must be 4, 5, 6 or 7 times a power of two from 4, not {resolution}")
    return tuple(reversed(heights))


def map_size(height: int, resolution: Resolution) -> tuple[int, int]:
    """Height and width of the map of a height.

    Args:
        height: one of `map_sides`.
        resolution: of the images in pixels.
    """
    whole, width = height_width(resolution)
    return height, height * width // whole


def feature_maps(settings: Any, resolution: Resolution) -> tuple[int, ...]:
    """Heights of the hidden maps of a convolutional architecture, from small to large: where attention can go.

    Args:
        settings: of one of the package's architectures.
        resolution: of the images in pixels.

    Raises:
        ValueError: as `map_sides`, or D's `smallest` is none of them.
    """
    sides = map_sides(resolution)
    if isinstance(settings, own.BigGANDiscriminator):
        return sides[:-1] if len(sides) > 4 else sides[-3:-1]  # it halves small images twice
    shrinks = isinstance(settings, own.ResNetDiscriminator)  # its first block halves the image at once
    if shrinks or isinstance(settings, own.DCGANGenerator | own.DCGANDiscriminator):
        sides = sides[:-1]
    if shrinks and settings.smallest:
        if settings.smallest not in sides:
            raise ValueError(f"there is no map of side {settings.smallest}, only {', '.join(map(str, sides))}")
        sides = sides[sides.index(settings.smallest) :]
    return sides


def feature_levels(settings: Any, resolution: Resolution) -> tuple[list[int], list[int]]:
    """Heights and channels of `feature_maps`: from the largest on each map has twice the channels, up to a bound.

    Args:
        settings: as for `feature_maps`, with `width` and `max_width`.
        resolution: of the images in pixels.
    """
    sides = list(feature_maps(settings, resolution))
    return sides, [min(settings.max_width, settings.width * 2**level) for level in reversed(range(len(sides)))]


def _check_maps(config: Any, settings: Any, key: str) -> None:
    """Check that the network can make the resolution, and has the feature maps that it names (a `Check`)."""
    resolution = config.data.resolution
    try:
        sides = map_sides(resolution)
    except ValueError:
        raise ConfigError(
            f"{key}.name = {settings.name} cannot make this resolution",
            key="data.resolution",
            value=list(resolution) if isinstance(resolution, tuple) else resolution,
            remedy="use 28 or a power of two from 16 (any of 4, 5, 6, 7 times a power of two from 4; of two sides the "
            "shorter, and the longer a multiple of that power), or the mlp architecture",
        ) from None
    if settings.name == "biggan" and len(sides) - 1 not in BIGGAN_CHANNELS:
        remedy = "use at most 7 doublings from a map of 4 to 7 pixels (512 pixels), or another architecture"
        raise ConfigError(
            f"{key}.name = biggan has no such layout", key="data.resolution", value=resolution, remedy=remedy
        )
    try:
        maps = feature_maps(settings, resolution)
    except ValueError:
        raise _no_map(f"{key}.smallest", settings.smallest, sides[:-1]) from None
    if getattr(settings, "attention", 0) not in (0, *maps):
        raise _no_map(f"{key}.attention", settings.attention, maps)


def _no_map(key: str, value: int, maps: tuple[int, ...]) -> ConfigError:
    known = ", ".join(str(side) for side in (0, *maps))
    return ConfigError(
        "the network has no feature map of this side", key=key, value=value, remedy=f"use one of {known}"
    )


def _check_groups(config: Any, settings: Any, key: str) -> None:
    """Check that the groups of R3GAN's convolutions divide their channels (a `Check`)."""
    for level in range(len(map_sides(config.data.resolution))):
        inside = min(settings.max_width, settings.width * 2**level) * settings.expansion
        if inside % settings.group_size:
            raise ConfigError(
                f"does not divide the {inside} channels in a block (width * expansion, at most max_width * expansion)",
                key=f"{key}.group_size",
                value=settings.group_size,
                remedy="make width and max_width times expansion multiples of it",
            )


def _check_units(config: Any, settings: Any, key: str) -> None:
    """Check that a fully connected network has no instance normalization (a `Check`)."""
    if settings.norm == "instance":
        raise ConfigError(
            "an mlp has one number per channel: instance normalization would make all of them zero",
            key=f"{key}.norm",
            value="instance",
            remedy="use layer, group, pixel or batch",
        )


def _check_norm(config: Any, settings: Any, key: str) -> None:
    """Check that the norm is exact for any number of workers, and can be conditioned if asked for (a `Check`)."""
    if settings.norm == "local_batch" and config.cluster.num_workers != 1:
        raise ConfigError(
            "statistics of each worker's own images make the result depend on the number of workers",
            key=f"{key}.norm",
            value=settings.norm,
            remedy="use norm: batch (statistics over all workers, exact) or cluster.num_workers: 1",
        )
    if settings.norm == "none" and settings.conditioning == "norm":
        raise ConfigError(
            f"{key}.norm = none has no scales and shifts to condition",
            key=f"{key}.conditioning",
            value="norm",
            remedy=f"use concat, or set {key}.norm",
        )


def _check_tokens(config: Any, settings: Any, key: str) -> None:
    """Check that a transformer's patches, heads and levels divide what they are to divide (a `Check`)."""
    height, width = height_width(config.data.resolution)
    for name, whole, what in (
        ("patch", height, "the images' height"),
        ("patch", width, "the images' width"),
        ("heads", settings.width, f"{key}.width"),
        ("levels", settings.depth, f"{key}.depth"),
    ):
        value, times = getattr(settings, name, 1), 4 if name == "heads" else 1
        if whole % (times * value):
            problem = f"{what} = {whole} is not a multiple of {'4 times ' * (times == 4)}it"
            divisors = [str(n) for n in range(1, whole + 1) if whole % (times * n) == 0]
            remedy = f"use one of {', '.join(divisors)}" if divisors else f"make {what} a multiple of 4"
            raise ConfigError(problem, key=f"{key}.{name}", value=value, remedy=remedy)


def _check_parts(config: Any, settings: Any, key: str) -> None:
    """Check that each part of a hierarchical z has a number (a `Check`)."""
    num_parts = len(map_sides(config.data.resolution))
    if settings.hierarchical and config.model.latent_dim < num_parts:
        raise ConfigError(
            f"z cannot be split into {num_parts} parts, one for the first layer and one for each block",
            key="model.latent_dim",
            value=config.model.latent_dim,
            remedy=f"use at least {num_parts}, best a multiple of it, or {key}.hierarchical = false",
        )


def _check_mixing(config: Any, settings: Any, key: str) -> None:
    """Check that the second latents of style mixing are like the first (a `Check`)."""
    if settings.style_mixing and config.model.latent != "normal":
        raise ConfigError(
            "style mixing draws its second latents from the normal distribution",
            key=f"{key}.style_mixing",
            value=settings.style_mixing,
            remedy="use 0, or model.latent: normal",
        )


def _unused(settings: Any, key: str) -> Unused:
    """Settings of a form of conditioning or of attention that is not chosen (`Architecture.unused`)."""
    of_classes = ("concat",) if key.endswith("generator") else ("reacgan", "bilinear")
    found: Unused = {}
    for name, other, uses in (
        ("class_dim", "conditioning", of_classes),
        ("conditional_output", "conditioning", ("norm",)),
        ("head_width", "conditioning", ("projection",)),
        ("attention_form", "attention", ()),
    ):
        chosen = getattr(settings, other, None)
        if hasattr(settings, name) and (chosen not in uses if uses else not chosen):
            remedy = f"leave it out, or set {key}.{other}{f'={uses[0]}' if uses else ''}"
            found[f"{key}.{name}"] = f"{key}.{other} = {chosen} does not use it", remedy
    return found


_AT = "ganscale.models"
_OWN: Any = {"unused": _unused}
_IMAGES: Any = {"needs_images": True} | _OWN
_TANH: Any = {"is_bounded": True} | _IMAGES
_UNITS, _MAPS, _GROUPS = (_check_norm, _check_units), (_check_maps, _check_norm), (_check_maps, _check_groups)

GENERATORS: dict[str, Architecture] = {
    "mlp": Architecture(own.MLPGenerator, f"{_AT}.mlp:MLPGenerator", _UNITS, is_bounded=True, **_OWN),
    "dcgan": Architecture(own.DCGANGenerator, f"{_AT}.dcgan:DCGANGenerator", _MAPS, **_TANH),
    "resnet": Architecture(own.ResNetGenerator, f"{_AT}.resnet:ResNetGenerator", _MAPS, **_TANH),
    "biggan": Architecture(own.BigGANGenerator, f"{_AT}.biggan:BigGANGenerator", (*_MAPS, _check_parts), **_TANH),
    "r3gan": Architecture(own.R3GANGenerator, f"{_AT}.r3gan:R3GANGenerator", _GROUPS, **_IMAGES),
    "stylegan2": Architecture(
        own.StyleGAN2Generator, f"{_AT}.stylegan2:StyleGAN2Generator", (_check_maps, _check_mixing), **_IMAGES
    ),
    "transformer": Architecture(
        own.TransformerGenerator, f"{_AT}.transformer:TransformerGenerator", (_check_tokens,), **_IMAGES
    ),
}
"""Every generator by name."""

DISCRIMINATORS: dict[str, Architecture] = {
    "mlp": Architecture(own.MLPDiscriminator, f"{_AT}.mlp:MLPDiscriminator", _UNITS, **_OWN),
    "dcgan": Architecture(own.DCGANDiscriminator, f"{_AT}.dcgan:DCGANDiscriminator", _MAPS, **_IMAGES),
    "resnet": Architecture(own.ResNetDiscriminator, f"{_AT}.resnet:ResNetDiscriminator", _MAPS, **_IMAGES),
    "biggan": Architecture(own.BigGANDiscriminator, f"{_AT}.biggan:BigGANDiscriminator", _MAPS, **_IMAGES),
    "r3gan": Architecture(own.R3GANDiscriminator, f"{_AT}.r3gan:R3GANDiscriminator", _GROUPS, **_IMAGES),
    "stylegan2": Architecture(
        own.StyleGAN2Discriminator, f"{_AT}.stylegan2_discriminator:StyleGAN2Discriminator", (_check_maps,), **_IMAGES
    ),
    "transformer": Architecture(
        own.TransformerDiscriminator, f"{_AT}.transformer:TransformerDiscriminator", (_check_tokens,), **_IMAGES
    ),
}
"""Every discriminator by name."""


@lru_cache(maxsize=64)
def named(settings: type[Section] | str, name: str) -> type[Section]:
    """The class of settings with a field `name` that holds this name and no other.

    Args:
        settings: the class, or a reference to it, imported here.
        name: of the architecture.
    """
    found = resolve(settings)
    if "name" in found.model_fields and found.model_fields["name"].default == name:
        return found
    field: Any = (Literal[name], Field(default=name, description="Architecture."))
    named: Any = create_model(found.__name__, __base__=found, __doc__=found.__doc__, name=field)
    return named


def settings_classes(table: Mapping[str, Architecture]) -> tuple[type[Section], ...]:
    """The class of settings of every architecture in a table; those given as references are imported.

    Args:
        table: `GENERATORS` or `DISCRIMINATORS`.
    """
    return tuple(named(entry.settings, name) for name, entry in table.items())


def union(classes: tuple[type[Section], ...]) -> Any:
    """The type of a setting that is one of several sections, distinguished by their `name`.

    Args:
        classes: of the sections.
    """
    return Annotated[Union[classes], Field(discriminator="name")]  # noqa: UP007 (known at run time only)
