"""What the network policies let through, and what not."""

import pytest

from tests.k8s.manifests import OVERLAYS, Manifest, matches, of_kind, together

EVERY = pytest.mark.parametrize("overlay", OVERLAYS)
Labels = dict[str, str]


def opens(policies: list[Manifest], direction: str, inside: Labels, outside: Labels, port: int) -> bool:
    """Whether the policies let pods with some labels take (ingress) or make (egress) connections to a TCP port."""
    peers = "from" if direction == "ingress" else "to"
    for policy in policies:
        if not matches(policy["spec"]["podSelector"], inside):
            continue
        for rule in policy["spec"].get(direction, []):
            there = any(matches(p["podSelector"], outside) for p in rule.get(peers, []) if "podSelector" in p)
            ports = [entry["port"] for entry in rule.get("ports", []) if entry.get("protocol", "TCP") == "TCP"]
            if there and (not rule.get("ports") or port in ports):
                return True
    return False


def ours(component: str) -> Labels:
    """Labels of our pods."""
    return {"app.kubernetes.io/part-of": "ganscale", "app.kubernetes.io/component": component}


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
    assert reachable("head", "redis", 6379)
    for source, target, port in [("submitter", "head", 6379), ("submitter", "worker", 8265), ("worker", "redis", 6379)]:
        assert not reachable(source, target, port), (source, target, port)


@EVERY
def test_traffic_from_other_namespaces(overlay: str) -> None:
    """KubeRay's operator (labelled so by its manifests and by its chart) and Prometheus; nobody else."""
    policies = of_kind(together(overlay), "NetworkPolicy")
    operator = {"app.kubernetes.io/component": "kuberay-operator"}
    prometheus = {"app.kubernetes.io/name": "prometheus"}
    assert opens(policies, "ingress", ours("head"), operator, 8265)
    assert opens(policies, "ingress", ours("head"), prometheus, 44217)
    assert opens(policies, "ingress", ours("worker"), prometheus, 8080)
    for target, source, port in [
        ("head", STRANGER, 8265),
        ("head", STRANGER, 6379),
        ("head", operator, 6379),
        ("head", prometheus, 8265),
        ("worker", STRANGER, 8080),
        ("redis", STRANGER, 6379),
    ]:
        assert not opens(policies, "ingress", ours(target), source, port), (target, source, port)
