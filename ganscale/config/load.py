"""From YAML and `section.key=value` overrides to a validated `Config`, and back."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ganscale.config.checks import check
from ganscale.config.errors import ConfigError, did_you_mean, shown
from ganscale.config.objective import Scheduled
from ganscale.config.schema import RESUMABLE_CHANGES, Config, Model, schema
from ganscale.config.unused import check_used, unused
from ganscale.config.yaml12 import MAX_DEPTH, Dumper, Loader

MAX_BYTES = 1_000_000
"""Of a config file."""
_PACKAGE = Path(__file__).parents[1]
BUNDLED = next((folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()), None)
"""The example configs: in the installed package, or beside it in a checkout; None if there are none."""


def load(source: str | Path | Mapping[str, Any] | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a run's settings, apply overrides, fill in defaults and validate them.

    Args:
        source: YAML file or plain nested mappings; None for the default run.
        overrides: `section.key=value` strings, values in YAML syntax, applied in order.

    Raises:
        ConfigError: The file is missing, unreadable, not YAML or a sweep's; a key is unknown; a value has the wrong
            type or range; settings contradict each other.
    """
    raw = deepcopy(dict(source)) if isinstance(source, Mapping) else read(Path(source)) if source is not None else {}
    if "space" in raw or "sweep" in raw:
        remedy = f"search with python -m ganscale.tune {shown(source) if isinstance(source, str | Path) else 'FILE'}"
        raise ConfigError("holds a sweep, not a run", key="config", value=_name(source), remedy=remedy)
    for override in overrides:
        apply_override(raw, override)
    config = parse(raw)
    check_used(config)
    return config


def recorded(path: Path) -> Config:
    """Read a config that a run or a sweep wrote, also one of an earlier version that `load` refuses: unused settings.

    Args:
        path: its YAML file.

    Raises:
        ConfigError: as `load`.
    """
    return parse(read(path))


def read_sweep_file(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read a sweep's settings as plain mappings, unvalidated.

    Args:
        source: YAML file or plain nested mappings.

    Raises:
        ConfigError: The file is missing, unreadable, not YAML or a run's.
    """
    raw = deepcopy(dict(source)) if isinstance(source, Mapping) else read(Path(source))
    if "space" not in raw and raw.keys() & Config.model_fields.keys():
        remedy = (
            "train it with python -m ganscale.train, or write a sweep with `base: FILE` and settings below `space:`"
        )
        raise ConfigError("holds a run, not a sweep", key="config", value=_name(source), remedy=remedy)
    return raw


def _name(source: object) -> str:
    return str(source) if isinstance(source, str | Path) else "mapping"


def parse(raw: Mapping[str, Any]) -> Config:
    """Validate plain nested mappings, from YAML or from a checkpoint.

    Args:
        raw: Section to key to value.

    Raises:
        ConfigError: A key is unknown, a value has the wrong type or range, or settings contradict each other.
    """
    config = validate(raw)
    check(config)
    return config


def validate(raw: Mapping[str, Any]) -> Config:
    """Validate names, types and ranges, but not whether settings contradict each other.

    Args:
        raw: Section to key to value.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or range.
    """
    try:
        return schema().model_validate(_with_names(raw))
    except ValidationError as error:
        raise _translate(error) from None


def _with_names(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Insert the name of the default architecture where only some of its settings are given."""
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
    """Write the whole run as YAML, defaults included; `load` reads it back to an equal `Config`.

    Args:
        config: The run.
    """
    raw = config.model_dump(mode="json")
    return yaml.dump(raw, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def flat(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one with dotted keys.

    Args:
        raw: Nested mappings.
        prefix: Put before each key.
    """
    rows: dict[str, Any] = {}
    for key, value in raw.items():
        if isinstance(value, Mapping):
            rows |= flat(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = value
    return rows


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Find settings that change the trajectory and differ, and have an effect in one of the two.

    Args:
        old: A run's config.
        new: Another one.

    Returns:
        Dotted key to (old, new).
    """
    before, after = flat(old.model_dump(mode="json")), flat(new.model_dump(mode="json"))
    ignored = unused(old).keys() & unused(new).keys()
    keys = [key for key in before | after if not _free(key) and key not in ignored]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _free(key: str) -> bool:
    return any(key == free or key.startswith(free + ".") for free in RESUMABLE_CHANGES)


def locate(path: Path) -> Path:
    """The file that a path names: itself if it is there, otherwise the example config of that name.

    Args:
        path: Of a file, or the name of an example: `mnist_demo`, `sweeps/gaussians.yaml`, `configs/mnist_demo.yaml`.
    """
    if path.exists() or BUNDLED is None or path.is_absolute():
        return path
    below = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    found = BUNDLED / below if below.suffix else BUNDLED / below.parent / f"{below.name}.yaml"
    return found if ".." not in below.parts and found.is_file() else path


def read(path: Path) -> dict[str, Any]:
    """Read the settings of a YAML file as plain mappings, unvalidated.

    Args:
        path: The file, or the name of an example config (`locate`).

    Raises:
        ConfigError: The file is missing, unreadable, too large or not YAML, or holds something else than settings.
    """
    value = str(path)
    try:
        with locate(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content[:MAX_BYTES].decode("utf-8", "strict" if len(content) <= MAX_BYTES else "ignore")
    except FileNotFoundError:
        raise ConfigError("no such config file", key="config", value=value, remedy=_suggest_file(value)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        remedy = "give a readable YAML file"
        raise ConfigError(f"cannot read the config file ({reason})", key="config", value=value, remedy=remedy) from None
    if len(content) > MAX_BYTES:
        remedy = f"give a file of at most {MAX_BYTES:,} bytes"
        raise ConfigError("the config file is too large", key="config", value=value, remedy=remedy)
    raw = _yaml(text, key="config", value=value)
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        remedy = "write sections such as `train:` with indented `key: value` lines"
        message = f"the file holds a {type(raw).__name__}, not settings"
        raise ConfigError(message, key="config", value=value, remedy=remedy)
    return raw


def _suggest_file(name: str) -> str:
    if name in flat(schema()().model_dump(mode="json")):
        return f"write {name}=VALUE to set it"
    files = sorted(str(path) for path in (*Path().glob("*.yaml"), *Path("configs").glob("**/*.yaml")))
    if files:
        return did_you_mean(name, files)
    examples = [str(path.relative_to(BUNDLED).with_suffix("")) for path in BUNDLED.glob("**/*.yaml")] if BUNDLED else []
    remedy = did_you_mean(name, examples) if examples else ""
    return remedy if remedy.startswith("did you mean") else "give the path of a YAML file, or an example: mnist_demo"


def _yaml(text: str, *, key: str, value: str) -> Any:
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "not YAML"
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        message = f"not valid YAML{where}: {problem}"
    except (ValueError, KeyError, TypeError, AttributeError):  # an explicit tag such as !!int before a word
        message = "a value does not have the type of its tag"
    raise ConfigError(message, key=key, value=value, remedy="fix the YAML syntax there")


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one key in plain mappings.

    Args:
        raw: The settings; they are changed.
        override: `section.key=value`, the value in YAML syntax.

    Raises:
        ConfigError: It is not of this form.
    """
    key, separator, text = override.partition("=")
    remedy = "write section.key=value, e.g. optim.lr_g=1e-4"
    if not separator or not key or key.count(".") > MAX_DEPTH:
        raise ConfigError("not an override", key="argument", value=override, remedy=remedy)
    *parents, last = key.split(".")
    if not parents or not all((*parents, last)):
        message = "the key has no section" if not parents else "the key has an empty part"
        raise ConfigError(message, key=key, value=text, remedy=remedy)
    node = raw
    for part in parents:
        below = node.get(part)
        if below is None:
            below = node[part] = {}
        if not isinstance(below, dict):
            raise ConfigError(f"{part} is a value, not a section", key=key, value=text, remedy=f"check the key {key}")
        node = below
    node[last] = _yaml(text, key=key, value=text)


_SCHEDULE = "write {start: 2e-4, end: 1e-5, over: 1_000_000}, or a single number"
_REMEDIES = {
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "bool_type": "write true or false",
    "string_type": "give a text (quote it if it looks like a number or a truth value)",
    "string_too_short": "give at least one character",
    "string_pattern_mismatch": "use letters, digits, '.', '_' and '-', at most 100, starting with a letter or digit",
    "finite_number": "give a finite number",
    "tuple_type": "give a list, e.g. [0.5, 0.999]",
    "model_type": "indent its settings below it as key: value lines",
    "model_attributes_type": "indent its settings below it as key: value lines",
    "missing": "give both, e.g. [0.5, 0.999]; of a color all three",
    "too_long": "give both, e.g. [0.5, 0.999]; of a color all three",
}
_MESSAGES = {
    "string_pattern_mismatch": "has characters that a folder name should not have",
    "string_too_short": "should not be empty",
    "model_type": "should be a section",
    "model_attributes_type": "should be a section",
    "missing": "has too few numbers",
    "too_long": "has too many numbers",
}


def _translate(error: ValidationError) -> ConfigError:
    """Turn pydantic's first error into a `ConfigError`."""
    details = error.errors(include_url=False)
    first = next((d for d in details if d["type"] == "extra_forbidden"), details[0])
    kind, context = first["type"], first.get("ctx", {})
    parts = [str(part) for index, part in enumerate(first["loc"]) if not (index == 2 and part in _TAGS)]
    section, key = _locate(parts)
    value = first.get("input")
    message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    problem = _MESSAGES.get(kind, f"should be {message}")
    remedy = _REMEDIES.get(kind, f"give a value that is {message}" if "than" in kind else "see --help")
    if kind == "extra_forbidden":
        problem, remedy = "unknown key", _suggest(section, parts[-1], value)
    elif kind == "union_tag_invalid":
        problem, key, value = "unknown name", f"{key}.name", (value or {}).get("name")
        remedy = did_you_mean(str(context["tag"]), _words(context["expected_tags"]))
    elif kind == "union_tag_not_found":
        problem, remedy = "has no name", f"add {key}.name, the architecture's name"
    elif kind == "literal_error":
        problem, remedy = "not one of the choices", _suggest_choice(value, _words(context["expected"]))
    elif kind == "missing":
        key = key.rpartition(".")[0]
        if section is Scheduled:
            problem, remedy = f"a schedule without {parts[-1]}", _SCHEDULE
    elif kind == "float_type" and isinstance(value, str) and value.partition(":")[0] in Scheduled.model_fields:
        remedy = f"{_SCHEDULE}, quoted for the shell"
    elif kind == "tuple_type" and isinstance(value, str):
        remedy = f"give a list: [{', '.join(value.strip('[]').replace(',', ' ').split())}]"
    elif kind == "value_error":
        remedy = f"give {message}"
    return ConfigError(problem, key=key, value=value, remedy=remedy)


def _words(text: object) -> list[str]:
    """The names in pydantic's list of what it expects."""
    return [word.strip("' ") for word in str(text).replace(" or ", ", ").split(",")]


def _suggest_choice(value: object, known: list[str]) -> str:
    if isinstance(value, list) and len(value) == 1:
        return f"give one text, not a list: {shown(value[0])}"
    return did_you_mean(str(value), known)


_TAGS = frozenset({"number", "schedule"})
"""Pydantic's tags of a number that may be a schedule, in the location of an error."""


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
    """The class of a field; of a union of architectures, the one with the tag."""
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


def _suggest(section: Any, word: str, value: object) -> str:
    """Suggest the nearest key of the section or else of another one."""
    if ":" in word and value is None:
        name, _, text = word.partition(":")
        return f"write a space after the colon: {name}: {text}"
    here = list(getattr(section, "model_fields", {}))
    remedy = did_you_mean(word, here) if here else "remove it"
    if remedy.startswith("did you mean"):
        return remedy
    everywhere = {key.rsplit(".", 1)[-1]: key for key in flat(schema()().model_dump(mode="json"))}
    if word in everywhere:
        return f"did you mean {everywhere[word]!r}?"
    return remedy
