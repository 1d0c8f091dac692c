"""Settings in the report: what differs between runs, or of a single run from the defaults."""

import json
from collections.abc import Sequence
from typing import Any

from ganscale.config import Config, ConfigError, parse
from ganscale.config.errors import shown
from ganscale.config.load import flat
from ganscale.reporting.record import RunRecord

UNINTERESTING = frozenset({"run.name", "run.dir"})
MISSING = "\N{EN DASH}"


def differing(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Dotted keys of which not all have the same value, with each one's value as text, in the order of the files."""
    flats = [flat(config) for config in configs]
    keys = dict.fromkeys(key for rows in flats for key in rows)
    found = []
    for key in keys:
        values = [plain(rows[key]) if key in rows else MISSING for rows in flats]
        if key not in UNINTERESTING and len(set(values)) > 1:
            found.append((key, values))
    return found


def plain(value: Any) -> str:
    """A value as a user would write it."""
    if isinstance(value, list):
        return "[" + ", ".join(plain(part) for part in value) + "]"
    if isinstance(value, dict):
        return json.dumps(value, default=str)
    return "(empty)" if value == "" else shown(value)


def defaults(config: dict[str, Any]) -> dict[str, Any]:
    """The default run with the same architectures, for comparison."""
    model = config.get("model")
    names: dict[str, Any] = {}
    if isinstance(model, dict):
        for side in ("generator", "discriminator"):
            network = model.get(side)
            if isinstance(network, dict) and isinstance(network.get("name"), str):
                names[side] = {"name": network["name"]}
    try:
        return parse({"model": names}).model_dump(mode="json")
    except ConfigError:  # networks that do not go together without more, or come from a script
        return Config().model_dump(mode="json")


def value(run: RunRecord, key: str) -> str:
    """One setting of a run by its dotted key; a dash where it has none."""
    rows = flat(run.config)
    return plain(rows[key]) if key in rows else MISSING
