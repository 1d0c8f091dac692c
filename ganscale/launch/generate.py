"""Shards of samples from the workers of a Ray cluster: one task per shard, retried when its worker or node is lost."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from ganscale.config import ConfigError, load
from ganscale.inference.generator import LoadedGenerator
from ganscale.inference.shards import GenerationError, ShardPlan, check_visible, make_shard, one_thread
from ganscale.launch.cluster import connected
from ganscale.launch.compat import root_cause

RETRIES = 3
"""How often a shard is retried after its worker or node was lost."""


def make_on_ray(
    generator: LoadedGenerator,
    folder: Path,
    plan: ShardPlan,
    shards: Sequence[int],
    *,
    num_workers: int,
    address: str = "auto",
) -> Iterator[int]:
    """Make shards on a Ray cluster, each by a task of one CPU (with cuda, and one GPU).

    The bytes of a shard do not depend on the worker.

    Args:
        generator: The generator, on the CPU.
        folder: Absolute path on storage that all nodes share, prepared for `plan`.
        plan: The samples.
        shards: Numbers of the shards to make.
        num_workers: Concurrent tasks, at most.
        address: Address of the cluster, as `cluster.address` of a run.

    Yields:
        The number of each shard when it is done.

    Raises:
        ConfigError: The cluster cannot be reached or lacks resources, or its nodes do not see the folder.
        GenerationError: A shard failed after all retries.
    """
    with connected(load(overrides=(f"cluster.num_workers={num_workers}", f"cluster.address={address}"))):
        _check_resources(plan)
        yield from _dispatch(generator, folder, plan, shards, num_workers)


def _check_resources(plan: ShardPlan) -> None:
    have = ray.cluster_resources()
    wanted = "GPU" if plan.device == "cuda" else "CPU"
    if have.get(wanted, 0) < 1:
        remedy = "use --device cpu, or join a cluster with GPUs" if wanted == "GPU" else "add a node to the cluster"
        raise ConfigError(f"the cluster has no {wanted}", key="--device", value=plan.device, remedy=remedy)


def _dispatch(
    generator: LoadedGenerator, folder: Path, plan: ShardPlan, shards: Sequence[int], num_workers: int
) -> Iterator[int]:
    """Keep `num_workers` tasks running until all shards are done."""
    task = ray.remote(num_cpus=1, num_gpus=1 if plan.device == "cuda" else 0, max_retries=RETRIES, max_calls=0)(_make)
    shared = ray.put(LoadedGenerator(generator.network, generator.description))
    waiting = list(reversed(shards))
    running: dict[Any, int] = {}
    while waiting or running:
        while waiting and len(running) < num_workers:
            shard = waiting.pop()
            running[task.remote(shared, folder, plan, shard)] = shard
        done, _ = ray.wait(list(running), num_returns=1)
        shard = running.pop(done[0])
        try:
            problem = ray.get(done[0])
        except RayError as error:
            cause = root_cause(error)
            reason = f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}"
            raise GenerationError(f"shard {shard} failed ({reason}); the same command resumes here") from error
        if problem is not None:
            raise problem
        yield shard


def _make(generator: LoadedGenerator, folder: Path, plan: ShardPlan, shard: int) -> ConfigError | None:
    """Run in a worker; an error of the configuration is returned, as a retry does not help."""
    try:
        check_visible(folder, plan)
    except ConfigError as error:
        return error
    with one_thread():
        make_shard(generator.to(plan.device), folder, plan, shard)
    return None
