"""Manifests against Kubernetes' and KubeRay's schemas; unknown fields are errors."""

import copy
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import K8S, RENDERINGS, Manifest, pods, render, the
from tests.k8s.schemas import BUNDLED, core_errors, custom_errors

VERSIONS = ("1.30", "1.37")
"""The oldest Kubernetes that docs/kubernetes.md promises and the newest whose schemas the package has."""
WITHOUT_CRD = {"PodMonitor", "ClusterQueue", "LocalQueue", "ResourceFlavor", "ExternalSecret", "PrometheusRule"}
"""Kinds of other projects; checked against their CRDs only where GANSCALE_KUBERAY_CRDS names a folder with them."""
EXAMPLES = sorted((K8S / "secrets").glob("*.yaml"))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", RENDERINGS)
def test_kubernetes_kinds(path: str, version: str) -> None:
    for document in render(path):
        if document["apiVersion"] in BUNDLED:
            assert core_errors(document, version) == [], document["metadata"]["name"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", RENDERINGS)
def test_pods_as_the_operator_makes_them(path: str, version: str) -> None:
    """CRDs describe a pod's template loosely: each is a valid pod, too."""
    for pod in pods(render(path)):
        spec = pod.spec | {"restartPolicy": "Always"} if "restartPolicy" not in pod.spec else pod.spec
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any", **pod.metadata}, "spec": spec}
        assert core_errors(whole, version) == [], pod.owner


@pytest.mark.parametrize("path", RENDERINGS)
def test_custom_kinds(path: str) -> None:
    documents = [document for document in render(path) if document["apiVersion"] not in BUNDLED]
    if not documents:
        assert path.endswith("/setup")
        return
    assert {document["kind"] for document in documents} <= {"RayJob", "RayCluster", *WITHOUT_CRD}
    for document in documents:
        assert custom_errors(document) == [], document["metadata"]["name"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples(path: Any) -> None:
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        errors = core_errors(document, VERSIONS[-1]) if document["apiVersion"] in BUNDLED else custom_errors(document)
        assert errors == []


def _misspelt(document: Manifest) -> None:
    document["spec"]["backofLimit"] = 3


def _wrong_type(document: Manifest) -> None:
    document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "two"


def _deep(document: Manifest) -> None:
    document["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "x"


def _against_a_rule(document: Manifest) -> None:
    document["spec"]["managedBy"] = "example.com/other"


def _against_a_rule_in_a_list(document: Manifest) -> None:
    document["spec"]["deletionStrategy"] = {"deletionRules": [{"policy": "DeleteSelf", "condition": {"ttlSeconds": 1}}]}


@pytest.mark.parametrize("spoil", [_misspelt, _wrong_type, _deep, _against_a_rule, _against_a_rule_in_a_list])
def test_the_check_is_strict(spoil: Any) -> None:
    document = copy.deepcopy(the(render("overlays/gpu/train"), "RayJob"))
    spoil(document)
    assert custom_errors(document)


def test_the_check_of_kubernetes_kinds_is_strict() -> None:
    document = copy.deepcopy(the(render("overlays/gpu/setup"), "PersistentVolumeClaim"))
    document["spec"]["acessModes"] = []
    assert core_errors(document, VERSIONS[-1])
