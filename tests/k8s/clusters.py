"""Kinds of clusters (clusters.yaml): what the chart renders for each, and whether such a cluster would take it.

`python -m tests.k8s.clusters` (`make k8s-overlays`) writes docs/clusters_table.md.
"""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.k8s.chart import CHART, arguments, helm
from tests.k8s.manifests import ROOT, Manifest, Pod, amount, matches, of_kind, pods, ray_spec, the

KINDS: dict[str, Manifest] = {
    kind["name"]: kind for kind in yaml.safe_load((Path(__file__).parent / "clusters.yaml").read_text(encoding="utf-8"))
}
PAGE = ROOT / "docs" / "clusters_table.md"
INTRODUCTION = """
What the [chart](../k8s/chart) needs on common clusters: values files of `k8s/chart/values`, in order, and further
values. A test renders each row and holds it against the cluster's documented properties: some node takes every pod
(labels, taints, architecture, CPUs, memory, disk, GPUs, runtime class), the volume's access mode exists and
suffices for so many nodes, names can be looked up through the network policies, and the pods meet the security
level. These are rules applied to facts of documentation, not runs on such clusters; [kubernetes.md](kubernetes.md)
says what has been run.
"""
GIB = 2.0**30
GPU = "nvidia.com/gpu"


@cache
def rendered(name: str, *, without: str = "") -> list[Manifest]:
    """A training release on a kind of cluster; `without` leaves a key of its values out. Not to be changed."""
    kind = KINDS[name]
    values = {key: value for key, value in kind.get("values", {}).items() if key != without}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        words = [*arguments(kind["files"]), "--values", file.name, "--namespace", "ganscale"]
        done = helm("template", "ganscale", str(CHART), *words)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@dataclass
class Node:
    """A node and what pods have left of it."""

    group: Manifest
    free: dict[str, float]
    workers: int = 0
    pods: list[str] = field(default_factory=list)


def make_node(group: Manifest, disk: float | None = None) -> Node:
    """An empty node of a group."""
    free = {"cpu": group["cpu"], "memory": group["memory"] * GIB, "ephemeral-storage": (disk or group["disk"]) * GIB}
    return Node(group, free | {GPU: group.get("gpus", 0)} | group.get("resources", {}))


class Asked(NamedTuple):
    """A pod and how often there is one."""

    pod: Pod
    times: int


def asked(documents: list[Manifest]) -> list[Asked]:
    """All pods of a training job when it is largest."""
    spec = ray_spec(the(documents, "RayJob"))
    found = []
    for pod in pods(documents):
        is_worker = pod.labels["app.kubernetes.io/component"] == "worker"
        found.append(Asked(pod, spec["workerGroupSpecs"][0]["maxReplicas"] if is_worker else 1))
    return found


def _requests(pod: Pod) -> dict[str, float]:
    total: dict[str, float] = {}
    for container in pod.spec["containers"]:
        for name, quantity in container["resources"]["requests"].items():
            total[name] = total.get(name, 0.0) + amount(quantity)
    return total


def _tolerated(taint: Manifest, tolerations: Sequence[Manifest]) -> bool:
    return any(
        each.get("key", taint["key"]) == taint["key"]
        and each.get("effect", taint["effect"]) == taint["effect"]
        and (each.get("operator", "Equal") == "Exists" or each.get("value", "") == taint.get("value", ""))
        for each in tolerations
    )


def refusal(kind: Manifest, pod: Pod, node: Node) -> str:
    """Why a node does not take a pod; empty if it does."""
    group, spec = node.group, pod.spec
    arch = group.get("arch", "amd64")
    labels = {"kubernetes.io/arch": arch, "kubernetes.io/os": "linux"} | group.get("labels", {})
    selector = spec.get("nodeSelector", {})
    if any(labels.get(key) != value for key, value in selector.items()):
        return "nodeSelector"
    affinity = spec.get("affinity", {})
    required = affinity.get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = required.get("nodeSelectorTerms", [])
    if terms and not any(matches(term, labels) for term in terms):
        return "affinity"
    if any(not _tolerated(taint, spec.get("tolerations", [])) for taint in group.get("taints", [])):
        return "taint"
    if set(group.get("select", [])) - set(selector):
        return "the cluster makes such nodes for pods that select them only"
    if kind.get("image", "amd64") != arch:
        return "image"
    one_per_node = affinity.get("podAntiAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if one_per_node and node.workers:
        return "one per node"
    requests = _requests(pod)
    if spec.get("runtimeClassName") != (kind.get("runtime") if requests.get(GPU) else None):
        return "runtimeClassName"
    return next((name for name, value in requests.items() if node.free.get(name, 0.0) < value), "")


def schedule(kind: Manifest, wanted: Sequence[Asked], *, disk: float | None = None) -> tuple[list[Node], list[str]]:
    """Place pods one after the other, those with GPUs first; nodes used, and why pods stay pending."""
    nodes = [make_node(group, disk) for group in kind["nodes"] if not group.get("grows") for _ in range(group["count"])]
    pending = []
    for pod, count in sorted(wanted, key=lambda each: GPU not in _requests(each.pod)):
        for _ in range(count):
            grown = [make_node(group, disk) for group in kind["nodes"] if group.get("grows")]
            reasons = {}
            for node in sorted([*nodes, *grown], key=lambda each: each.group.get("gpus", 0)):
                reason = refusal(kind, pod, node)
                if not reason:
                    break
                reasons[node.group["group"]] = reason
            else:
                pending.append(f"{pod.owner}: {reasons}")
                continue
            if node in grown:
                nodes.append(node)
            for name, value in _requests(pod).items():
                node.free[name] -= value
            component = pod.labels["app.kubernetes.io/component"]
            node.workers += component == "worker"
            node.pods.append(component)
    return [node for node in nodes if node.pods], pending


def opens(documents: list[Manifest], component: str, there: Manifest, protocol: str) -> bool:
    """Whether policies let a component reach an address or pods of a namespace, at a port."""
    labels = {
        "app.kubernetes.io/part-of": "ganscale",
        "app.kubernetes.io/instance": "ganscale",
        "app.kubernetes.io/component": component,
    }

    def reached(peer: Manifest) -> bool:
        if "address" in there:
            block = peer.get("ipBlock", {})
            address = ip_address(there["address"])
            within = "cidr" in block and address in ip_network(block["cidr"])
            return within and not any(address in ip_network(each) for each in block.get("except", []))
        namespace = {"kubernetes.io/metadata.name": there["namespace"]}
        return "namespaceSelector" in peer and matches(peer["namespaceSelector"], namespace)

    for policy in of_kind(documents, "NetworkPolicy"):
        if not matches(policy["spec"]["podSelector"], labels):
            continue
        for rule in policy["spec"].get("egress", []):
            ports = rule.get("ports")
            open_port = not ports or {"protocol": protocol, "port": there["port"]} in ports
            if open_port and ("to" not in rule or any(map(reached, rule["to"]))):
                return True
    return False


VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(pod: Pod, level: str) -> Iterator[str]:
    """What a security level refuses of a pod: privileged, baseline, restricted, or OpenShift's restricted-v2."""
    if level == "privileged":
        return
    context = pod.spec.get("securityContext", {})
    if {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys():
        yield "the host's namespaces"
    for volume in pod.spec.get("volumes", []):
        if "hostPath" in volume or (level != "baseline" and not set(volume) - {"name"} <= VOLUMES):
            yield f"volume {volume['name']}"
    for container in pod.spec["containers"]:
        own = container.get("securityContext", {})
        if own.get("privileged") or own.get("capabilities", {}).get("add"):
            yield "privileges"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield "hostPort"
        if level == "baseline":
            continue
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities", {}).get("drop") != ["ALL"]:
            yield "escalation or capabilities"
    if level == "baseline":
        return
    if not context.get("runAsNonRoot") or context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "runAsNonRoot and seccompProfile"
    if level == "restricted-v2" and {"runAsUser", "fsGroup"} & context.keys():
        yield "a user that the namespace has not chosen"


def storage_problem(kind: Manifest, documents: list[Manifest], nodes: int) -> str:
    """Why the claim is not bound, or not mounted on all nodes; empty if it is."""
    claims, storage = of_kind(documents, "PersistentVolumeClaim"), kind["storage"]
    if not claims:
        return ""
    (claim,) = claims
    (mode,) = claim["spec"]["accessModes"]
    name = claim["spec"].get("storageClassName", storage.get("default"))
    own = [each for each in of_kind(documents, "StorageClass") if each["metadata"]["name"] == name]
    modes = storage.get("drivers", {}).get(own[0]["provisioner"]) if own else storage["classes"].get(name)
    if modes is None:
        return f"no class {name}"
    if mode not in modes:
        return f"class {name} has no {mode}"
    return f"{mode} on {nodes} nodes" if mode == "ReadWriteOnce" and nodes > 1 else ""


def _values(kind: Manifest) -> str:
    files = " ".join(f"`{name}.yaml`" for name in kind["files"])
    values = kind.get("values")
    text = yaml.safe_dump(values, default_flow_style=True, width=10**9, sort_keys=False).strip() if values else ""
    return f"{files} `{text[1:-1]}`" if text else files


def _storage(kind: Manifest) -> str:
    documents = rendered(kind["name"])
    claims = of_kind(documents, "PersistentVolumeClaim")
    if not claims:
        return "bucket"
    own = of_kind(documents, "StorageClass")
    where = own[0]["provisioner"] if own else claims[0]["spec"].get("storageClassName", kind["storage"].get("default"))
    return f"{where}, {claims[0]['spec']['accessModes'][0]}"


def page() -> str:
    """docs/clusters_table.md."""
    lines = [
        "# Kinds of clusters",
        "",
        "<!-- Made from tests/k8s/clusters.yaml by `make k8s-overlays`. -->",
        "",
        *INTRODUCTION.strip().splitlines(),
        "",
        "| cluster | values | storage | name servers | network policies by | pod security | |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS.values():
        servers = ", ".join(f"{each.get('address') or each['namespace']}:{each['port']}" for each in kind["dns"])
        links = " ".join(f"[{number}]({url})" for number, url in enumerate(kind["sources"], 1))
        cells = (kind["name"], _values(kind), _storage(kind), servers, kind["policy"], kind["security"])
        lines.append(f"| {' | '.join(cells)} | {kind['note']} {links} |")
    return "\n".join([*lines, ""])


def changed(kind: Manifest, **changes: Any) -> Manifest:
    """A copy of a kind with other properties."""
    return copy.deepcopy(kind) | changes


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
