"""The config reference as text and as Markdown, made from the schema itself."""

from collections.abc import Iterator
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo

from ganscale.config.errors import shown
from ganscale.config.objective import Scheduled
from ganscale.config.schema import schema
from ganscale.config.table import Choice


def rows(section: type[BaseModel] | None = None, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield (dotted key, default, allowed values, description) of every setting.

    Args:
        section: where to start; None for the whole config.
        prefix: of its keys.
    """
    for name, field in (section or schema()).model_fields.items():
        below = [option for option in _options(field) if isinstance(option, type) and issubclass(option, BaseModel)]
        for option in below:
            tag = option.model_fields["name"].default if len(below) > 1 else None
            label = f"{prefix}{name}[{tag}]." if tag else f"{prefix}{name}."
            yield from rows(option, label)
        if not below:
            yield f"{prefix}{name}", _default(field), _allowed(field), _description(field)


def text() -> str:
    """All settings for `--help`, a line each."""
    lines = ["settings (section.key=value; [name] marks the settings of one architecture):"]
    for key, default, allowed, description in rows():
        lines.append(f"  {key}={default}" + (f"  ({allowed})" if allowed else ""))
        lines.append(f"      {description}")
    return "\n".join(lines)


def markdown() -> str:
    """The reference page, a table per section; settings of one architecture are a section of their own."""
    lines = ["# Configuration reference", "", "Made by `python -m ganscale.config.reference`; do not edit."]
    sections: dict[str, list[tuple[str, str, str, str]]] = {}
    for row in rows():
        sections.setdefault(row[0].rpartition(".")[0], []).append(row)
    for section, group in sections.items():
        lines += ["", f"## {section}", "", "| key | default | allowed | what it does |", "| --- | --- | --- | --- |"]
        for row in group:
            key, default, allowed, description = (cell.replace("|", "\\|") for cell in row)
            lines.append(f"| `{key}` | `{default}` | {allowed} | {description} |")
    return "\n".join(lines) + "\n"


def _options(field: FieldInfo) -> tuple[Any, ...]:
    return get_args(field.annotation) or (field.annotation,)


def _default(field: FieldInfo) -> str:
    value = field.default
    return "[" + ", ".join(shown(v) for v in value) + "]" if isinstance(value, tuple) else shown(value)


def _choices(field: FieldInfo) -> list[Choice]:
    """The tables that a field, or the elements of its list, may name."""
    found = [*field.metadata, *(each for option in _options(field) for each in get_args(option))]
    return [each for each in found if isinstance(each, Choice)]


def _description(field: FieldInfo) -> str:
    """The field's own description, and what each name of a table means."""
    names: dict[str, str] = {}
    for choice in _choices(field):
        for name, entry in choice.table.items():
            names[name] = getattr(entry, "meaning", "") or entry.description
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in names.items() if meaning)
    return f"{field.description or ''} {meanings}.".strip() if meanings else field.description or ""


def _allowed(field: FieldInfo) -> str:
    words = [shown(option) for option in _options(field) if isinstance(option, str | int)]
    words += [word for choice in _choices(field) for word in choice.words]
    for option in _options(field):
        words += [shown(word) for word in get_args(option) if isinstance(word, str)]
    signs = {Ge: ">=", Gt: ">", Le: "<=", Lt: "<"}
    bounds = [
        f"{sign} {getattr(bound, kind.__name__.lower())}"
        for bound in field.metadata
        for kind, sign in signs.items()
        if isinstance(bound, kind)
    ]
    if any(getattr(option, "__origin__", None) is Scheduled for option in _options(field)):
        bounds += [bound.func.__doc__ or "" for bound in field.metadata if isinstance(bound, AfterValidator)]
        words.append("or a schedule {start, end, over, begin, curve}")
    return ", ".join(bounds + words)


if __name__ == "__main__":
    print(markdown(), end="")
