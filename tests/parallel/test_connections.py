"""Connections of this process, whoever made them: found, probed, and closed where nothing comes."""

import socket
import time

import pytest

from ganscale.parallel import connections as module
from ganscale.parallel.connections import close_silent, connections, probe, silence


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]


def test_a_connection_is_found_and_its_end_noticed() -> None:
    before = {inode for inode, _ in connections()}
    ours, theirs = pair()
    with ours:
        assert len({inode for inode, _ in connections()} - before) == 2
        theirs.sendall(b"x")
        assert silence(ours) is not None
        theirs.close()
        deadline = time.monotonic() + 10.0
        while silence(ours) is not None:
            assert time.monotonic() < deadline


def test_probes_are_answered_by_a_process_that_does_nothing() -> None:
    ours, theirs = pair()
    with ours, theirs:
        probe(ours)
        time.sleep(5.0)
        seconds = silence(ours)
        assert seconds is not None
        assert seconds < 4.0


@pytest.mark.parametrize(("limit", "closed"), [(60.0, False), (-1.0, True)])
def test_silent_connections_to_a_port_are_closed(monkeypatch: pytest.MonkeyPatch, limit: float, closed: bool) -> None:
    monkeypatch.setattr(module, "SILENCE", limit)
    ours, theirs = pair()
    others = pair()
    with ours, theirs, others[0], others[1]:
        port = ours.getpeername()[1]
        close_silent(port)  # now it is probed
        assert silence(ours) is not None
        close_silent(port)
        assert (silence(ours) is None) == closed
        assert all(silence(each) is not None for each in others)
