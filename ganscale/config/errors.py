"""The errors that a command reports in one message: invalid settings, and valid requests that fail."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """An invalid setting, found before training starts; commands end with exit code 2.

    Args:
        message: What is wrong.
        key: Dotted name of the setting, or of an argument.
        value: The value as it was given.
        remedy: What to do instead.
    """

    def __init__(self, message: str, *, key: str = "", value: object = None, remedy: str = "") -> None:
        self.key = key
        self.value = value
        self.remedy = remedy
        subject = f"{key} = {shown(value)}: " if key else ""
        super().__init__(f"{subject}{message}" + (f"\n  remedy: {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the finished message when the error crosses a process boundary (Ray pickles it)."""
        return (_rebuild, (type(self), self.args[0], self.key, self.value, self.remedy))


def _rebuild(kind: type[ConfigError], text: str, key: str, value: object, remedy: str) -> ConfigError:
    error = kind(text)
    error.key, error.value, error.remedy = key, value, remedy
    return error


class ExecutionError(RuntimeError):
    """A valid request that fails; commands end with exit code 1."""


def shown(value: object) -> str:
    """Format a value as YAML would; of a long one the first and last characters, 80 in all, so a path keeps its name.

    Args:
        value: Any value of a setting.
    """
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif value is None:
        text = "null"
    elif isinstance(value, str):
        text = value if value.strip() == value and value else repr(value)
    else:
        text = str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else f"{text[:27]}...{text[-50:]}"


SYNONYMS = {
    "fid": ("frechet", " (eval.extractor=inception makes it FID)"),
    "fd_dinov2": ("frechet", " (eval.extractor=dinov2 makes it FD_DINOv2)"),
    "c_t": ("memorization", ""),
    "is": ("inception_score", ""),
    "gan": ("non_saturating", ""),
    "vanilla": ("non_saturating", ""),
    "nsgan": ("non_saturating", ""),
    "lsgan": ("least_squares", ""),
    "wgan": ("wasserstein", " with loss.clip_weights=0.01, or with penalty.gp=10"),
    "wgan_gp": ("wasserstein", " with penalty.gp=10"),
    "rpgan": ("relativistic_pairing", ""),
    "r3gan": ("relativistic_pairing", " with penalty.r1 and penalty.r2"),
    "ragan": ("relativistic_average", ""),
}
"""Names from papers to the name here and what belongs to it."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that is meant, by a synonym or by its letters, or list all of them.

    Args:
        word: What was written.
        known: The valid words.
    """
    known = sorted(known)
    name, note = SYNONYMS.get(word.lower().replace("-", "_"), ("", ""))
    if name in known:
        return f"did you mean {name!r}{note}?"
    near = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"use one of: {', '.join(known)}"
