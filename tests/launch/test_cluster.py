"""Which cluster a run joins, and what it says when that one does not take it; no cluster is needed for this."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ganscale.config import Config, ConfigError, load


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where something listens."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that Ray was asked to join, which it does not really do."""
    from ganscale.launch import cluster

    addresses: list[str] = []
    monkeypatch.setattr(cluster.ray, "init", lambda address, **_: addresses.append(address))
    monkeypatch.setattr(cluster, "_running_cluster", lambda: None)
    return addresses


@pytest.fixture
def connect(joined: list[str]) -> Callable[[Config], bool]:
    from ganscale.launch import cluster

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
    monkeypatch.setattr("ganscale.launch.cluster._running_cluster", lambda: address)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    connect(load())
    connect(load(overrides=["cluster.address=local"]))
    assert joined == [address, "local"]


def test_the_setting_goes_before_the_environment_and_that_before_this_machine(
    connect: Any, joined: list[str], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    host, port = address.split(":")
    monkeypatch.setattr("ganscale.launch.cluster._running_cluster", lambda: "nowhere:1")
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
