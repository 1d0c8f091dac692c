"""Settings of the two networks that contradict each other or the data."""

from typing import Any

from ganscale.config.architectures import DiscriminatorSettings, GeneratorSettings, R3GANDiscriminator, R3GANGenerator
from ganscale.config.errors import ConfigError
from ganscale.config.registry import BUILT_IN
from ganscale.config.resolution import feature_maps, map_sides
from ganscale.config.schema import Config
from ganscale.config.section import is_conditional

POINT_DATA = frozenset({"ring", "grid"})
CONVOLUTIONS = "28 or a power of two from 16 (any of 4, 5, 6, 7 times a power of two from 4)"


def check_model(config: Config) -> None:
    """Check the networks against the data, the number of workers and each other.

    Raises:
        ConfigError: for the first contradiction.
    """
    for side in ("generator", "discriminator"):
        settings, key = getattr(config.model, side), f"model.{side}"
        if settings.name not in BUILT_IN:
            continue
        if settings.name != "mlp":
            _check_maps(config, settings, key)
        if isinstance(settings, R3GANGenerator | R3GANDiscriminator):
            _check_groups(config, settings, key)
        _check_norm(config, settings, key)
    _check_conditioning(config.model.generator, config.model.discriminator)


def _check_maps(config: Config, settings: Any, key: str) -> None:
    resolution = config.data.resolution
    if config.data.name in POINT_DATA:
        raise ConfigError(
            f"convolutions cannot make the 2-D points of data.name = {config.data.name}",
            key=f"{key}.name",
            value=settings.name,
            remedy="use mlp",
        )
    try:
        sides = map_sides(resolution)
    except ValueError:
        raise ConfigError(
            f"{key}.name = {settings.name} cannot make this resolution",
            key="data.resolution",
            value=resolution,
            remedy=f"use {CONVOLUTIONS}, or the mlp architecture",
        ) from None
    try:
        maps = feature_maps(settings, resolution)
    except ValueError:
        raise _no_map(f"{key}.smallest", settings.smallest, sides[:-1]) from None
    if settings.attention and settings.attention not in maps:
        raise _no_map(f"{key}.attention", settings.attention, maps)


def _no_map(key: str, value: int, maps: tuple[int, ...]) -> ConfigError:
    known = ", ".join(str(side) for side in (0, *maps))
    return ConfigError(
        "the network has no feature map of this side", key=key, value=value, remedy=f"use one of {known}"
    )


def _check_groups(config: Config, settings: R3GANGenerator | R3GANDiscriminator, key: str) -> None:
    for level in range(len(map_sides(config.data.resolution))):
        inside = min(settings.max_width, settings.width * 2**level) * settings.expansion
        if inside % settings.group_size:
            raise ConfigError(
                f"does not divide the {inside} channels in a block (width * expansion, at most max_width * expansion)",
                key=f"{key}.group_size",
                value=settings.group_size,
                remedy="make width and max_width times expansion multiples of it",
            )


def _check_norm(config: Config, settings: Any, key: str) -> None:
    norm = getattr(settings, "norm", "none")
    if norm == "local_batch" and config.cluster.num_workers != 1:
        raise ConfigError(
            "statistics of each worker's own images make the result depend on the number of workers",
            key=f"{key}.norm",
            value=norm,
            remedy="use norm: batch (statistics over all workers, exact) or cluster.num_workers: 1",
        )
    if norm == "instance" and settings.name == "mlp":
        raise ConfigError(
            "an mlp has one number per channel: instance normalization would make all of them zero",
            key=f"{key}.norm",
            value=norm,
            remedy="use layer, group, pixel or batch",
        )
    if norm == "none" and settings.conditioning == "norm":
        raise ConfigError(
            f"{key}.norm = none has no scales and shifts to condition",
            key=f"{key}.conditioning",
            value="norm",
            remedy=f"use concat, or set {key}.norm" if settings.name != "r3gan" else "use concat",
        )


def _check_conditioning(generator: GeneratorSettings, discriminator: DiscriminatorSettings) -> None:
    conditional = {"generator": is_conditional(generator), "discriminator": is_conditional(discriminator)}
    if len(set(conditional.values())) == 1:
        return
    lacks, other = ("generator", "discriminator") if conditional["discriminator"] else ("discriminator", "generator")
    choice = {"generator": "concat", "discriminator": "projection"}[lacks]
    raise ConfigError(
        f"the {lacks} ignores the classes that the {other} is given",
        key=f"model.{lacks}.conditioning",
        value="none",
        remedy=f"set it to {choice}, or model.{other}.conditioning to none",
    )
