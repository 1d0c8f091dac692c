"""What a configuration that must be refused is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bad:
    """One configuration that must be refused.

    Attributes:
        name: of the test.
        key: that the message names; "config" for the file itself.
        value: that the message shows; "" for the path.
        remedy: words that the message must hold after "remedy:".
        yaml: text of the config file; None for none.
        overrides: `section.key=value` arguments.
        file: makes the config file below a folder and returns its path.
    """

    name: str
    key: str
    value: str
    remedy: str
    yaml: str | None = None
    overrides: tuple[str, ...] = ()
    file: Callable[[Path], Path] | None = None

    def arguments(self, folder: Path) -> tuple[Path | None, tuple[str, ...]]:
        """The path of the config file, written below `folder`, and the overrides."""
        if self.file is not None:
            return self.file(folder), self.overrides
        if self.yaml is None:
            return None, self.overrides
        path = folder / "bad.yaml"
        path.write_text(self.yaml, encoding="utf-8")
        return path, self.overrides


def file_bytes(content: bytes) -> Callable[[Path], Path]:
    """A function that writes a file below a folder and returns its path."""

    def make(folder: Path) -> Path:
        path = folder / "bad.yaml"
        path.write_bytes(content)
        return path

    return make


def override(name: str, setting: str, remedy: str, *more: str, value: str | None = None) -> Bad:
    """A bad `section.key=value`, after others that are good; value as the message shows it."""
    key, _, text = setting.partition("=")
    return Bad(name, key, text if value is None else value, remedy, overrides=(*more, setting))


def file_text(name: str, key: str, value: str, remedy: str, yaml: str) -> Bad:
    """A bad file."""
    return Bad(name, key, value, remedy, yaml=yaml)


NUMBER, WHOLE, FINITE = "give a number", "give a whole number", "give a finite number"
