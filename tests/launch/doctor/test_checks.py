"""Checks: a healthy cluster is green; each thing that is wrong changes its own check, with a remedy."""

from dataclasses import replace
from typing import Any

import pytest

from ganscale.launch.doctor.checks import CHECKS, Facts, NodeReport, Requirements, run_checks
from ganscale.launch.doctor.links import PairReport
from tests.launch.doctor.test_links import report

VERSIONS = {"python": "3.12.1", "ray": "2.60.0", "torch": "2.13.0", "ganscale": "0.1.0 (abcdef0)"}


def node(name: str, **changes: Any) -> NodeReport:
    others = [other for other in ("head", "w1", "w2") if other != name]
    values: dict[str, Any] = {
        "versions": VERSIONS,
        "memory_gb": 32.0,
        "shm_gb": 4.0,
        "resolves": "10.0.0.1",
        "wandb_key": True,
        "clock": 0.01,
        "free_gb": 100.0,
        "write_seconds": 0.1,
        "latency_ms": dict.fromkeys(others, 0.2),
        "bandwidth_mb": {others[0]: 500.0},
        "backend": "gloo",
        "all_reduce_ms": 0.5,
        "all_reduce_mb": 400.0,
    }
    return NodeReport(name, **values | changes)


def cluster(**changes: Any) -> Facts:
    """Three nodes; the changes are those of w1."""
    return Facts([node("head", trains=False), node("w1", **changes), node("w2")], storage="/mnt/runs")


def not_green(facts: Facts, **requirements: Any) -> dict[str, str]:
    """Status by check; every such result has a remedy."""
    results = [each for each in run_checks(facts, Requirements(**requirements)) if each.status != "green"]
    assert all(each.found and each.remedy and "{" not in each.remedy for each in results)
    return {each.check: each.status for each in results}


def test_a_healthy_cluster_is_green() -> None:
    results = run_checks(cluster(), Requirements(nodes=3))
    assert [each.check for each in results] == list(CHECKS)
    assert {(each.status, each.remedy) for each in results} == {("green", "")}


@pytest.mark.parametrize(
    ("changes", "check", "status"),
    [
        *[({"problems": {check: ["no answer"]}}, check, "red") for check in CHECKS],
        ({"versions": VERSIONS | {"torch": "2.12.0"}}, "packages", "red"),
        ({"versions": VERSIONS | {"ganscale": "0.1.0 (0000000)"}}, "packages", "red"),
        ({"versions": {"python": "3.12.1", "torch": "2.13.0"}}, "packages", "red"),
        ({"versions": VERSIONS | {"python": "3.11.7"}}, "Python", "red"),
        ({"ray_gpus": 2, "gpus": ("H100",)}, "GPUs", "red"),
        ({"ray_gpus": 2, "gpus": ("H100", "A100")}, "GPUs", "yellow"),
        ({"resolves": "127.0.1.1"}, "host name", "red"),
        ({"resolves": ""}, "host name", "red"),
        ({"resolves": "127.0.1.1", "interface": "eth0"}, "", ""),
        ({"bandwidth_mb": {"w2": 24.0}}, "links", "red"),
        ({"bandwidth_mb": {"w2": 99.0}}, "links", "yellow"),
        ({"latency_ms": {"w2": 51.0}}, "links", "red"),
        ({"all_reduce_mb": 24.0}, "all-reduce", "red"),
        ({"all_reduce_mb": 49.0}, "all-reduce", "yellow"),
        ({"all_reduce_mb": 50.0}, "", ""),
        ({"all_reduce_ms": 51.0}, "all-reduce", "red"),
        ({"unseen": ("head", "w2")}, "storage", "red"),
        ({"write_seconds": 5.1}, "storage", "yellow"),
        ({"free_gb": 4.9}, "free space", "red"),
        ({"free_gb": 19.0}, "free space", "yellow"),
        ({"clock": -2.1}, "clocks", "red"),
        ({"wandb_key": False}, "W&B", "red"),
        ({"shm_gb": 0.064}, "/dev/shm", "red"),
        ({"shm_gb": 0.9}, "/dev/shm", "yellow"),
        ({"memory_gb": 0.9}, "memory", "red"),
        ({"memory_gb": 1.9}, "memory", "yellow"),
    ],
)
def test_each_fault_changes_its_own_check(changes: dict[str, Any], check: str, status: str) -> None:
    assert not_green(cluster(**changes)) == ({check: status} if check else {})


def test_software_of_gpus_is_compared_on_nodes_that_have_some() -> None:
    software = VERSIONS | {"driver": "580.95", "cuda": "13.0", "nccl": "2.28.3"}
    gpus: dict[str, Any] = {"gpus": ("H200",), "ray_gpus": 1, "versions": software}
    facts = Facts([node("head", trains=False), node("w1", **gpus), node("w2", **gpus)])
    assert not_green(facts) == {}
    for package in ("driver", "nccl"):
        facts.nodes[2].versions = software | {package: "1.0"}
        assert not_green(facts) == {"GPU software": "red"}


def test_slow_and_broken_pairs_are_red() -> None:
    assert not_green(replace(cluster(), links=report(4))) == {}
    assert not_green(replace(cluster(), links=report(4, slow=("w1",)))) == {"pairs": "red"}
    broken = report(3)
    broken.pairs[1] = PairReport("w0", "w2", problem="no answer")
    (result,) = [each for each in run_checks(replace(cluster(), links=broken), Requirements()) if each.remedy]
    assert (result.check, result.found) == ("pairs", "w0 - w2: no answer")


def test_missing_nodes() -> None:
    lost = replace(cluster(), dead=("w3",))
    assert not_green(lost) == {"nodes": "yellow"}
    assert not_green(lost, nodes=4) == {"nodes": "red"}
    unreachable = Facts([node("w1", problems={"nodes": ["no answer"]})])
    assert [(each.check, each.status) for each in run_checks(unreachable, Requirements())] == [("nodes", "red")]


def test_what_a_run_does_not_need() -> None:
    assert not_green(cluster(), device="cuda") == {"GPUs": "red"}
    without_key = Facts([node(name, wandb_key=False) for name in ("head", "w1")])
    assert not_green(without_key) == not_green(without_key, wandb="offline") == {}
    assert not_green(without_key, wandb="online") == {"W&B": "red"}
    laptop = {
        "latency_ms": {},
        "bandwidth_mb": {},
        "all_reduce_ms": None,
        "all_reduce_mb": None,
        "resolves": "127.0.1.1",
    }
    assert not_green(Facts([node("laptop", **laptop)])) == {}


def test_many_findings_are_counted() -> None:
    nodes = [node(f"w{index}", shm_gb=0.01) for index in range(9)]
    (result,) = [each for each in run_checks(Facts(nodes), Requirements()) if each.status != "green"]
    assert [name in result.found for name in ("w0", "w3", "w4", "5 more")] == [True, True, False, True]
