"""Names that a person reads: every metric has one, values and data sets are written out, bounds are cut."""

import math

import pytest

from ganscale.config import DATASETS, DISCRIMINATORS, EXTRACTORS, GENERATORS, LOSSES, METRICS
from ganscale.config.titles import (
    METRIC_TITLES,
    VALUE_TITLES,
    column_title,
    data_title,
    metric_title,
    value_title,
    within,
)

TABLES = {
    "data.name": DATASETS,
    "eval.extractor": EXTRACTORS,
    "loss.name": LOSSES,
}


def test_every_metric_has_a_title_of_its_own() -> None:
    assert list(METRIC_TITLES) == list(METRICS)
    assert len({title.text for title in METRIC_TITLES.values()}) == len(METRICS)
    assert not any("_" in title.text for title in METRIC_TITLES.values())


@pytest.mark.parametrize("key", TABLES)
def test_titles_belong_to_entries_and_no_name_has_an_underscore(key: str) -> None:
    assert VALUE_TITLES[key].keys() <= TABLES[key].keys()
    assert not any("_" in value_title(key, name) for name in TABLES[key])


@pytest.mark.parametrize("table", [GENERATORS, DISCRIMINATORS])
def test_networks_are_written_as_their_papers_write_them(table: dict[str, object]) -> None:
    key = f"model.{'generator' if table is GENERATORS else 'discriminator'}.name"
    assert table.keys() <= VALUE_TITLES[key].keys()


def test_what_has_no_title_is_written_in_words() -> None:
    assert metric_title("my_metric") == column_title("my_metric") == "My metric"
    assert value_title("loss.name", "mine") == "mine"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("mnist 28", "MNIST at 28 × 28"),
        ("folder 48x64", "Pictures at 48 × 64"),
        ("ring", "Ring of 8 Gaussians"),
        ("mine 32", "mine at 32 × 32"),
    ],
)
def test_data_are_written_with_their_size(text: str, title: str) -> None:
    assert data_title(text) == title


def test_bounds_stay_where_a_metric_can_be() -> None:
    assert within("modes", -2.5) == 0.0
    assert within("precision", 1.2) == 1.0
    assert within("kid", -0.1) == -0.1
    assert within("mine", -0.1) == -0.1
    assert math.isnan(within("modes", math.nan))
