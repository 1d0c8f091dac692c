"""What every section of the config is made of."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A frozen group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


def is_conditional(settings: object) -> bool:
    """Whether a network with these settings is shown labels; those of a user's own network need not have the key.

    Args:
        settings: of a generator or a discriminator.
    """
    return getattr(settings, "conditioning", "none") != "none"


def whole(value: object) -> object:
    """Read `1e6` as the whole number it is; leave anything else to the strict check.

    Args:
        value: as YAML has it.
    """
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value


def as_tuple(value: object) -> object:
    """YAML has lists, not tuples; leave anything else to the strict check.

    Args:
        value: as YAML has it.
    """
    return tuple(value) if isinstance(value, list) else value


def listed(value: object) -> object:
    """As `as_tuple`, and one text alone is a list of one.

    Args:
        value: as YAML has it.
    """
    return (value,) if isinstance(value, str) else as_tuple(value)


Count = Annotated[int, BeforeValidator(whole)]
"""A whole number; `1e6` is one."""
