"""The names of architectures and losses that a config may hold, and the schema that follows from them.

`ganscale.training.register` adds to the dicts; what a config names is then settings of the new classes as well.
"""

from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Union

from pydantic import Field, create_model

from ganscale.config.architectures import (
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    R3GANDiscriminator,
    R3GANGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
)
from ganscale.config.objective import Loss
from ganscale.config.schema import Config, Model
from ganscale.config.section import Section


class LossFacts(NamedTuple):
    """What the checks ask of an objective: has it labels to smooth, and a logit above which D says real?"""

    has_labels: bool = False
    has_boundary: bool = True


GENERATORS: dict[str, type[Section]] = {
    "mlp": MLPGenerator,
    "dcgan": DCGANGenerator,
    "resnet": ResNetGenerator,
    "r3gan": R3GANGenerator,
}
DISCRIMINATORS: dict[str, type[Section]] = {
    "mlp": MLPDiscriminator,
    "dcgan": DCGANDiscriminator,
    "resnet": ResNetDiscriminator,
    "r3gan": R3GANDiscriminator,
}
LOSSES: dict[str, LossFacts] = {
    "non_saturating": LossFacts(has_labels=True),
    "minimax": LossFacts(has_labels=True),
    "least_squares": LossFacts(has_labels=True),
    "hinge": LossFacts(),
    "wasserstein": LossFacts(has_boundary=False),
    "relativistic_pairing": LossFacts(has_boundary=False),
    "relativistic_average": LossFacts(has_boundary=False),
}
BUILT_IN = frozenset(GENERATORS)
"""Architectures of the package, whose settings are checked against the data."""


def named(settings: type[Section], name: str) -> type[Section]:
    """The class of settings with a field `name` that holds this name and no other."""
    field: Any = (Literal[name], Field(default=name, description="Architecture."))
    return create_model(settings.__name__, __base__=settings, __doc__=settings.__doc__, name=field)


def schema() -> type[Config]:
    """`Config` as it is, or a subclass that also accepts the names that were added."""
    return _schema(tuple(GENERATORS.values()), tuple(DISCRIMINATORS.values()), tuple(LOSSES))


@lru_cache(maxsize=8)
def _schema(
    generators: tuple[type[Section], ...], discriminators: tuple[type[Section], ...], losses: tuple[str, ...]
) -> type[Config]:
    if (generators, discriminators, losses) == _AT_FIRST:
        return Config
    sides = {"generator": generators, "discriminator": discriminators}
    model = create_model("Model", __base__=Model, **{side: _union(side, sides[side]) for side in sides})
    old = Loss.model_fields["name"]
    name: Any = (Literal[losses], Field(default=old.default, description=old.description))
    loss = create_model("Loss", __base__=Loss, __doc__=Loss.__doc__, name=name)
    sections: dict[str, Any] = {
        key: (section, Field(default=section(), description=Config.model_fields[key].description))
        for key, section in (("model", model), ("loss", loss))
    }
    return create_model("Config", __base__=Config, **sections)


def _union(side: str, options: tuple[type[Section], ...]) -> Any:
    field = Model.model_fields[side]
    union = Annotated[Union[options], Field(discriminator="name")]  # noqa: UP007 (options are known at run time only)
    return union, Field(default=field.default, description=field.description)


_AT_FIRST = (tuple(GENERATORS.values()), tuple(DISCRIMINATORS.values()), tuple(LOSSES))
