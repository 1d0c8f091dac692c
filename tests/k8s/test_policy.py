"""What a cluster's admin asks of every pod and object."""

import re
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import (
    K8S,
    OVERLAYS,
    RENDERINGS,
    Manifest,
    amount,
    containers,
    matches,
    of_kind,
    pods,
    ray_spec,
    render,
    together,
)

EVERYWHERE = pytest.mark.parametrize("path", RENDERINGS)
CLOSED = {"podSelector", "policyTypes"}
"""Fields of a policy that lets nothing through."""
ALLOWED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}


@EVERYWHERE
def test_no_container_has_privileges(path: str) -> None:
    """The pod security standard `restricted`, and a read-only root file system."""
    for name, container in containers(render(path)):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert not {"privileged", "procMount", "runAsUser", "runAsNonRoot", "seccompProfile"} & set(context), name


@EVERYWHERE
def test_no_pod_runs_as_root_or_on_the_host(path: str) -> None:
    for pod in pods(render(path)):
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] is True, pod.owner
        assert context["runAsUser"] > 0, pod.owner
        assert context["runAsGroup"] > 0, pod.owner
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, pod.owner
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pod.spec), pod.owner
        for volume in pod.spec.get("volumes", []):
            assert set(volume) - {"name"} <= ALLOWED_VOLUMES, pod.owner
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], pod.owner


@EVERYWHERE
def test_every_container_has_requests_and_limits(path: str) -> None:
    for name, container in containers(render(path)):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(requests) == set(limits), name
        assert requests["memory"] == limits["memory"], f"{name}: the node would be overcommitted"
        devices = set(limits) - {"cpu", "memory"}
        assert all(requests[device] == limits[device] for device in devices), name


@EVERYWHERE
def test_volumes_fit_the_container(path: str) -> None:
    """Volumes in memory count as the container's memory, others as its ephemeral storage."""
    for pod in pods(render(path)):
        limits = pod.spec["containers"][0]["resources"]["limits"]
        sizes = {"Memory": 0.0, "": 0.0}
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume:
                sizes[volume["emptyDir"].get("medium", "")] += amount(volume["emptyDir"]["sizeLimit"])
        assert sizes["Memory"] <= amount(limits["memory"]) / 2, pod.owner
        assert sizes[""] < amount(limits["ephemeral-storage"]), pod.owner


@EVERYWHERE
def test_images_are_pinned(path: str) -> None:
    for name, container in containers(render(path)):
        if "image" in container:
            tag = container["image"].rpartition(":")[2]
            assert re.match(r"\d+\.\d+\.\d+", tag), f"{name}: {container['image']}"


@EVERYWHERE
def test_only_the_autoscaler_reaches_the_api(path: str) -> None:
    for pod in pods(render(path)):
        scales = "autoscale/" in path and pod.owner.endswith(" head")
        assert pod.spec["automountServiceAccountToken"] is scales, pod.owner
    assert not of_kind(render(path), "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


@EVERYWHERE
def test_nothing_is_public(path: str) -> None:
    assert not of_kind(render(path), "Ingress", "Gateway", "HTTPRoute", "Route")
    for service in of_kind(render(path), "Service"):
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
        assert not service["spec"].get("externalIPs")
    for document in of_kind(render(path), "RayJob", "RayCluster"):
        head = ray_spec(document)["headGroupSpec"]
        assert head.get("serviceType", "ClusterIP") == "ClusterIP"
        assert not head.get("enableIngress")
        assert "headService" not in head


@EVERYWHERE
def test_the_driver_stays_on_the_head(path: str) -> None:
    """Entry point resources would send it to a worker, whose end would be the run's."""
    for document in of_kind(render(path), "RayJob"):
        assert not {"entrypointNumCpus", "entrypointNumGpus", "entrypointResources"} & set(document["spec"])
    for document in of_kind(render(path), "RayJob", "RayCluster"):
        assert ray_spec(document)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert ray_spec(document)["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_network_is_closed(overlay: str) -> None:
    policies = of_kind(render(f"overlays/{overlay}/setup"), "NetworkPolicy")
    closed = [each["podSelector"] for each in (policy["spec"] for policy in policies) if set(each) == CLOSED]
    for pod in pods(together(overlay)):
        assert any(matches(selector, pod.labels) for selector in closed), pod.owner
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            assert rule.get("from"), f"{policy['metadata']['name']} lets everybody in"
            for peer in rule["from"]:
                assert peer.get("podSelector"), f"{policy['metadata']['name']} lets whole namespaces in"
                outside = peer.get("namespaceSelector")
                assert outside is None or outside["matchExpressions"][0]["key"] == "kubernetes.io/metadata.name"
                assert "ipBlock" not in peer


def _secrets(value: Any) -> list[Manifest]:
    """All Secret manifests in YAML files below k8s/, rendered or not."""
    return [document for document in value if document and document["kind"] == "Secret"]


@EVERYWHERE
def test_no_secret_is_rendered(path: str) -> None:
    assert _secrets(render(path)) == []


def test_example_secrets_have_no_value() -> None:
    found = 0
    for path in (K8S / "secrets").iterdir():
        documents = yaml.safe_load_all(path.read_text(encoding="utf-8"))
        for secret in _secrets(document for document in documents if isinstance(document, dict)):
            values = [*secret.get("data", {}).values(), *secret.get("stringData", {}).values()]
            assert not any(values), path
            found += 1
    assert found == 3


@EVERYWHERE
def test_secrets_reach_containers_by_reference_only(path: str) -> None:
    for name, container in containers(render(path)):
        for variable in container.get("env", []):
            if re.search("KEY|TOKEN|PASSWORD|SECRET|AUTH", variable["name"]):
                assert "value" not in variable, f"{name}: {variable['name']}"
                assert "secretKeyRef" in variable["valueFrom"], f"{name}: {variable['name']}"


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_the_namespace_enforces_it(overlay: str) -> None:
    (namespace,) = of_kind(render(f"overlays/{overlay}/setup"), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
