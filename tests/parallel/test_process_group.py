"""The default process group that can be given up at any time and made again with others."""

import os
import socket
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from ganscale.parallel import process_group
from ganscale.parallel.collectives import data_parallel, reduce_
from ganscale.parallel.connections import connections
from ganscale.parallel.process_group import ProcessGroup
from ganscale.parallel.replica import Replica
from tests.fleet import Fleet, over_gloo

LATE = 3600.0
"""Seconds after which a collective call fails that the sockets do not let fail: too late for the test."""


def store_address() -> str:
    """A TCPStore of rank 0, known to all."""
    box = [None]
    if dist.get_rank() == 0:
        store_address.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # pyright: ignore
        box = [f"127.0.0.1:{store_address.store.port}"]  # pyright: ignore[reportFunctionMemberAccess]
    dist.broadcast_object_list(box, 0)
    assert isinstance(box[0], str)
    return box[0]


def give_up(group: ProcessGroup, kept: list) -> None:
    """Rank 1 gives up while it waits for another rank, and the others wait for it."""
    with group:
        kept.append((group, data_parallel(nn.Linear(3, 3), Replica.current()), dist.group.WORLD))
        reduce_(torch.ones(3))
        if dist.get_rank() == 1:
            threading.Timer(0.2, group.abort).start()
            dist.recv(torch.ones(3), (dist.get_rank() + 1) % dist.get_world_size())  # what no other sends
        reduce_(torch.ones(3))


def given_up(shared_memory: bool) -> float:
    """Rank 1 gives the group up while the others wait for it, twice; then all meet again."""
    if not shared_memory:
        os.environ["GANSCALE_SHARED_MEMORY"] = "0"
    rank, size, address = dist.get_rank(), dist.get_world_size(), store_address()
    dist.barrier()
    dist.destroy_process_group()
    kept = []  # what refers to a group does not keep its sockets open
    for turn in range(2):
        with pytest.raises(RuntimeError):
            give_up(ProcessGroup(address, f"group/{turn}", rank, size, timeout=LATE), kept)
        assert not dist.is_initialized()
    with ProcessGroup(address, "group/last", rank, size, timeout=LATE):
        x = torch.ones(3)
        reduce_(x)
    os.environ.pop("GANSCALE_SHARED_MEMORY", None)
    return x.sum().item()


@pytest.mark.multiprocess
@pytest.mark.parametrize("shared_memory", [False, True], ids=["gloo", "shared_memory"])
def test_a_member_that_gives_up_is_noticed_by_all_at_once_and_they_meet_again(
    fleet: Fleet, shared_memory: bool
) -> None:
    assert fleet.run(given_up, 3, shared_memory) == [9.0] * 3


def stays(seconds: float) -> tuple[bool, bool]:
    """Rank 1 stays in the block after the others have given the group up; whether it was overdue before and after."""
    address, rank, size = store_address(), dist.get_rank(), dist.get_world_size()
    dist.barrier()
    dist.destroy_process_group()
    overdue, process_group.WATCH_EVERY = threading.Event(), 0.1
    with suppress(RuntimeError), ProcessGroup(address, "stays", rank, size, timeout=seconds, overdue=overdue.set):
        if rank != 1:
            time.sleep(5.0)
            raise RuntimeError
        before = overdue.wait(1.5)  # while all are there
        return before, overdue.wait(30.0)
    return False, False


@pytest.mark.multiprocess
def test_a_member_is_overdue_that_stays_after_others_have_given_up(
    fleet: Fleet,
) -> None:
    assert fleet.run(stays, 3, 0.5)[1] == (False, True)


def idles(limit: float) -> bool:
    """Whether a group that sends nothing for five seconds lasts, if machines may be silent for `limit` seconds."""
    address, rank, size = store_address(), dist.get_rank(), dist.get_world_size()
    dist.barrier()
    dist.destroy_process_group()
    with pytest.MonkeyPatch.context() as patch, over_gloo():
        patch.setattr(process_group, "SILENCE", limit)
        patch.setattr(process_group, "WATCH_EVERY", 0.1)
        try:
            with ProcessGroup(address, "idles", rank, size, timeout=LATE):
                time.sleep(5.0)
                reduce_(torch.ones(3))
        except RuntimeError:
            return False
    return True


@pytest.mark.multiprocess
@pytest.mark.parametrize("limit", [4.0, 0.5])
def test_keepalive_probes_are_the_least_that_a_machine_must_answer(fleet: Fleet, limit: float) -> None:
    assert fleet.run(idles, 2, limit) == [limit > 2.0] * 2


def timeouts(address: str = "") -> tuple[bool, float]:
    address = store_address()
    rank, size = dist.get_rank(), dist.get_world_size()
    dist.destroy_process_group()
    with ProcessGroup(address, "timeouts", rank, size, timeout=3.0):
        options = dist.group.WORLD._get_backend(torch.device("cpu")).options  # pyright: ignore
        return options._timeout == timedelta(seconds=3.0), len([*connections()])


def meets_while_another_thread_connects() -> tuple[bool, int]:
    """Whether a connection that another thread makes while the group forms outlives it, and the group's connections."""
    address, rank, size = store_address(), dist.get_rank(), dist.get_world_size()
    dist.barrier()
    dist.destroy_process_group()
    other, start = [], dist.init_process_group

    def connecting(*arguments: Any, **options: Any) -> None:
        start(*arguments, **options)
        with socket.create_server(("127.0.0.1", 0)) as server:
            other.extend((socket.create_connection(server.getsockname()), server.accept()[0]))

    with pytest.MonkeyPatch.context() as patch, over_gloo():
        patch.setattr(dist, "init_process_group", connecting)
        group = ProcessGroup(address, "meets", rank, size, timeout=LATE)
        with group:
            reduce_(torch.ones(3))
            found = len(group._sockets)
            reduce_(torch.ones(3))
            group.abort()
    other[0].sendall(b"x")
    return other[1].recv(1) == b"x", found


@pytest.mark.multiprocess
def test_a_group_is_gloos_connections_alone(fleet: Fleet) -> None:
    assert fleet.run(meets_while_another_thread_connects, 3) == [(True, 2)] * 3


@pytest.mark.multiprocess
def test_private_torch_2_13_functions_do_what_they_did(fleet: Fleet) -> None:
    """`_set_pg_timeout` sets gloo's own, and connections are found among the descriptors."""
    for is_set, count in fleet.run(timeouts, 2):
        assert is_set
        assert count >= 1
