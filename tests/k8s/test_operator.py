"""The operator's own rules, which no schema holds."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s.manifests import RENDERINGS, Manifest, of_kind, ray_spec, render, the
from tests.k8s.operator_rules import refusals


@pytest.mark.parametrize("path", RENDERINGS)
def test_the_operator_takes_it(path: str) -> None:
    for document in of_kind(render(path), "RayJob", "RayCluster"):
        assert refusals(document) == []


def _job(path: str, value: object) -> Callable[[Manifest], None]:
    """Set a field, named by its path, of a RayJob."""

    def change(document: Manifest) -> None:
        *parents, last = path.split("/")
        place: Any = document
        for key in parents:
            place = place[int(key) if key.isdecimal() else key]
        place[last] = value

    return change


CLUSTER = "spec/rayClusterSpec"
HEAD = f"{CLUSTER}/headGroupSpec"
REFUSED = {
    "long name": _job("metadata/name", "g" * 48),
    "capital name": _job("metadata/name", "Train"),
    "alpha policy": _job(f"{CLUSTER}/networkPolicy", {"mode": "DenyAll"}),
    "alpha tls": _job(f"{CLUSTER}/tlsOptions", {}),
    "resources twice": _job(f"{HEAD}/resources", {"CPU": "1"}),
    "labels": _job(f"{HEAD}/rayStartParams/labels", "a=b"),
    "no maximum": _job(f"{CLUSTER}/workerGroupSpecs/0/maxReplicas", None),
    "minimum above": _job(f"{CLUSTER}/workerGroupSpecs/0/minReplicas", 3),
    "redis by hand": _job(f"{HEAD}/template/spec/containers/0/env", [{"name": "RAY_REDIS_ADDRESS", "value": "x"}]),
    "rocksdb": _job(f"{CLUSTER}/gcsFaultToleranceOptions", {"backend": "rocksdb"}),
    "group idle": _job(f"{CLUSTER}/workerGroupSpecs/0/idleTimeoutSeconds", 60),
    "old ray": _job(f"{CLUSTER}/rayVersion", "2.51.0"),
    "kubernetes tokens": _job(f"{CLUSTER}/authOptions/enableK8sTokenAuth", True),
    "ttl alone": _job("spec/shutdownAfterJobFinishes", False),
    "negative retries": _job("spec/backoffLimit", -1),
    "no time": _job("spec/activeDeadlineSeconds", 0),
    "sidecar": _job("spec/submissionMode", "SidecarMode"),
    "interactive": _job("spec/submissionMode", "InteractiveMode"),
    "two deletions": _job("spec/deletionStrategy", {"deletionRules": [{"policy": "DeleteSelf"}]}),
    "upgrade": _job(f"{CLUSTER}/upgradeStrategy", {"type": "Recreate"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_operator_refuses(name: str) -> None:
    document = copy.deepcopy(the(render("overlays/gpu/train"), "RayJob"))
    REFUSED[name](document)
    assert len(refusals(document)) == 1


def test_the_operator_refuses_restarts_with_autoscaler() -> None:
    document = copy.deepcopy(the(render("overlays/autoscale/train"), "RayJob"))
    ray_spec(document)["workerGroupSpecs"][0]["template"]["spec"]["restartPolicy"] = "Always"
    assert len(refusals(document)) == 1


@pytest.mark.parametrize("path", RENDERINGS)
def test_the_driver_stays_on_the_head(path: str) -> None:
    """Entry point resources would send it to a worker, whose end would be the run's."""
    for document in of_kind(render(path), "RayJob"):
        assert not {"entrypointNumCpus", "entrypointNumGpus", "entrypointResources"} & set(document["spec"])
    for document in of_kind(render(path), "RayJob", "RayCluster"):
        assert ray_spec(document)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert ray_spec(document)["authOptions"] == {"mode": "token"}
