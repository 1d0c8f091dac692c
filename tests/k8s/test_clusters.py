"""The chart on kinds of clusters: pods schedule, names are looked up, volumes exist, security levels admit the pods."""

import pytest

from tests.k8s.clusters import (
    KINDS,
    PAGE,
    asked,
    changed,
    opens,
    page,
    rendered,
    schedule,
    storage_problem,
    violations,
)
from tests.k8s.manifests import of_kind, pods, ray_spec, the

EVERY = pytest.mark.parametrize("name", KINDS)


@EVERY
def test_every_pod_finds_a_node_and_its_volume(name: str) -> None:
    kind, documents = KINDS[name], rendered(name)
    nodes, pending = schedule(kind, asked(documents))
    assert not pending
    assert not storage_problem(kind, documents, len(nodes))
    if spot := kind.get("head_not_on"):
        (head,) = [node for node in nodes if "head" in node.pods]
        assert head.group["group"] != spot


@EVERY
def test_names_are_looked_up(name: str) -> None:
    for server in KINDS[name]["dns"]:
        for component in ("head", "worker", "submitter"):
            for protocol in ("UDP", "TCP"):
                assert opens(rendered(name), component, server, protocol), (component, server)
    outside = {"address": "8.8.8.8", "port": 53}
    assert not opens(rendered(name), "worker", outside, "UDP")


@EVERY
def test_the_security_level_admits_all_pods(name: str) -> None:
    for pod in pods(rendered(name)):
        assert list(violations(pod, KINDS[name]["security"])) == [], pod.owner


@EVERY
def test_credentials_and_the_api_are_reached_where_they_are_needed(name: str) -> None:
    kind, documents = KINDS[name], rendered(name)
    for place in kind.get("identity", []):
        assert all(opens(documents, component, place, "TCP") for component in ("head", "worker"))
    if ray_spec(the(documents, "RayJob")).get("enableInTreeAutoscaling"):
        api = {"address": "10.96.0.1", "port": 443}
        entities = of_kind(documents, "CiliumNetworkPolicy")
        assert bool(entities) is (kind.get("api") == "cilium")
        assert opens(documents, "head", api, "TCP") is not bool(entities)


@EVERY
def test_addresses_are_of_the_pods_family(name: str) -> None:
    host = ray_spec(the(rendered(name), "RayJob"))["headGroupSpec"]["rayStartParams"]["dashboard-host"]
    assert host == ("::" if KINDS[name].get("family") == "IPv6" else "0.0.0.0")


def test_the_table_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make k8s-overlays`"


def test_kinds_are_many_and_have_sources() -> None:
    assert len(KINDS) >= 20
    assert all(kind["note"] and all(url.startswith("https://") for url in kind["sources"]) for kind in KINDS.values())


@pytest.mark.parametrize(
    ("name", "without", "reason"),
    [
        ("AKS", "worker", "taint"),
        ("GKE Autopilot", "head", "ephemeral-storage"),
        ("GKE Autopilot", "worker", "such nodes for pods that select them"),
        ("RKE2, CIS profile", "worker", "runtimeClassName"),
        ("Only arm64 nodes (Grace Hopper)", "nodeSelector", "nodeSelector"),
    ],
)
def test_without_its_values_a_kind_refuses_pods(name: str, without: str, reason: str) -> None:
    """The predicates find what would be wrong."""
    _, pending = schedule(KINDS[name], asked(rendered(name, without=without)))
    assert reason in "".join(pending)


def test_the_default_disk_of_eks_is_too_small() -> None:
    kind = KINDS["EKS, managed nodes"]
    _, pending = schedule(kind, asked(rendered(kind["name"])), disk=kind["too_small"]["disk"])
    assert len(pending) == 2, "both workers"


def test_an_image_of_another_architecture_is_not_scheduled() -> None:
    kind = KINDS["Mixed amd64 and arm64 nodes"]
    only_arm = changed(kind, nodes=[group for group in kind["nodes"] if group.get("arch") == "arm64"])
    assert len(schedule(only_arm, asked(rendered(kind["name"])))[1]) == 4


def test_storage_that_does_not_fit_is_found() -> None:
    name = "k3s, one node"
    assert "no ReadWriteMany" in storage_problem(KINDS[name], rendered(name, without="storage"), 1)
    assert storage_problem(KINDS[name], rendered(name), 2) == "ReadWriteOnce on 2 nodes"
    nfs = rendered("kubeadm, Calico")
    assert "no class" in storage_problem(KINDS["kind"], nfs, 1)


def test_openshift_refuses_a_user_of_ones_own() -> None:
    found = [list(violations(pod, "restricted-v2")) for pod in pods(rendered("OpenShift 4", without="runAsUser"))]
    assert found == [["a user that the namespace has not chosen"]] * len(found)
