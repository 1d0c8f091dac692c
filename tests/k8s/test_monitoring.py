"""Prometheus finds Ray's ports, and the dashboard asks for metrics that exist."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ganscale.launch.prometheus import gauge_name
from ganscale.train import main
from tests.k8s.manifests import OVERLAYS, matches, of_kind, pods, render, the, together

LABELS = {"run", "ray_io_cluster", "instance", "GpuIndex", "ray_train_run_name", "ray_train_controller_state"}


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana's side-car reads it."""
    return json.loads(the(render("monitoring"), "ConfigMap")["data"]["dashboard.json"])


def queries() -> list[str]:
    """PromQL of every panel."""
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def alerts() -> dict[str, str]:
    """PromQL of every alert."""
    (group,) = the(render("monitoring"), "PrometheusRule")["spec"]["groups"]
    return {rule["alert"].removeprefix("Ganscale"): rule["expr"] for rule in group["rules"]}


def test_alerts() -> None:
    found = alerts()
    assert set(found) == {"RunStalled", "RunRestarts", "RunNaN", "RunCollapsed", "HeadLost", "StorageFull"}
    for name, query in found.items():
        assert query.count("(") == query.count(")"), name
        assert query.count("{") == query.count("}"), name
        assert 'namespace="ganscale"' in query, f"{name}: other teams' runs are theirs"
    assert " and " in found["RunStalled"]
    assert found["RunStalled"].rpartition(" and ")[2].endswith(" offset 30m)"), "a young run has logged nothing yet"
    claim = the(render("overlays/gpu/setup"), "PersistentVolumeClaim")["metadata"]["name"]
    assert f'persistentvolumeclaim="{claim}"' in found["StorageFull"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_monitor_finds_all_nodes(overlay: str) -> None:
    spec = the(render("monitoring"), "PodMonitor")["spec"]
    nodes = list(pods(of_kind(together(overlay), "RayJob", "RayCluster")))
    for pod in nodes:
        assert matches(spec["selector"], pod.labels) == (not pod.owner.endswith("submitter")), pod.owner
    ports = {port["name"] for pod in nodes for c in pod.spec["containers"] for port in c.get("ports", [])}
    assert {endpoint["port"] for endpoint in spec["podMetricsEndpoints"]} <= ports
    assert set(spec) == {"selector", "podTargetLabels", "podMetricsEndpoints"}
    assert "ray.io/cluster" in spec["podTargetLabels"], "Prometheus writes it ray_io_cluster, which the queries use"


def test_the_dashboard_is_whole() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    labels = the(render("monitoring"), "ConfigMap")["metadata"]["labels"]
    assert labels["grafana_dashboard"] == "1"


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the numbers that a run logs, as Prometheus has them."""
    folder = tmp_path_factory.mktemp("runs")
    overrides = ["train.images=64", "log.every=64", "wandb.mode=disabled", f"run.dir={folder}"]
    assert main(["--launcher", "local", *overrides]) == 0
    (row,) = (folder / "mnist_mlp" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {f"ray_{gauge_name(name)}" for name in json.loads(row)}


def test_metrics_exist(logged: set[str]) -> None:
    found = importlib.util.find_spec("ray")
    assert found
    assert found.origin
    folder = Path(found.origin).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    known = " ".join(path.read_text(encoding="utf-8") for path in folder.glob("*_panels.py"))
    names = {
        name for query in [*queries(), *alerts().values()] for name in re.findall(r"\bray_[a-z0-9_]+", query)
    } - LABELS
    assert len(names) >= 15
    for name in names:
        assert name in logged or re.search(rf"\b{name}{{", known), name


def test_variables_are_defined() -> None:
    defined = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = {name for query in queries() for name in re.findall(r"\$(\w+)", query)}
    assert used == {"run", "cluster"}
    assert used <= defined
    for query in queries():
        assert "$cluster" in query
        assert query.count("(") == query.count(")")
        assert set(re.findall(r"(\w+)=~", query)) <= LABELS


@pytest.mark.parametrize(("name", "gauge"), [("loss_d", "ganscale_loss_d"), ("modes/kl-div", "ganscale_modes_kl_div")])
def test_gauges_have_names_that_prometheus_takes(name: str, gauge: str) -> None:
    assert gauge_name(name) == gauge
