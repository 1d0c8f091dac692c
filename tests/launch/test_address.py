"""An address where no cluster is must be refused at once."""

import socket
import threading
import time

import pytest

from ganscale.config import ConfigError
from ganscale.launch.address import reach
from tests.processes import free_port


def test_a_listener_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        reach(f"127.0.0.1:{server.getsockname()[1]}", patience=5)
        reach(f"localhost:{server.getsockname()[1]}", patience=5)


def test_one_that_is_just_starting_is_waited_for() -> None:
    port = free_port()
    servers: list[socket.socket] = []
    timer = threading.Timer(0.5, lambda: servers.append(socket.create_server(("127.0.0.1", port))))
    timer.start()
    reach(f"127.0.0.1:{port}", patience=20)
    timer.join()
    servers[0].close()


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "a..b"])
def test_nobody_there_is_refused_with_the_ways_out(host: str) -> None:
    address = f"{host}:{free_port()}"
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        reach(address, patience=1.5)
    assert time.monotonic() - started < 30
    assert str(caught.value).startswith(f"cluster.address = {address}: no Ray cluster answers there (")
    assert all(words in caught.value.remedy for words in ("`ray start --head`", "`ray stop`", "cluster.address=local"))


@pytest.mark.parametrize(
    "address",
    ["head", ":6379", "head:", "head:x", "head:0", "head:65536", "http://head:8265", "ray://head:10001", "a:²"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="write HOST:PORT"):
        reach(address, patience=0)
