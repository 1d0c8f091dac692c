"""Number, devices and spread of the workers: pure functions of a config and a cluster's nodes."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ganscale.config import Config, ConfigError
from ganscale.storage.workers import WorkerRecord


@dataclass(frozen=True)
class NodeResources:
    """CPUs and GPUs of one node of the cluster."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Placement:
    """The workers of a run."""

    num_workers: int  # number of data-parallel workers
    use_gpu: bool  # whether each has a GPU of its own
    strategy: Literal["PACK", "SPREAD"]  # SPREAD over several nodes, PACK on one


def place(config: Config, nodes: Sequence[NodeResources]) -> Placement:
    """Choose the workers of a run.

    Args:
        config: The run's config.
        nodes: All nodes of the cluster.

    Raises:
        ConfigError: The cluster can never hold them, or a GPU is required and there is none.
    """
    cpus = config.cluster.cpus_per_worker
    nodes = beside_evaluation(config, nodes)
    gpus, wanted, use_gpu = count_gpus(config, nodes), config.cluster.num_workers, config.train.device == "cuda"
    if config.train.device == "auto":
        least = 1 if wanted == "auto" else min(wanted) if isinstance(wanted, tuple) else wanted
        use_gpu = sum(_room(node, cpus, True) for node in nodes) >= least
    room = sum(_room(node, cpus, use_gpu) for node in nodes)
    if wanted == "auto":
        usable = sum(1 for node in nodes if _room(node, cpus, use_gpu))
        most = config.train.batch_size // config.model.packing // config.train.accumulation
        most = min(most, config.train.shards or most)
        num_workers = min(max(1, room), most, gpus if use_gpu else max(2, usable))
    elif isinstance(wanted, tuple):
        num_workers = max(wanted[0], min(wanted[1], room))
    else:
        num_workers = wanted
    if num_workers > room:
        raise _too_small(config, nodes, room, use_gpu)
    return Placement(num_workers, use_gpu, "SPREAD" if len(nodes) > 1 else "PACK")


def recorded(config: Config, record: WorkerRecord, least: int = 1) -> Config:
    """The config with a range of workers, up to those of a run's record, in place of `cluster.num_workers: auto`.

    Args:
        config: The run's config.
        record: The run's record.
        least: Lower end of the range, at most the record's number.
    """
    cluster = config.cluster.model_copy(update={"num_workers": (least, record.num_workers)})
    train = config.train.model_copy(update={"device": "cuda" if record.use_gpu else "cpu"})
    return config.model_copy(update={"cluster": cluster, "train": train})


def place_recorded(config: Config, record: WorkerRecord, nodes: Sequence[NodeResources]) -> Placement:
    """Choose the workers of a run that resumes with `cluster.num_workers: auto`: at least those of its record.

    Args:
        config: The run's config.
        record: The run's record.
        nodes: All nodes of the cluster.

    Raises:
        ConfigError: The nodes hold fewer.
    """
    now = place(config, nodes)
    if now.use_gpu > record.use_gpu or (now.use_gpu == record.use_gpu and now.num_workers >= record.num_workers):
        return now
    return place(recorded(config, record, record.num_workers), nodes)


def place_recorded_or_fewer(config: Config, record: WorkerRecord, nodes: Sequence[NodeResources]) -> Placement:
    """Choose the workers where the nodes may hold fewer than the record says; on the CPU if there is no GPU left.

    Args:
        config: The run's config, whose `cluster.num_workers` is auto.
        record: The run's record.
        nodes: All nodes of the cluster.

    Raises:
        ConfigError: There is no room for a worker.
    """
    for choose in (partial(place_recorded, config, record), partial(place, recorded(config, record))):
        with suppress(ConfigError):
            return choose(nodes)
    return place(config, nodes)


def evaluation_resources(config: Config) -> dict[str, float]:
    """Resources of the process that evaluates beside the workers, by Ray's names; empty if there is none.

    Args:
        config: The run's config.
    """
    settings = config.eval
    if settings.mode == "inline" or not settings.every:
        return {}
    return {"CPU": float(settings.cpus)} | ({"GPU": 1.0} if settings.gpus else {})


def beside_evaluation(config: Config, nodes: Sequence[NodeResources]) -> list[NodeResources]:
    """The nodes without what the evaluating process takes, from the node where that costs the fewest workers.

    Args:
        config: The run's config.
        nodes: All nodes of the cluster.

    Raises:
        ConfigError: No node can hold it.
    """
    wanted = evaluation_resources(config)
    if not wanted or not nodes:
        return list(nodes)
    cpus, gpus = wanted["CPU"], wanted.get("GPU", 0.0)
    each = config.cluster.cpus_per_worker
    options = []
    for index, node in enumerate(nodes):
        rest = NodeResources(node.cpus - cpus, node.gpus - gpus)
        if rest.cpus >= 0 and rest.gpus >= 0:
            cost = [_room(node, each, use_gpu) - _room(rest, each, use_gpu) for use_gpu in (True, False)]
            options.append((cost, index, rest))
    if not options:
        key, value, name = ("eval.gpus", 1, "GPU") if gpus else ("eval.cpus", config.eval.cpus, "CPUs")
        message = f"no node of the cluster has so many {name} for eval.mode = async (it has {describe(nodes)})"
        raise ConfigError(message, key=key, value=value, remedy="use less, eval.mode=inline, or a larger cluster")
    _, chosen, rest = min(options, key=lambda option: option[:2])
    return [rest if index == chosen else node for index, node in enumerate(nodes)]


def count_gpus(config: Config, nodes: Sequence[NodeResources]) -> int:
    """GPUs of all nodes.

    Args:
        config: The run's config.
        nodes: All nodes of the cluster.

    Raises:
        ConfigError: There is none and `train.device` is cuda.
    """
    gpus = int(sum(node.gpus for node in nodes))
    if config.train.device == "cuda" and not gpus:
        remedy = "use train.device=auto or cpu"
        raise ConfigError("the cluster has no GPU", key="train.device", value="cuda", remedy=remedy)
    return gpus


def worker_resources(config: Config, *, use_gpu: bool) -> dict[str, float]:
    """Resources of one worker, by Ray's names.

    Args:
        config: The run's config.
        use_gpu: Whether each worker has a GPU.
    """
    cpus: dict[str, float] = {"CPU": config.cluster.cpus_per_worker}
    return cpus | ({"GPU": 1.0} if use_gpu else {})


def max_workers(wanted: int | tuple[int, int] | str, *, use_gpu: bool = False) -> int:
    """The largest number of workers that `cluster.num_workers` requests; for auto, that a single node provides.

    Args:
        wanted: `cluster.num_workers`.
        use_gpu: Whether workers have GPUs.
    """
    if isinstance(wanted, tuple):
        return wanted[1]
    return wanted if isinstance(wanted, int) else 1 if use_gpu else 2


def describe(nodes: Sequence[NodeResources]) -> str:
    """Total resources of a cluster, for an error message.

    Args:
        nodes: All nodes of the cluster.
    """
    cpus, gpus = sum(node.cpus for node in nodes), int(sum(node.gpus for node in nodes))
    return f"{len(nodes)} nodes, {cpus:g} CPUs and {gpus} GPUs"


def _too_small(config: Config, nodes: Sequence[NodeResources], room: int, use_gpu: bool) -> ConfigError:
    cpus = config.cluster.cpus_per_worker
    per_worker = f"{cpus} CPU{'s' * (cpus > 1)}" + (" and 1 GPU" if use_gpu else "")
    if beside := evaluation_resources(config):
        per_worker += f" beside {' and '.join(f'{n:g} {name}' for name, n in beside.items())} for eval.mode = async"
    if room:
        message = f"the cluster can hold {room} workers of {per_worker} (it has {describe(nodes)})"
        remedy = f"use cluster.num_workers <= {room}, a smaller cluster.cpus_per_worker, or a larger cluster"
        remedy += ", or eval.mode=inline" * bool(beside)
        return ConfigError(message, key="cluster.num_workers", value=config.cluster.num_workers, remedy=remedy)
    largest = int(max((n.cpus for n in nodes if n.gpus or not use_gpu), default=0))
    message = f"no node of the cluster can hold a worker of {per_worker} (it has {describe(nodes)})"
    remedy = f"use cluster.cpus_per_worker <= {largest}" if largest else "add nodes to the cluster"
    remedy += ", or eval.mode=inline" * bool(beside)
    return ConfigError(message, key="cluster.cpus_per_worker", value=cpus, remedy=remedy)


def _room(node: NodeResources, cpus: int, use_gpu: bool) -> int:
    """Workers that fit on a node."""
    room = int(node.cpus // cpus)
    return min(room, int(node.gpus)) if use_gpu else room
