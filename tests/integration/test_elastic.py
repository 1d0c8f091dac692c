"""The number of workers changes in the middle of a run, and its result does not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.config import Config, ConfigError
from ganscale.config import load as load_config
from ganscale.launch.elastic import may_grow
from ganscale.launch.placement import NodeResources, place
from ganscale.run.stop_signal import EVERY
from ganscale.storage.checkpoint import CheckpointStore, load
from tests.fleet import Fleet
from tests.run.test_stop_signal import one_hears

TOLERANCE = 1e-9


def states(folder: Path) -> dict[int, dict[str, Any]]:
    """All checkpoints of a run by images."""
    store = CheckpointStore(folder / "checkpoints")
    return {int(path.name): load(path)[1] for path in store.folders()}


def worst(actual: Any, expected: Any) -> float:
    """The largest difference of two states, each tensor relative to its own largest entry."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        return max((worst(actual[key], value) for key, value in expected.items()), default=0.0)
    if isinstance(expected, list | tuple):
        return max((worst(a, b) for a, b in zip(actual, expected, strict=True)), default=0.0)
    if isinstance(expected, torch.Tensor) and expected.is_floating_point():
        return float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-300))
    assert actual == expected
    return 0.0


@pytest.mark.multiprocess
@pytest.mark.parametrize("accumulation", [1, 2])
def test_three_then_two_then_three_workers_follow_one_trajectory(
    fleet: Fleet, tmp_path: Path, accumulation: int
) -> None:
    """A batch of 12 in shares of 4, then 6; with accumulation 6 in shares of 2, then 3."""
    overrides = (f"train.accumulation={accumulation}", "checkpoint.keep=99")
    fleet.run(one_hears, 3, str(tmp_path), "straight", -1, 0, EVERY, overrides)
    for workers, rank, at in ((3, 1, 180), (2, 1, 400), (3, -1, 0)):
        fleet.run(one_hears, workers, str(tmp_path), "elastic", rank, at, 0.0, overrides)
    elastic, straight = states(tmp_path / "elastic"), states(tmp_path / "straight")
    assert set(elastic) - set(straight) == {192, 420}, "one iteration after it was asked"
    common = sorted(set(elastic) & set(straight))
    assert common == [120, 240, 360, 480, 600]
    errors = {images: worst(elastic[images], straight[images]) for images in common}
    assert max(errors.values()) <= TOLERANCE, errors
    assert errors[240] > 0.0, "another number of workers rounds otherwise: it did change"


@pytest.mark.multiprocess
def test_shares_may_be_uneven(fleet: Fleet, tmp_path: Path) -> None:
    """12 images on 5 workers, then on 4."""
    overrides = ("checkpoint.keep=99",)
    fleet.run(one_hears, 1, str(tmp_path), "straight", -1, 0, EVERY, overrides)
    for workers, rank, at in ((5, 0, 180), (4, -1, 0)):
        fleet.run(one_hears, workers, str(tmp_path), "elastic", rank, at, 0.0, overrides)
    assert worst(states(tmp_path / "elastic")[600], states(tmp_path / "straight")[600]) <= TOLERANCE


def config(*overrides: str) -> Config:
    return load_config(overrides=overrides)


@pytest.mark.parametrize(
    ("wanted", "cpus", "number"),
    [("[1,3]", (2, 2), 3), ("[1,3]", (1, 1), 2), ("[1,8]", (1,), 1), ("[2,2]", (9,), 2), ("[2,5]", (1, 2, 1), 4)],
)
def test_there_are_as_many_workers_as_there_is_room_for(wanted: str, cpus: tuple[int, ...], number: int) -> None:
    nodes = [NodeResources(count) for count in cpus]
    assert place(config(f"cluster.num_workers={wanted}"), nodes).num_workers == number


def test_too_little_room_for_the_least_is_refused() -> None:
    with pytest.raises(ConfigError, match="can hold 1 workers"):
        place(config("cluster.num_workers=[2,4]"), [NodeResources(1)])


def test_a_range_counts_gpus_as_well() -> None:
    nodes = [NodeResources(8, 2), NodeResources(8, 1)]
    placement = place(config("cluster.num_workers=[2,8]"), nodes)
    assert (placement.num_workers, placement.use_gpu) == (3, True)
    assert not place(config("cluster.num_workers=[4,8]"), nodes).use_gpu, "there are not GPUs enough for the least"


@pytest.mark.parametrize(
    ("wanted", "workers", "unused", "grows"),
    [
        ("[1,3]", 2, 1.0, True),
        ("[1,3]", 3, 1.0, False),
        ("[1,2]", 2, 1.0, False),
        ("[1,3]", 2, 0.0, False),
        ("[1,4]", 2, 1.0, False),
        ("auto", 2, 9.0, False),
        ("2", 2, 9.0, False),
    ],
)
def test_a_group_grows_where_it_may_and_there_is_free_room(
    wanted: str, workers: int, unused: float, grows: bool
) -> None:
    nodes = [NodeResources(2), NodeResources(2)]
    assert may_grow(config(f"cluster.num_workers={wanted}"), workers, nodes, NodeResources(unused)) is grows


@pytest.mark.parametrize("wanted", ["[3,1]", "[0,2]", "[1]", "[1,2,3]", "[1,true]", "[1,70000]", "[a,b]", "-1", "some"])
def test_what_is_no_range_is_refused(wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.num_workers"):
        config(f"cluster.num_workers={wanted}")


def test_the_most_workers_must_have_images() -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        config("cluster.num_workers=[1,65]", "train.batch_size=64")


@pytest.mark.parametrize("override", ["checkpoint.every=0", "checkpoint.every=often", "checkpoint.every=true"])
def test_what_is_no_interval_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.every"):
        config(override)
