"""An unknown data set is an error in every place that opens one; nothing falls through to MNIST."""

import pytest
import torch

from ganscale.config import Config, ConfigError, load
from ganscale.evaluation.metrics.reals import make_reals
from ganscale.training.build import build_source

CPU = torch.device("cpu")


@pytest.fixture
def unknown() -> Config:
    """A config whose data set no table knows: one of a newer version, say."""
    config = load()
    return config.model_copy(update={"data": config.data.model_copy(update={"name": "mnits"})})


def test_no_training_source_is_opened(unknown: Config) -> None:
    with pytest.raises(ConfigError) as caught:
        build_source(unknown, CPU)
    assert (caught.value.key, caught.value.value) == ("data.name", "mnits")


def test_no_reference_is_opened(unknown: Config) -> None:
    source = build_source(load(), CPU)
    with pytest.raises(ConfigError) as caught:
        make_reals(unknown, source, num_samples=10, seed=0)
    assert (caught.value.key, caught.value.value) == ("data.name", "mnits")
