"""From YAML and `section.key=value` overrides to a checked `Config`, and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ganscale.config.checks import check
from ganscale.config.errors import ConfigError, did_you_mean
from ganscale.config.objective import Scheduled
from ganscale.config.schema import RESUMABLE_CHANGES, Config, Model, schema
from ganscale.config.yaml12 import Dumper, Loader


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a run's YAML file, apply overrides, fill in defaults and check it all.

    Args:
        path: the YAML file; None for the default run.
        overrides: `section.key=value` strings, values in YAML syntax, applied in order.

    Raises:
        ConfigError: the file is missing, unreadable or not YAML; a key is unknown; a value has the wrong type or
            range; settings contradict each other.
    """
    raw = read(Path(path)) if path is not None else {}
    for override in overrides:
        apply_override(raw, override)
    return parse(raw)


def parse(raw: Mapping[str, Any]) -> Config:
    """Check plain nested mappings (from YAML or from a checkpoint) and return the `Config`.

    Raises:
        ConfigError: as `load`.
    """
    config = validate(raw)
    check(config)
    return config


def validate(raw: Mapping[str, Any]) -> Config:
    """Check names, types and ranges alone; whether settings contradict each other is left open.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type or range.
    """
    try:
        return schema().model_validate(_with_names(raw))
    except ValidationError as error:
        raise _translate(error) from None


def _with_names(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Name the default architecture where the user set only some of its settings."""
    raw = dict(raw)
    model = raw.get("model")
    if isinstance(model, Mapping):
        raw["model"] = {
            side: {"name": getattr(Model(), side).name, **settings}
            if side in ("generator", "discriminator") and isinstance(settings, Mapping)
            else settings
            for side, settings in model.items()
        }
    return raw


def dump(config: Config) -> str:
    """The whole run as YAML, defaults included; `load` reads it back to an equal `Config`."""
    raw = config.model_dump(mode="json")
    return yaml.dump(raw, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def flat(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    rows: dict[str, Any] = {}
    for key, value in raw.items():
        if isinstance(value, Mapping):
            rows |= flat(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = value
    return rows


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Settings that change the trajectory and differ: dotted key to (old, new)."""
    before, after = flat(old.model_dump(mode="json")), flat(new.model_dump(mode="json"))
    keys = [key for key in before | after if not _free(key)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _free(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in RESUMABLE_CHANGES)


def read(path: Path) -> dict[str, Any]:
    """The settings in a YAML file as plain mappings, unchecked.

    Raises:
        ConfigError: the file is missing, unreadable or not YAML, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        shipped = sorted(str(p) for p in Path("configs").glob("*.yaml"))
        remedy = did_you_mean(str(path), shipped) if shipped else "give the path of a YAML file"
        raise ConfigError("no such config file", key="config", value=str(path), remedy=remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"cannot read the config file ({reason})", key="config", value=str(path), remedy="give a readable YAML file"
        ) from None
    raw = _yaml(text, key="config", value=str(path))
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(
            f"the file holds a {type(raw).__name__}, not settings",
            key="config",
            value=str(path),
            remedy="write sections such as `train:` with indented `key: value` lines",
        )
    return raw


def _yaml(text: str, *, key: str, value: str) -> Any:
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "not YAML"
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"not valid YAML{where}: {problem}", key=key, value=value, remedy="mend the YAML syntax there"
        ) from None
    except RecursionError:
        raise ConfigError("nested too deeply", key=key, value=value, remedy="mend the YAML syntax there") from None


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Enter `section.key=value`, the value in YAML syntax, into plain mappings.

    Raises:
        ConfigError: it is no such thing.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            "not an override", key="argument", value=override, remedy="write section.key=value, e.g. optim.lr_g=1e-4"
        )
    *parents, last = key.split(".")
    if not parents or not all((*parents, last)):
        raise ConfigError(
            "the key has no section" if not parents else "the key has an empty part",
            key=key,
            value=text,
            remedy="write section.key=value, e.g. optim.lr_g=1e-4",
        )
    node = raw
    for part in parents:
        below = node.get(part)
        if below is None:
            below = node[part] = {}
        if not isinstance(below, dict):
            raise ConfigError(f"{part} is a value, not a section", key=key, value=text, remedy=f"check the key {key}")
        node = below
    node[last] = _yaml(text, key=key, value=text)


_REMEDIES = {
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "bool_type": "write true or false",
    "string_type": "give a text (quote it if it looks like a number or a truth value)",
    "finite_number": "give a finite number",
    "tuple_type": "give a list, e.g. [0.5, 0.999]",
}


def _translate(error: ValidationError) -> ConfigError:
    """The first problem of a pydantic error in our words."""
    details = error.errors(include_url=False)
    first = next((d for d in details if d["type"] == "extra_forbidden"), details[0])
    kind, context = first["type"], first.get("ctx", {})
    parts = [str(part) for index, part in enumerate(first["loc"]) if not (index == 2 and part in _TAGS)]
    section, key = _locate(parts)
    value = first.get("input")
    if kind == "extra_forbidden":
        return ConfigError("unknown key", key=key, value=value, remedy=_suggest(section, parts[-1]))
    if kind == "union_tag_invalid":
        known = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
        remedy = did_you_mean(str(context["tag"]), known)
        return ConfigError("unknown name", key=f"{key}.name", value=(value or {}).get("name"), remedy=remedy)
    if kind == "union_tag_not_found":
        return ConfigError("has no name", key=key, value=value, remedy=f"add {key}.name, the architecture's name")
    if kind == "literal_error":
        known = [word.strip("' ") for word in str(context["expected"]).replace(" or ", ", ").split(",")]
        return ConfigError("not one of the choices", key=key, value=value, remedy=did_you_mean(str(value), known))
    if kind == "string_pattern_mismatch":
        return ConfigError(
            "has characters that a folder name should not have",
            key=key,
            value=value,
            remedy="use letters, digits, '.', '_' and '-', at most 100, starting with a letter or digit",
        )
    if kind == "missing" and section is Scheduled:
        remedy = "write {start: 2e-4, end: 1e-5, over: 1_000_000}, or a single number"
        return ConfigError(f"a schedule without {parts[-1]}", key=key.rpartition(".")[0], value=value, remedy=remedy)
    if kind in ("missing", "too_long"):
        key = key.rpartition(".")[0] if kind == "missing" else key
        return ConfigError("should be two numbers", key=key, value=value, remedy="give both, e.g. [0.5, 0.999]")
    if kind == "string_too_short":
        return ConfigError("should not be empty", key=key, value=value, remedy="give at least one character")
    if kind in ("model_type", "model_attributes_type"):
        return ConfigError(
            "should be a section", key=key, value=value, remedy="indent its settings below it as key: value lines"
        )
    message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if kind == "value_error":
        remedy = f"give {message}"
    else:
        remedy = _REMEDIES.get(kind, f"give a value that is {message}" if "than" in kind else "see --help")
    return ConfigError(f"should be {message}", key=key, value=value, remedy=remedy)


_TAGS = frozenset({"number", "schedule"})
"""What pydantic puts behind section and key in the location of an error in a number that may be a schedule."""


def _locate(parts: list[str]) -> tuple[type | None, str]:
    """The section's class and the key as the user wrote it (without pydantic's union tags)."""
    node: Any = schema()
    shown: list[str] = []
    for i, part in enumerate(parts):
        fields = getattr(node, "model_fields", {})
        last = i == len(parts) - 1
        if part in fields or last or part.isdigit():
            shown.append(part)
            if not last:
                node = _below(fields.get(part), parts[i + 1])
    return node, ".".join(shown)


def _below(field: Any, tag: str) -> Any:
    """The class behind a field; of a union of architectures, the one with that tag."""
    if field is None:
        return None
    options = getattr(field.annotation, "__args__", None)
    if options is None:
        return field.annotation
    for option in options:
        if getattr(option, "__origin__", None) is Scheduled:
            return Scheduled
        fields = getattr(option, "model_fields", {})
        if "name" in fields and fields["name"].default == tag:
            return option
    return None


def _suggest(section: Any, word: str) -> str:
    """The nearest key, in this section or, failing that, in any other."""
    here = list(getattr(section, "model_fields", {}))
    remedy = did_you_mean(word, here) if here else "remove it"
    if remedy.startswith("did you mean"):
        return remedy
    everywhere = {key.rsplit(".", 1)[-1]: key for key in flat(schema()().model_dump(mode="json"))}
    if word in everywhere:
        return f"did you mean {everywhere[word]!r}?"
    return remedy
