"""What the network policies let through, and what not."""

from ipaddress import ip_address, ip_network

import pytest

from tests.k8s.manifests import OVERLAYS, Manifest, matches, of_kind, together

EVERY = pytest.mark.parametrize("overlay", OVERLAYS)
Labels = dict[str, str]
HERE = "ganscale"


def reaches(peer: Manifest, labels: Labels, namespace: str) -> bool:
    """Whether a rule's peer is a pod with some labels in a namespace."""
    if "podSelector" not in peer or not matches(peer["podSelector"], labels):
        return False
    here = peer.get("namespaceSelector")
    return namespace == HERE if here is None else matches(here, {"kubernetes.io/metadata.name": namespace})


def opens(
    policies: list[Manifest], direction: str, inside: Labels, outside: Labels, port: int, namespace: str = "ganscale"
) -> bool:
    """Whether the policies let pods with some labels take (ingress) or make (egress) connections to a TCP port."""
    peers = "from" if direction == "ingress" else "to"
    for policy in policies:
        if not matches(policy["spec"]["podSelector"], inside):
            continue
        for rule in policy["spec"].get(direction, []):
            there = any(reaches(peer, outside, namespace) for peer in rule.get(peers, []))
            ports = [entry["port"] for entry in rule.get("ports", []) if entry.get("protocol", "TCP") == "TCP"]
            if there and (not rule.get("ports") or port in ports):
                return True
    return False


def ours(component: str) -> Labels:
    """Labels of our pods."""
    return {
        "app.kubernetes.io/part-of": "ganscale",
        "app.kubernetes.io/instance": "ganscale",
        "app.kubernetes.io/component": component,
    }


STRANGER = {"app": "other"}


@EVERY
def test_traffic_within_the_namespace(overlay: str) -> None:
    """Whoever has to talk can; who has not, cannot."""
    policies = of_kind(together(overlay), "NetworkPolicy")

    def reachable(source: str, target: str, port: int) -> bool:
        out = opens(policies, "egress", ours(source), ours(target), port)
        return out and opens(policies, "ingress", ours(target), ours(source), port)

    assert reachable("worker", "head", 6379)
    assert reachable("head", "worker", 35_000)
    assert reachable("worker", "worker", 29_500)
    assert reachable("submitter", "head", 8265)
    assert reachable("head", "valkey", 6379)
    for source, target, port in [
        ("submitter", "head", 6379),
        ("submitter", "worker", 8265),
        ("worker", "valkey", 6379),
    ]:
        assert not reachable(source, target, port), (source, target, port)


@EVERY
def test_traffic_from_other_namespaces(overlay: str) -> None:
    """KubeRay's operator (labelled so by its manifests and by its chart) and Prometheus; nobody else."""
    policies = of_kind(together(overlay), "NetworkPolicy")
    operator = {"app.kubernetes.io/component": "kuberay-operator"}
    prometheus = {"app.kubernetes.io/name": "prometheus"}
    assert opens(policies, "ingress", ours("head"), operator, 8265, "kuberay-system")
    assert opens(policies, "ingress", ours("head"), prometheus, 44217, "monitoring")
    assert opens(policies, "ingress", ours("worker"), prometheus, 8080, "monitoring")
    for namespace, target, source, port in [
        (HERE, "head", STRANGER, 8265),
        (HERE, "head", STRANGER, 6379),
        ("kuberay-system", "head", operator, 6379),
        ("monitoring", "head", prometheus, 8265),
        (HERE, "worker", STRANGER, 8080),
        (HERE, "valkey", STRANGER, 6379),
        # who wears our labels, or the operator's, elsewhere
        ("other", "head", operator, 8265),
        ("other", "head", ours("worker"), 6379),
        ("other", "head", ours("submitter"), 8265),
        ("other", "worker", prometheus, 8080),
        # another release in this namespace
        (HERE, "head", ours("worker") | {"app.kubernetes.io/instance": "flowers"}, 6379),
    ]:
        assert not opens(policies, "ingress", ours(target), source, port, namespace), (namespace, target, source, port)


@EVERY
@pytest.mark.parametrize(
    "address", ["169.254.20.10", "169.254.169.254", "10.96.0.10", "34.118.224.10", "fd00:10:96::a", "kube-system"]
)
def test_names_are_looked_up_wherever_clusters_do(address: str, overlay: str) -> None:
    """NodeLocal DNSCache, Cloud DNS, a Service's address, GKE's, IPv6; else the pods' namespace. At no other port."""
    (policy,) = [each for each in together(overlay) if each["metadata"]["name"] == "ganscale-dns"]
    (rule,) = policy["spec"]["egress"]
    assert {(entry["protocol"], entry["port"]) for entry in rule["ports"]} == {
        (protocol, port) for protocol in ("UDP", "TCP") for port in (53, 5353)
    }
    if address == "kube-system":
        (names,) = [peer["namespaceSelector"] for peer in rule["to"] if "namespaceSelector" in peer]
        assert all(matches(names, {"kubernetes.io/metadata.name": name}) for name in ("kube-system", "openshift-dns"))
        return
    blocks = [ip_network(peer["ipBlock"]["cidr"]) for peer in rule["to"] if "ipBlock" in peer]
    assert any(ip_address(address) in block for block in blocks)
    assert not any(ip_address("8.8.8.8") in block for block in blocks)
