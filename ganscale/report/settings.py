"""Settings in the report: what differs between runs, or of a single run from the defaults."""

import json
from collections.abc import Sequence
from typing import Any

from ganscale.config import Config, ConfigError, parse
from ganscale.config.errors import shown
from ganscale.config.load import flat

IGNORED = frozenset({"run.name", "run.dir"})
MISSING = "\N{EN DASH}"


def differing(configs: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Keys whose values are not all equal.

    Args:
        configs: nested mappings.

    Returns:
        Dotted key to its value in each config as text, in the order of the first config that has it.
    """
    flats = [flat(config) for config in configs]
    keys = dict.fromkeys(key for rows in flats for key in rows if key not in IGNORED)
    found = {key: [plain(rows[key]) if key in rows else MISSING for rows in flats] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def plain(value: Any) -> str:
    """A value as a user would write it in YAML.

    Args:
        value: of a setting.
    """
    if isinstance(value, list):
        return "[" + ", ".join(plain(part) for part in value) + "]"
    if isinstance(value, dict):
        return json.dumps(value, default=str)
    return "(empty)" if value == "" else shown(value)


def defaults(config: dict[str, Any]) -> dict[str, Any]:
    """The default config with the same architectures; the default config where these do not suffice.

    Args:
        config: a run's, as plain nested mappings.
    """
    rows = flat(config)
    names = {side: {"name": rows.get(f"model.{side}.name")} for side in ("generator", "discriminator")}
    try:
        return parse({"model": names}).model_dump(mode="json")
    except ConfigError:
        return Config().model_dump(mode="json")
