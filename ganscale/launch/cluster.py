"""To a Ray cluster: join the one that runs, or start one on this machine."""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from ganscale.config import Config, ConfigError
from ganscale.launch.address import reach
from ganscale.launch.placement import NodeResources, max_workers

_SLOW = (
    "the Ray cluster at {address} does not answer yet; if it is no longer there, stop this (Ctrl-C), then run "
    "`ray stop`, or train on this machine alone with cluster.address=local"
)


@contextmanager
def connected(config: Config, *, dashboard: bool = False) -> Iterator[bool]:
    """Be connected while the block runs; a cluster that was started for it ends with it.

    Args:
        config: whose section `cluster` says where, and how much a cluster of our own must hold.
        dashboard: whether a cluster of our own has one; Ray frees what a killed nested run held only with it.

    Yields:
        Whether the cluster was there before: one of our own never gets more nodes.

    Raises:
        ConfigError: the cluster cannot be reached, or this machine is too small.
    """
    joined = _connect(config, dashboard)
    try:
        yield joined
    finally:
        ray.shutdown()


def _connect(config: Config, dashboard: bool = False) -> bool:
    """Join the cluster of `cluster.address` (True), or start one on this machine (False)."""
    address = config.cluster.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"
    if address == "auto":
        address = _running_cluster() or "local"
    if address != "local":
        print(f"joining the Ray cluster at {address}", flush=True)
        reach(address)
        patience = threading.Timer(20.0, print, [_SLOW.format(address=address)], {"flush": True})
        patience.daemon = True
        patience.start()
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError) as error:  # RuntimeError: it runs another version of Ray or Python
            raise ConfigError(
                f"the Ray cluster there does not let this process in ({' '.join(str(error).split())[:300]})",
                key="cluster.address",
                value=address,
                remedy="use the cluster's token (RAY_AUTH_TOKEN or ~/.ray/auth_token), Ray and Python",
            ) from None
        finally:
            patience.cancel()
        return True
    print("starting Ray on this machine", flush=True)
    workers, each = config.cluster.num_workers, config.cluster.cpus_per_worker
    wanted = max_workers(workers) * each
    cpus = os.cpu_count() or 1
    most = max(8, 4 * cpus) // each
    if wanted > max(8, 4 * cpus):
        raise ConfigError(
            f"{wanted} CPUs are asked for, this machine has {cpus}",
            key="cluster.num_workers" if most else "cluster.cpus_per_worker",
            value=workers if most else each,
            remedy=f"use at most {most or cpus} {'workers' if most else 'CPUs per worker'}, or join a cluster",
        )
    ray.init(
        address="local",
        num_cpus=max(cpus, wanted),
        include_dashboard=dashboard,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    return False


def _running_cluster() -> str | None:
    """Address of a cluster that `ray start` left on this machine, if it is alive."""
    from ray._private.services import canonicalize_bootstrap_address, find_bootstrap_address

    address = find_bootstrap_address(None)
    return canonicalize_bootstrap_address(address) if address else None


def nodes() -> list[NodeResources]:
    """What each living machine of the cluster offers that is not about to go."""
    leaving = draining()
    return [
        NodeResources(float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0)))
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in leaving
    ]


def silent() -> list[str]:
    """Addresses of nodes that count as alive but take no connection: dead without a word, or cut off."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            try:
                socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=2.0).close()
            except OSError:
                found.append(node["NodeManagerAddress"])
    return found


def draining() -> set[str]:
    """Ids of the nodes that are about to go: a spot machine that is taken back, a pod that ends."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def hosts(ids: set[str]) -> set[str]:
    """Names that the machines of these nodes have for themselves."""
    return {node["NodeManagerHostname"] for node in ray.nodes() if node["NodeID"] in ids}


def free() -> NodeResources:
    """What is free on all machines together."""
    resources = ray.available_resources()
    return NodeResources(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))
