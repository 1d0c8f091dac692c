"""What every table of named things needs: references to code, choices in the config, look-ups that never fall through.

A table is a plain dict, name to entry; an entry is a frozen dataclass that holds everything about the thing. Heavy code
stands in it as a reference "package.module:name", so that reading a table imports no torch.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticKnownError
from pydantic_core.core_schema import no_info_before_validator_function

from ganscale.config.errors import ConfigError, did_you_mean

T = TypeVar("T")
Function = Callable[..., Any] | str
"""A callable, or a reference to one."""


def resolve(reference: Any) -> Any:
    """What a reference names, imported when it is first asked for; anything but a text is returned as it is.

    Args:
        reference: "package.module:name", or the thing itself.

    Raises:
        ValueError: a text of another form.
        ImportError, AttributeError: there is no such module or name.
    """
    return _load(reference) if isinstance(reference, str) else reference


@cache
def _load(reference: str) -> Any:
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", reference):
        raise ValueError(f"{reference!r} is no reference: write package.module:name")
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def find(table: Mapping[str, T], name: str, *, key: str) -> T:
    """The entry of a name.

    Args:
        table: where to look.
        name: of the entry.
        key: of the setting that holds the name, for the message.

    Raises:
        ConfigError: there is no such entry.
    """
    if name not in table:
        raise ConfigError("unknown name", key=key, value=name, remedy=did_you_mean(str(name), table))
    return table[name]


class Choice:
    """Annotation of a text field: one of a table's names, also of those that are registered later.

    Args:
        table: by name.
        others: words that are allowed besides.
    """

    def __init__(self, table: Mapping[str, Any], *others: str) -> None:
        self.table, self.others = table, others

    @property
    def words(self) -> tuple[str, ...]:
        """All that is allowed."""
        return (*self.others, *self.table)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self._check, handler(source))

    def _check(self, value: object) -> object:
        if not isinstance(value, str) or value not in self.words:
            raise PydanticKnownError("literal_error", {"expected": ", ".join(map(repr, self.words))})
        return value
