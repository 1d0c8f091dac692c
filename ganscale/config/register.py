"""`ganscale.register`: entries of a user's own for the tables, from a script before it starts a command.

Nothing here is done at import; docs/extending.md has a whole script.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ganscale.config.datasets import DATASETS, Dataset
from ganscale.config.evaluation import EXTRACTORS, METRICS, FeatureExtractor, Metric
from ganscale.config.health import DETECTORS, Detector
from ganscale.config.losses import LOSSES, AdversarialLoss
from ganscale.config.networks import DISCRIMINATORS, GENERATORS, Architecture
from ganscale.config.section import Section
from ganscale.config.table import Function

TABLES: dict[str, tuple[dict[str, Any], type]] = {
    "losses": (LOSSES, AdversarialLoss),
    "generators": (GENERATORS, Architecture),
    "discriminators": (DISCRIMINATORS, Architecture),
    "datasets": (DATASETS, Dataset),
    "metrics": (METRICS, Metric),
    "extractors": (EXTRACTORS, FeatureExtractor),
    "detectors": (DETECTORS, Detector),
}
"""The table and the class of its entries, by the argument of `register`."""

ADDED: dict[str, dict[str, Any]] = {kind: {} for kind in TABLES}
"""What was registered; workers in other processes register it too."""


def register(
    *,
    losses: Mapping[str, AdversarialLoss] | None = None,
    generators: Mapping[str, Architecture] | None = None,
    discriminators: Mapping[str, Architecture] | None = None,
    datasets: Mapping[str, Dataset] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    extractors: Mapping[str, FeatureExtractor] | None = None,
    detectors: Mapping[str, Detector] | None = None,
) -> None:
    """Let configs name a user's own things; a name that was registered before is replaced.

    Args:
        losses: by `loss.name`.
        generators: by `model.generator.name`.
        discriminators: by `model.discriminator.name`.
        datasets: by `data.name`.
        metrics: by what `eval.metrics` and sweeps name.
        extractors: by `eval.extractor`; a data set names those that fit it.
        detectors: by the kind of their verdicts, which `health.ignore` names.

    Raises:
        ValueError: a name is taken by the package or is not a name, or an entry is not of the table's class.
    """
    given: dict[str, Mapping[str, Any] | None] = dict(locals())
    for kind, entries in given.items():
        for name, entry in (entries or {}).items():
            _check(kind, name, entry)
    for kind, entries in given.items():
        TABLES[kind][0].update(entries or {})
        ADDED[kind].update(entries or {})


def _check(kind: str, name: str, entry: Any) -> None:
    """Refuse a name or an entry that a table cannot hold."""
    table, entry_class = TABLES[kind]
    letters = r"[A-Za-z_][A-Za-z0-9_-]*" if kind == "detectors" else r"[A-Za-z_][A-Za-z0-9_]*"
    if not re.fullmatch(letters, name):
        raise ValueError(f"{name!r} is no name: use letters, digits and '_', starting with a letter")
    if name in table and name not in ADDED[kind]:
        raise ValueError(f"{name!r} is the package's own: choose another name")
    if not isinstance(entry, entry_class):
        raise ValueError(f"{kind}: {name} must be a ganscale.config.{entry_class.__name__}, not {entry!r}")
    settings = entry.settings if isinstance(entry, Architecture) else Section
    if not isinstance(settings, str) and not (isinstance(settings, type) and issubclass(settings, Section)):
        raise ValueError(f"{name}: the settings must be a subclass of ganscale.config.Section, not {settings}")
    for each in fields(entry_class):
        value = getattr(entry, each.name)
        empty = value is None and each.type == Function | None
        if each.type in (Function, Function | None) and not (callable(value) or isinstance(value, str) or empty):
            raise ValueError(f"{name}: {each.name} must be a function or a reference to one, not {value!r}")
