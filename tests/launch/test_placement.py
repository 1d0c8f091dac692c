"""Placement: how many workers, on what, spread how."""

from typing import Any

import pytest

from ganscale.config import ConfigError, load
from ganscale.launch.placement import NodeResources, Placement, max_workers, place, worker_resources

LAPTOP = [NodeResources(8)]
SINGLE = [NodeResources(2)]
GPU_BOX = [NodeResources(16, 4)]
CPU_NODES = [NodeResources(4), NodeResources(4), NodeResources(4)]
GPU_NODES = [NodeResources(8, 2), NodeResources(8, 2)]
HEAD_AND_GPUS = [NodeResources(0), NodeResources(8, 4), NodeResources(8, 4)]
HEAD_HAS_GPU = [NodeResources(0, 1), NodeResources(8)]


@pytest.mark.parametrize(
    ("nodes", "overrides", "expected"),
    [
        # auto: one worker per GPU; without GPUs two, or one per node if there are more
        (LAPTOP, (), Placement(2, False, "PACK")),
        (SINGLE, (), Placement(2, False, "PACK")),
        ([NodeResources(1)], (), Placement(1, False, "PACK")),
        (CPU_NODES, (), Placement(3, False, "SPREAD")),
        ([NodeResources(1), NodeResources(1)], (), Placement(2, False, "SPREAD")),
        ([NodeResources(0), NodeResources(4)], (), Placement(2, False, "SPREAD")),
        (GPU_BOX, (), Placement(4, True, "PACK")),
        (GPU_NODES, (), Placement(4, True, "SPREAD")),
        (HEAD_AND_GPUS, (), Placement(8, True, "SPREAD")),
        (GPU_BOX, ("train.device=cpu",), Placement(2, False, "PACK")),
        (GPU_NODES, ("train.device=cuda",), Placement(4, True, "SPREAD")),
        (HEAD_HAS_GPU, (), Placement(2, False, "SPREAD")),
        # auto: not more than the CPUs or the batch allow
        (GPU_BOX, ("cluster.cpus_per_worker=5",), Placement(3, True, "PACK")),
        (GPU_BOX, ("train.batch_size=3",), Placement(3, True, "PACK")),
        (LAPTOP, ("train.batch_size=1",), Placement(1, False, "PACK")),
        (CPU_NODES, ("train.batch_size=8", "train.accumulation=4"), Placement(2, False, "SPREAD")),
        (CPU_NODES, ("cluster.cpus_per_worker=4",), Placement(3, False, "SPREAD")),
        (CPU_NODES, ("train.shards=2", "train.device=cpu"), Placement(2, False, "SPREAD")),
        (
            [NodeResources(4), NodeResources(2), NodeResources(2)],
            ("cluster.cpus_per_worker=4",),
            Placement(1, False, "SPREAD"),
        ),
        # a number
        (LAPTOP, ("cluster.num_workers=8",), Placement(8, False, "PACK")),
        (LAPTOP, ("cluster.num_workers=1",), Placement(1, False, "PACK")),
        (CPU_NODES, ("cluster.num_workers=12",), Placement(12, False, "SPREAD")),
        (GPU_BOX, ("cluster.num_workers=3",), Placement(3, True, "PACK")),
        (GPU_BOX, ("cluster.num_workers=5",), Placement(5, False, "PACK")),
        (GPU_NODES, ("cluster.num_workers=4", "train.device=cuda"), Placement(4, True, "SPREAD")),
        (GPU_BOX, ("cluster.num_workers=4", "cluster.cpus_per_worker=4"), Placement(4, True, "PACK")),
    ],
)
def test_workers_are_placed(nodes: list[NodeResources], overrides: tuple[str, ...], expected: Placement) -> None:
    assert place(load(overrides=overrides), nodes) == expected


@pytest.mark.parametrize(
    ("nodes", "overrides", "key", "message"),
    [
        (LAPTOP, ("cluster.num_workers=9",), "cluster.num_workers", "can hold 8 workers of 1 CPU "),
        (CPU_NODES, ("cluster.num_workers=13",), "cluster.num_workers", "it has 3 nodes, 12 CPUs and 0 GPUs"),
        (
            CPU_NODES,
            ("cluster.num_workers=4", "cluster.cpus_per_worker=3"),
            "cluster.num_workers",
            "can hold 3 workers of 3 CPUs ",
        ),
        (LAPTOP, ("cluster.cpus_per_worker=9",), "cluster.cpus_per_worker", "cluster.cpus_per_worker <= 8"),
        ([], (), "cluster.cpus_per_worker", "no node of the cluster can hold a worker"),
        (LAPTOP, ("train.device=cuda",), "train.device", "the cluster has no GPU"),
        (GPU_BOX, ("train.device=cuda", "cluster.num_workers=5"), "cluster.num_workers", "1 CPU and 1 GPU "),
        (GPU_BOX, ("train.device=cuda", "cluster.cpus_per_worker=17"), "cluster.cpus_per_worker", "and 1 GPU"),
        (HEAD_HAS_GPU, ("train.device=cuda",), "cluster.cpus_per_worker", "add nodes"),
    ],
)
def test_what_the_cluster_can_never_hold_is_refused(
    nodes: list[NodeResources], overrides: tuple[str, ...], key: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        place(load(overrides=overrides), nodes)
    assert caught.value.key == key
    assert message in str(caught.value)
    assert "<= 0" not in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "use_gpu", "expected"), [(3, False, 3), ((2, 5), True, 5), ("auto", True, 1), ("auto", False, 2)]
)
def test_the_most_workers_of_a_run(wanted: Any, use_gpu: bool, expected: int) -> None:
    assert max_workers(wanted, use_gpu=use_gpu) == expected


def test_resources_of_a_worker() -> None:
    config = load(overrides=["cluster.cpus_per_worker=3"])
    assert worker_resources(config, use_gpu=False) == {"CPU": 3}
    assert worker_resources(config, use_gpu=True) == {"CPU": 3, "GPU": 1}


BESIDE = ("eval.mode=async", "train.device=cpu")


@pytest.mark.parametrize(
    ("nodes", "overrides", "expected"),
    [
        (LAPTOP, BESIDE, Placement(2, False, "PACK")),
        (SINGLE, BESIDE, Placement(1, False, "PACK")),
        (LAPTOP, (*BESIDE, "cluster.num_workers=7"), Placement(7, False, "PACK")),
        (LAPTOP, (*BESIDE, "cluster.num_workers=[1,9]", "eval.cpus=3"), Placement(5, False, "PACK")),
        # from the node where it costs no worker
        (
            [NodeResources(4), NodeResources(5)],
            (*BESIDE, "cluster.num_workers=[1,9]", "cluster.cpus_per_worker=4"),
            Placement(2, False, "SPREAD"),
        ),
        (GPU_NODES, ("eval.mode=async",), Placement(4, True, "SPREAD")),
        (GPU_NODES, ("eval.mode=async", "eval.gpus=1"), Placement(3, True, "SPREAD")),
        (SINGLE, (*BESIDE, "eval.every=0"), Placement(2, False, "PACK")),
    ],
)
def test_the_evaluating_process_has_room_of_its_own(
    nodes: list[NodeResources], overrides: tuple[str, ...], expected: Placement
) -> None:
    assert place(load(overrides=overrides), nodes) == expected


@pytest.mark.parametrize(
    ("nodes", "overrides", "key", "value"),
    [
        (SINGLE, ("eval.cpus=3",), "eval.cpus", 3),
        (LAPTOP, ("eval.gpus=1",), "eval.gpus", 1),
        (SINGLE, ("cluster.num_workers=2",), "cluster.num_workers", 2),
        ([NodeResources(1)], (), "cluster.cpus_per_worker", 1),
    ],
)
def test_a_cluster_without_room_for_the_evaluating_process_is_refused(
    nodes: list[NodeResources], overrides: tuple[str, ...], key: str, value: int
) -> None:
    with pytest.raises(ConfigError) as caught:
        place(load(overrides=(*BESIDE, *overrides)), nodes)
    assert (caught.value.key, caught.value.value) == (key, value)
    assert "eval.mode=inline" in str(caught.value)
