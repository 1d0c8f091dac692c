"""The connection to a Ray cluster: joins a running one, or starts one on this machine."""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from ganscale.config import Config, ConfigError
from ganscale.launch.compat import check_version, draining_nodes, running_cluster
from ganscale.launch.placement import NodeResources, max_workers

_logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
"""Seconds that a cluster which is still starting may take to accept connections; Ray itself waits for 15 minutes."""
INIT_ATTEMPTS = 3
INIT_PAUSE = 5.0
"""Seconds between two attempts."""

_SLOW = (
    "the Ray cluster at %s does not answer yet; if it no longer exists, interrupt this (Ctrl-C), then run "
    "`ray stop`, or train on this machine alone with cluster.address=local"
)
_NO_CLUSTER = (
    "start one with `ray start --head`, remove a dead one with `ray stop`, "
    "or train on this machine alone with cluster.address=local"
)


class ClusterError(ConnectionError):
    """Ray cannot be started or joined though the settings are right, as on an overloaded machine."""


@contextmanager
def connected(config: Config, *, dashboard: bool = False) -> Iterator[bool]:
    """Stay connected while the block runs; a cluster that was started for it ends with it.

    Args:
        config: Section `cluster` names the cluster and what one started here must hold.
        dashboard: Whether a cluster started here has one; Ray frees the resources of a killed nested run only with it.

    Yields:
        Whether the cluster existed before; one that was started here never grows.

    Raises:
        ConfigError: The cluster cannot be reached, or this machine is too small.
        ClusterError: Ray did not start in `INIT_ATTEMPTS` attempts.
    """
    joined = _connect(config, dashboard)
    try:
        yield joined
    finally:
        ray.shutdown()


def _connect(config: Config, dashboard: bool = False) -> bool:
    """Join the cluster of `cluster.address` (True), or start one on this machine (False)."""
    if warning := check_version():
        _logger.warning(warning)
    address = config.cluster.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"
    if address == "auto":
        address = running_cluster() or "local"
    if address == "local":
        _start(config, dashboard)
        return False
    _logger.info("joining the Ray cluster at %s", address)
    wait_for_listener(address)
    warning = threading.Timer(20.0, _logger.warning, [_SLOW, address])
    warning.daemon = True
    warning.start()
    try:
        _init(address=address)
    except (ConnectionError, RuntimeError) as error:  # RuntimeError: another version of Ray or Python
        if isinstance(error, ClusterError):
            raise
        message = f"the Ray cluster there refuses this process ({_one_line(error)})"
        remedy = "use the cluster's token (RAY_AUTH_TOKEN or ~/.ray/auth_token), Ray and Python"
        raise ConfigError(message, key="cluster.address", value=address, remedy=remedy) from None
    finally:
        warning.cancel()
    return True


def _start(config: Config, dashboard: bool) -> None:
    _logger.info("starting Ray on this machine")
    workers, each = config.cluster.num_workers, config.cluster.cpus_per_worker
    wanted, cpus = max_workers(workers) * each, os.cpu_count() or 1
    limit = max(8, 4 * cpus)
    if wanted > limit:
        most = limit // each
        raise ConfigError(
            f"{wanted} CPUs are requested, this machine has {cpus}",
            key="cluster.num_workers" if most else "cluster.cpus_per_worker",
            value=workers if most else each,
            remedy=f"use at most {most or cpus} {'workers' if most else 'CPUs per worker'}, or join a cluster",
        )
    _init(address="local", num_cpus=max(cpus, wanted), include_dashboard=dashboard)


def _init(**options: Any) -> None:
    """Call `ray.init`, again where a node did not start in time.

    Raises:
        ConnectionError, RuntimeError: The cluster to join refuses this process.
        ClusterError: All attempts failed.
    """
    for attempt in range(1, INIT_ATTEMPTS + 1):
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
            return
        except Exception as error:  # Ray raises a bare Exception for a node that did not start in time
            if options["address"] != "local" and isinstance(error, ConnectionError | RuntimeError):
                raise
            ray.shutdown()
            if attempt == INIT_ATTEMPTS:
                message = f"Ray did not start in {attempt} attempts ({_one_line(error)})"
                raise ClusterError(f"{message}; the machine may be overloaded, run the same command later") from error
            _logger.warning("Ray did not start (%s); trying again in %.0f s", _one_line(error), INIT_PAUSE)
            time.sleep(INIT_PAUSE)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def wait_for_listener(address: str, *, timeout: float = CONNECT_TIMEOUT) -> None:
    """Return as soon as a process accepts connections at an address.

    Args:
        address: HOST:PORT.
        timeout: Seconds to wait.

    Raises:
        ConfigError: The address has another form, or no process accepts connections in time.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in address or not port.isdecimal() or not 0 < int(port) < 65_536:
        remedy = "write HOST:PORT as `ray start --head` shows it, auto or local"
        raise ConfigError("is not the address of a Ray cluster", key="cluster.address", value=address, remedy=remedy)
    until = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
            return
        except (OSError, UnicodeError) as error:  # UnicodeError: not a host name
            if time.monotonic() + 1.0 > until:
                message = f"no Ray cluster answers there ({getattr(error, 'strerror', None) or error})"
                raise ConfigError(message, key="cluster.address", value=address, remedy=_NO_CLUSTER) from None
        time.sleep(1.0)


def nodes() -> list[NodeResources]:
    """Resources of each live node that is not being drained."""
    draining = draining_nodes()
    return [
        NodeResources(float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0)))
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in draining
    ]


def unreachable_nodes() -> list[str]:
    """Addresses of nodes that the cluster believes alive but that accept no connection: crashed or cut off."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            try:
                socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=2.0).close()
            except OSError:
                found.append(node["NodeManagerAddress"])
    return found


def host_names(ids: set[str]) -> set[str]:
    """Host names of nodes, as their machines know them.

    Args:
        ids: of the nodes, as Ray has them.
    """
    return {node["NodeManagerHostname"] for node in ray.nodes() if node["NodeID"] in ids}


def unused() -> NodeResources:
    """Unused resources of all nodes together."""
    resources = ray.available_resources()
    return NodeResources(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))
