"""The one error a user can cause: it names the key, the value and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """A setting that cannot work, found before training starts.

    `str()` of it is one short message; the command lines print it and end with exit code 2.
    """

    def __init__(self, message: str, *, key: str = "", value: object = None, remedy: str = "") -> None:
        self.key = key
        self.value = value
        self.remedy = remedy
        subject = f"{key} = {shown(value)}: " if key else ""
        super().__init__(f"{subject}{message}" + (f"\n  remedy: {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the finished message when the error crosses a process boundary (Ray pickles it)."""
        return (_rebuild, (self.args[0], self.key, self.value, self.remedy))


def _rebuild(text: str, key: str, value: object, remedy: str) -> ConfigError:
    error = ConfigError(text)
    error.key, error.value, error.remedy = key, value, remedy
    return error


def shown(value: object) -> str:
    """A value as a user would write it in YAML, cut to 80 characters."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif value is None:
        text = "null"
    elif isinstance(value, str):
        text = value if value.strip() == value and value else repr(value)
    else:
        text = str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest known word as a remedy, or the list of all of them."""
    known = sorted(known)
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"use one of: {', '.join(known)}"
