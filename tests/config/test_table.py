"""References, look-ups and choices; every reference in the package's tables leads somewhere."""

from dataclasses import fields
from typing import Any

import pytest

from ganscale.config import DATASETS, DISCRIMINATORS, GENERATORS, LOSSES, METRICS, ConfigError
from ganscale.config.register import TABLES
from ganscale.config.table import find, resolve

REFERENCES = {
    (kind, name, field.name): value
    for kind, (table, entry_class) in TABLES.items()
    for name, entry in table.items()
    for field in fields(entry_class)
    if isinstance(value := getattr(entry, field.name), str) and value.startswith("ganscale.")
}


@pytest.mark.parametrize("place", REFERENCES, ids="-".join)
def test_every_reference_leads_somewhere(place: tuple[str, str, str]) -> None:
    found: Any = resolve(REFERENCES[place])
    assert callable(found) or place[2] == "mixture"


def test_every_table_is_covered() -> None:
    assert {kind for kind, _, _ in REFERENCES} == set(TABLES)
    assert len(REFERENCES) >= len(LOSSES) * 2 + len(GENERATORS) + len(DISCRIMINATORS) + len(DATASETS) + len(METRICS)


def test_facts_of_data_sets_are_those_of_their_code() -> None:
    for entry in DATASETS.values():
        assert set(entry.extractors) <= set(TABLES["extractors"][0])
        assert set(entry.metrics) <= set(METRICS)
        if entry.mixture is not None:
            assert len(resolve(entry.mixture).centers) == entry.num_classes


@pytest.mark.parametrize("reference", ["json", "json:", ":dumps", "json:dumps:x", "os; system:x", ""])
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match="is no reference"):
        resolve(reference)


def test_a_reference_to_nothing() -> None:
    with pytest.raises(ImportError):
        resolve("ganscale.nothing:x")
    with pytest.raises(AttributeError):
        resolve("ganscale.config:nothing")


def test_a_look_up_never_falls_through() -> None:
    with pytest.raises(ConfigError) as caught:
        find(LOSSES, "hing", key="loss.name")
    assert (caught.value.key, caught.value.value) == ("loss.name", "hing")
    assert "hinge" in caught.value.remedy
