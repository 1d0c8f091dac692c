"""How many workers, on which devices, spread how: pure functions of a config and a cluster's nodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ganscale.config import Config, ConfigError
from ganscale.sweep.config import SweepSettings


@dataclass(frozen=True)
class NodeResources:
    """What one machine of the cluster offers."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Placement:
    """The workers of a run.

    Attributes:
        num_workers: data-parallel workers.
        use_gpu: whether each has a GPU of its own.
        strategy: SPREAD over several nodes, PACK on one.
    """

    num_workers: int
    use_gpu: bool
    strategy: Literal["PACK", "SPREAD"]


def place(config: Config, nodes: Sequence[NodeResources]) -> Placement:
    """Choose the workers of a run.

    Raises:
        ConfigError: the cluster can never hold them, or a GPU is asked for and there is none.
    """
    cpus = config.cluster.cpus_per_worker
    gpus = int(sum(node.gpus for node in nodes))
    wanted = config.cluster.num_workers
    if config.train.device == "cuda" and not gpus:
        raise ConfigError(
            "the cluster has no GPU", key="train.device", value="cuda", remedy="use train.device=auto or cpu"
        )
    use_gpu = config.train.device == "cuda"
    if config.train.device == "auto":
        least = 1 if wanted == "auto" else min(wanted) if isinstance(wanted, tuple) else wanted
        use_gpu = sum(_room(node, cpus, True) for node in nodes) >= least
    room = sum(_room(node, cpus, use_gpu) for node in nodes)
    if wanted == "auto":
        usable = sum(1 for node in nodes if _room(node, cpus, use_gpu))
        most = config.train.batch_size // config.model.packing // config.train.accumulation
        num_workers = min(max(1, room), most, gpus if use_gpu else max(2, usable))
    elif isinstance(wanted, tuple):
        num_workers = max(wanted[0], min(wanted[1], room))
    else:
        num_workers = wanted
    if num_workers > room:
        raise _too_small(config, nodes, room, use_gpu)
    return Placement(num_workers, use_gpu, "SPREAD" if len(nodes) > 1 else "PACK")


def worker_resources(config: Config, *, use_gpu: bool) -> dict[str, float]:
    """What one worker takes, by Ray's names."""
    cpus: dict[str, float] = {"CPU": config.cluster.cpus_per_worker}
    return cpus | ({"GPU": 1.0} if use_gpu else {})


def max_workers(wanted: int | tuple[int, int] | str, *, use_gpu: bool = False) -> int:
    """How many workers `cluster.num_workers` means at most where their number does not follow from the nodes."""
    if isinstance(wanted, tuple):
        return wanted[1]
    return wanted if isinstance(wanted, int) else 1 if use_gpu else 2


def _too_small(config: Config, nodes: Sequence[NodeResources], room: int, use_gpu: bool) -> ConfigError:
    cpus = config.cluster.cpus_per_worker
    per_worker = f"{cpus} CPU{'s' * (cpus > 1)}" + (" and 1 GPU" if use_gpu else "")
    has = f"{len(nodes)} nodes, {sum(n.cpus for n in nodes):g} CPUs and {int(sum(n.gpus for n in nodes))} GPUs"
    if room:
        return ConfigError(
            f"the cluster can hold {room} workers of {per_worker} (it has {has})",
            key="cluster.num_workers",
            value=config.cluster.num_workers,
            remedy=f"use cluster.num_workers <= {room}, a smaller cluster.cpus_per_worker, or a larger cluster",
        )
    largest = int(max((n.cpus for n in nodes if n.gpus or not use_gpu), default=0))
    return ConfigError(
        f"no node of the cluster can hold a worker of {per_worker} (it has {has})",
        key="cluster.cpus_per_worker",
        value=cpus,
        remedy=f"use cluster.cpus_per_worker <= {largest}" if largest else "add nodes to the cluster",
    )


def _room(node: NodeResources, cpus: int, use_gpu: bool) -> int:
    """Workers that fit on a node."""
    room = int(node.cpus // cpus)
    return min(room, int(node.gpus)) if use_gpu else room


def concurrent_trials(
    sweep: SweepSettings, nodes: Sequence[NodeResources], *, use_gpu: bool, grows: bool = False
) -> int:
    """How many trials the cluster holds at a time, with all workers of each; at most `sweep.max_concurrent`.

    Args:
        sweep: the sweep's settings.
        nodes: that are there.
        use_gpu: whether trials take GPUs.
        grows: whether an autoscaler adds nodes for trials that wait: then as many as `sweep.max_concurrent` says.

    Raises:
        ConfigError: not even one fits.
    """
    cpus, share = sweep.cpus_per_worker, sweep.gpus_per_worker
    rooms = [int(node.cpus // cpus) for node in nodes]
    if use_gpu:
        rooms = [min(room, int(node.gpus) * int(1 / share + 1e-9)) for room, node in zip(rooms, nodes, strict=True)]
    fit = sum(rooms) // sweep.workers
    if not fit:
        each = f"{cpus} CPU{'s' * (cpus > 1)}" + (f" and {share:g} GPU" if use_gpu else "")
        has = f"{len(nodes)} nodes, {sum(n.cpus for n in nodes):g} CPUs and {int(sum(n.gpus for n in nodes))} GPUs"
        raise ConfigError(
            f"the cluster can hold {sum(rooms)} workers of {each} (it has {has}): no trial would ever start",
            key="sweep.workers",
            value=sweep.workers,
            remedy=f"use sweep.workers <= {sum(rooms)}" if sum(rooms) else "use a smaller sweep.cpus_per_worker",
        )
    if sweep.max_concurrent == "auto":
        return fit
    return sweep.max_concurrent if grows else min(fit, sweep.max_concurrent)
