"""Judgements: a healthy cluster is green; each thing that is wrong turns its own line, with who it is and a remedy."""

from dataclasses import replace
from typing import Any

import pytest

from ganscale.diagnosis import CHECKS, AllReduce, Facts, Line, Link, Needs, Node, Storage, judge

VERSIONS = {"python": "3.12.1", "ray": "2.60.0", "torch": "2.13.0", "ganscale": "0.1.0 (abcdef0)"}


def node(name: str, **changes: Any) -> Node:
    others = [other for other in ("head", "w1", "w2") if other != name]
    values: dict[str, Any] = {
        "versions": VERSIONS,
        "memory_gb": 64.0,
        "available_gb": 32.0,
        "shm_gb": 4.0,
        "resolves": "10.0.0.1",
        "wandb_key": True,
        "wandb": "",
        "clock": 0.01,
        "storage": Storage(free_gb=100.0, seconds=0.1),
        "links": {other: Link("", 0.2, 500.0 if index == 0 else None) for index, other in enumerate(others)},
    }
    return Node(name, **values | changes)


def cluster(**changes: Any) -> Facts:
    """Three nodes; the changes are w1's."""
    nodes = [node("head", trains=False), node("w1", **changes), node("w2")]
    return Facts(nodes, storage="/mnt/runs", all_reduce=AllReduce("gloo", 0.5, 400.0))


def unlike_green(facts: Facts, needs: Needs | None = None) -> list[Line]:
    return [line for line in judge(facts, needs or Needs()) if line.status != "green"]


def test_a_healthy_cluster_is_green() -> None:
    lines = judge(cluster(), Needs(nodes=3))
    assert [line.status for line in lines] == ["green"] * (len(CHECKS) + 1)
    assert len({line.check for line in lines}) == len(lines)
    assert not any(line.remedy for line in lines)


def storage(problem: str = "", free_gb: float = 100.0, seconds: float = 0.1, missing: tuple[str, ...] = ()) -> Storage:
    return Storage(problem, free_gb, seconds, missing)


@pytest.mark.parametrize(
    ("changes", "check", "found", "remedy"),
    [
        ({"versions": VERSIONS | {"torch": "2.12.0"}}, "packages", "w1 has torch 2.12.0, not 2.13.0", "one image"),
        ({"versions": VERSIONS | {"ray": "missing"}}, "packages", "w1 has ray missing, not 2.60.0", "lock"),
        ({"versions": VERSIONS | {"ganscale": "0.1.0 (0000000)"}}, "packages", "w1 has ganscale 0.1.0 (00", "checkout"),
        ({"versions": VERSIONS | {"python": "3.11.7"}}, "Python", "w1 has python 3.11.7, not 3.12.1", "same Python"),
        ({"ray_gpus": 2, "gpus": ("H100",)}, "GPUs", "w1: Ray counts 2, torch sees 1", "nvidia-smi"),
        ({"resolves": "127.0.1.1"}, "host name", "w1 takes itself for 127.0.1.1", "GLOO_SOCKET_IFNAME"),
        ({"resolves": ""}, "host name", "w1 does not know the address", "/etc/hosts"),
        ({"links": {"w2": Link("timed out (port 4)")}}, "ports", "w1 -> w2: timed out (port 4)", "ip_local_port_range"),
        ({"problems": {"ports": "no answer within 5 s"}}, "ports", "w1: no answer within 5 s", "firewall"),
        ({"links": {"w2": Link("", 0.1, 2.5)}}, "links", "w1 -> w2: 2.5 MB/s", "ethtool"),
        ({"links": {"w2": Link("", 90.0)}}, "links", "w1 -> w2: 90 ms", "zone"),
        (
            {"storage": storage("Read-only file system (/mnt/runs)")},
            "storage",
            "w1: Read-only",
            "writable for Ray's user",
        ),
        ({"storage": storage("No space left on device (/x)")}, "storage", "w1: No space left", "see free space"),
        (
            {"storage": storage(missing=("head", "w2"))},
            "storage",
            "not see the files of head, w2",
            "same storage at /mnt",
        ),
        ({"storage": None, "problems": {"storage": "no answer"}}, "storage", "w1: no answer", "mount /mnt/runs"),
        ({"storage": storage(free_gb=4.9)}, "free space", "4.9 GB in /mnt/runs, as w1 sees it; 5 GB", "old runs"),
        ({"clock": -2.1}, "clocks", "w1 is -2.1 s off", "NTP"),
        ({"problems": {"clocks": "no answer"}}, "clocks", "w1: no answer", "NTP"),
        ({"wandb": "https://api.wandb.ai: timed out"}, "W&B", "w1: https://api.wandb.ai: timed out", "HTTPS_PROXY"),
        ({"wandb_key": False}, "W&B", "no API key on w1", "WANDB_API_KEY"),
        ({"shm_gb": 0.064}, "/dev/shm", "w1: 0.064 GB", "shm-size"),
        ({"available_gb": 0.9}, "memory", "w1: 0.9 GB", "fewer workers"),
        ({"silent": "no answer within 60 s"}, "nodes", "w1: no answer within 60 s", "raylet's log"),
    ],
)
def test_what_is_wrong_is_red(changes: dict[str, Any], check: str, found: str, remedy: str) -> None:
    (line,) = unlike_green(cluster(**changes))
    assert (line.check, line.status) == (check, "red")
    assert found in line.found
    assert remedy in line.remedy


@pytest.mark.parametrize(
    ("changes", "check", "found"),
    [
        ({"gpus": ("A100",), "ray_gpus": 1}, "GPUs", "1 x H100, 1 x A100"),
        ({"links": {"w2": Link("", 0.1, 99.0)}}, "links", "at least 99 MB/s"),
        ({"storage": storage(seconds=5.1)}, "storage", "1 MiB in 5.10 s"),
        ({"storage": storage(free_gb=19.0)}, "free space", "19 GB"),
        ({"shm_gb": 0.9}, "/dev/shm", "w1: 0.9 GB"),
        ({"available_gb": 1.9}, "memory", "w1: 1.9 GB"),
    ],
)
def test_what_is_poor_is_yellow(changes: dict[str, Any], check: str, found: str) -> None:
    facts = cluster(**changes)
    if "gpus" in changes:
        facts.nodes[0].gpus, facts.nodes[0].ray_gpus = ("H100",), 1
    (line,) = unlike_green(facts)
    assert (line.check, line.status) == (check, "yellow")
    assert found in line.found
    assert line.remedy


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (AllReduce("nccl", problem="w1: timed out"), "red"),
        (AllReduce("gloo", 0.5, 24.0), "red"),
        (AllReduce("gloo", 51.0, 400.0), "red"),
        (AllReduce("gloo", 0.5, 49.0), "yellow"),
        (AllReduce("gloo", 0.5, 50.0), "green"),
        (None, "green"),
    ],
)
def test_an_all_reduce(result: AllReduce | None, status: str) -> None:
    facts = replace(cluster(), all_reduce=result)
    assert [line.status for line in unlike_green(facts)] == [status] * (status != "green")


def test_nodes_that_are_not_there() -> None:
    (line,) = unlike_green(replace(cluster(), dead=("w3",)))
    assert (line.check, line.status) == ("nodes", "yellow")
    (line,) = unlike_green(replace(cluster(), dead=("w3",)), Needs(nodes=4))
    assert (line.check, line.status, line.found) == ("nodes", "red", "3 of 4; lost: w3")
    silent = Facts([node("w1", silent="no answer")])
    assert [line.check for line in judge(silent, Needs())] == ["nodes"]


def test_what_a_run_does_not_need() -> None:
    (line,) = unlike_green(cluster(), Needs(device="cuda"))
    assert (line.check, line.status) == ("GPUs", "red")
    unreachable = cluster(wandb="timed out")
    assert unlike_green(unreachable)
    assert not unlike_green(unreachable, Needs(wandb="offline"))
    without_key = replace(cluster(), nodes=[node(name, wandb_key=False, wandb=None) for name in ("head", "w1")])
    assert not unlike_green(without_key)
    assert [line.check for line in unlike_green(without_key, Needs(wandb="online"))] == ["W&B"]
    assert not unlike_green(cluster(resolves="127.0.1.1", interface="eth0")), "the interface is named"
    assert not unlike_green(Facts([node("laptop", links={}, resolves="127.0.1.1")], storage="/mnt/runs"))


def test_many_are_counted() -> None:
    nodes = [node(f"w{index}", shm_gb=0.01, links={"w0": Link("", 1.0, 500.0)}) for index in range(9)]
    (line,) = unlike_green(Facts(nodes, storage="/mnt/runs"))
    assert line.found == "; ".join(f"w{index}: 0.01 GB" for index in range(4)) + "; and 5 more"
