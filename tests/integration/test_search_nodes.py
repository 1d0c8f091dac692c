"""A sweep on several nodes, of which one is lost."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from ganscale.sweep import tuner
from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.results import read_entries
from ganscale.sweep.tuner import search_on_ray, sweep_folder
from tests.processes import ROOT
from tests.sweep.sweeps import ring_plan

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, Any]]:
    """A head with one CPU and another node with two; the driver is connected."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=2)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": environment},
    )
    monkeypatch.setattr(tuner, "connected", lambda config, dashboard: nullcontext())
    yield cluster, other
    ray.shutdown()
    cluster.shutdown()


def results(plan: SweepPlan) -> list[tuple[Any, ...]]:
    search_on_ray(plan)
    entries = read_entries(sweep_folder(plan).trials, plan.metrics, plan.sweep.sweep)
    return [(e.index, dict(e.drawn), e.status, [(row.images, row.seeds) for row in e.rows]) for e in entries]


class Blackout:
    """The node to remove; a class, as Tune pickles its callbacks, which therefore cannot hold a cluster."""

    cluster: Any = None
    node: Any = None
    lost: bool = False

    @classmethod
    def strike(cls, pid: int) -> None:
        """Remove the node if the process runs on it."""
        if not cls.lost and _parent(pid) == cls.node.all_processes["raylet"][0].process.pid:
            cls.lost = True
            cls.cluster.remove_node(cls.node, allow_graceful=False)


class PowerCut(tuner.ProgressCallback):
    """Strikes as soon as a trial on the node has a result to lose."""

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        if result["images"] == 640:
            Blackout.strike(result["pid"])
        super().on_trial_result(iteration, trials, trial, result, **info)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def test_a_lost_node_does_not_change_the_table(
    two_nodes: tuple[Cluster, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = results(ring_plan(tmp_path / "whole", num_configs=4))
    Blackout.cluster, Blackout.node = two_nodes
    monkeypatch.setattr(tuner, "ProgressCallback", PowerCut)
    found = results(ring_plan(tmp_path / "cut", num_configs=4))
    assert Blackout.lost
    assert not Blackout.node.any_processes_alive()
    assert found == expected
