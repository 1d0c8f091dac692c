"""Which cluster a run joins, and its errors; Ray is replaced."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ganscale import train
from ganscale.config import Config, ConfigError, load
from ganscale.launch import cluster
from ganscale.launch.cluster import ClusterError, connected, wait_for_listener
from tests.processes import free_port


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where something listens."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that Ray was asked to join, which it does not really do."""
    addresses: list[str] = []
    monkeypatch.setattr(cluster.ray, "init", lambda address, **_: addresses.append(address))
    monkeypatch.setattr(cluster, "running_cluster", lambda: None)
    return addresses


@pytest.fixture
def connect(joined: list[str]) -> Callable[[Config], bool]:
    assert joined == []
    return cluster._connect


@pytest.mark.parametrize("variable", [None, "", "auto", "local"])
def test_without_a_cluster_one_is_started_here(
    connect: Any, joined: list[str], monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    connect(load())
    assert joined == ["local"]


@pytest.mark.parametrize("variable", [None, "auto"])
def test_auto_joins_the_cluster_of_this_machine(
    connect: Any, joined: list[str], monkeypatch: pytest.MonkeyPatch, address: str, variable: str | None
) -> None:
    monkeypatch.setattr("ganscale.launch.cluster.running_cluster", lambda: address)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    connect(load())
    connect(load(overrides=["cluster.address=local"]))
    assert joined == [address, "local"]


def test_the_setting_goes_before_the_environment_and_that_before_this_machine(
    connect: Any, joined: list[str], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    host, port = address.split(":")
    monkeypatch.setattr("ganscale.launch.cluster.running_cluster", lambda: "nowhere:1")
    monkeypatch.setenv("RAY_ADDRESS", address)
    connect(load())
    monkeypatch.setenv("RAY_ADDRESS", "nowhere:2")
    connect(load(overrides=[f"cluster.address=localhost:{port}"]))
    assert joined == [f"{host}:{port}", f"localhost:{port}"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379"), "(Failed to connect to Ray cluster"),
        (RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.1\n"), "started with: Ray: 2.1)"),
    ],
)
def test_a_cluster_that_does_not_let_us_in_is_an_error_with_a_remedy(
    connect: Any, monkeypatch: pytest.MonkeyPatch, address: str, error: Exception, words: str
) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr("ganscale.launch.cluster.ray.init", refuse)
    with pytest.raises(ConfigError) as caught:
        connect(load(overrides=[f"cluster.address={address}"]))
    assert words in str(caught.value)
    assert "RAY_AUTH_TOKEN" in caught.value.remedy
    assert str(caught.value).count("\n") == 1


TIMED_OUT = Exception("The current node timed out during startup.\nThe GCS may have become overloaded.")


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Errors of the next calls of `ray.init`; without one it succeeds."""
    errors: list[Exception] = []

    def init(**_: object) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster, "INIT_PAUSE", 0.0)
    return errors


@pytest.mark.parametrize("joins", [False, True])
def test_a_node_that_does_not_start_in_time_is_retried(errors: list[Exception], address: str, joins: bool) -> None:
    errors[:] = [TIMED_OUT] * (cluster.INIT_ATTEMPTS - 1)
    with connected(load(overrides=[f"cluster.address={address if joins else 'local'}"])) as joined:
        assert (errors, joined) == ([], joins)


def test_ray_that_never_starts_is_one_message(
    errors: list[Exception], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    errors[:] = [TIMED_OUT] * 99
    with pytest.raises(ClusterError), connected(load(overrides=["cluster.address=local"])):
        pass
    assert len(errors) == 99 - cluster.INIT_ATTEMPTS
    assert train.main(["cluster.address=local", f"run.dir={tmp_path}", "wandb.mode=disabled"]) == 1
    message = capsys.readouterr().err
    assert "timed out during startup" in message
    assert "Traceback" not in message


def test_a_listener_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        wait_for_listener(f"127.0.0.1:{server.getsockname()[1]}", timeout=5)
        wait_for_listener(f"localhost:{server.getsockname()[1]}", timeout=5)


def test_one_that_is_just_starting_is_waited_for() -> None:
    port = free_port()
    servers: list[socket.socket] = []
    timer = threading.Timer(0.5, lambda: servers.append(socket.create_server(("127.0.0.1", port))))
    timer.start()
    wait_for_listener(f"127.0.0.1:{port}", timeout=20)
    timer.join()
    servers[0].close()


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "a..b"])
def test_nobody_there_is_refused_with_the_ways_out(host: str) -> None:
    address = f"{host}:{free_port()}"
    with pytest.raises(ConfigError) as caught:
        wait_for_listener(address, timeout=1.5)
    assert str(caught.value).startswith(f"cluster.address = {address}: no Ray cluster answers there (")
    assert all(words in caught.value.remedy for words in ("`ray start --head`", "`ray stop`", "cluster.address=local"))


@pytest.mark.parametrize(
    "address",
    ["head", ":6379", "head:", "head:x", "head:0", "head:65536", "http://head:8265", "ray://head:10001", "a:²"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="write HOST:PORT"):
        wait_for_listener(address, timeout=0)
