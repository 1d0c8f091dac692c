"""What KubeRay's operator (v1.7.0) refuses beyond its schemas: ray-operator/controllers/ray/utils/validation.go.

Only fields that our manifests use, or are likely to come to use, are looked at.
"""

import re
from collections.abc import Iterator
from typing import Any

from tests.k8s.manifests import Manifest, ray_spec

LONGEST = {"RayCluster": 53, "RayJob": 47}
GATED = ("networkPolicy", "tlsOptions", "historyServerOptions")
"""Fields of alpha features, off by default: the operator refuses a manifest that uses them."""
_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
_OWN = ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME")


def refusals(document: Manifest) -> list[str]:
    """Why the operator would refuse a RayJob or RayCluster; empty when it takes it."""
    name, kind = document["metadata"]["name"], document["kind"]
    found = []
    if len(name) > LONGEST[kind]:
        found.append(f"name: at most {LONGEST[kind]} characters")
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        found.append("name: not a DNS-1035 label")
    spec = ray_spec(document)
    found += [f"{field}: an alpha feature" for field in GATED if field in spec]
    found += [*_groups(spec), *_fault_tolerance(spec), *_autoscaling(spec), *_auth(spec, kind)]
    return found + ([*_job(document["spec"])] if kind == "RayJob" else [])


def _groups(spec: Manifest) -> Iterator[str]:
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        parameters = group.get("rayStartParams", {})
        if group.get("resources") and any(parameters.get(key) for key in _RESOURCES):
            yield "resources: both in rayStartParams and in resources"
        if "labels" in parameters:
            yield "rayStartParams: labels belong into the field labels"
        if not group["template"]["spec"].get("containers"):
            yield "a group without container"
    for group in spec["workerGroupSpecs"]:
        least, most = group.get("minReplicas"), group.get("maxReplicas")
        if not spec.get("enableInTreeAutoscaling") and (least is None or most is None):
            yield "minReplicas and maxReplicas: both needed without autoscaling"
        if least is not None and most is not None and not 0 <= least <= most:
            yield "minReplicas: not between 0 and maxReplicas"


def _fault_tolerance(spec: Manifest) -> Iterator[str]:
    options = spec.get("gcsFaultToleranceOptions")
    used = {variable["name"] for variable in _head(spec).get("env", [])} & set(_OWN)
    if used:
        yield f"env of the head: {', '.join(sorted(used))} belong into gcsFaultToleranceOptions"
    if "redis-password" in spec["headGroupSpec"].get("rayStartParams", {}):
        yield "rayStartParams: redis-password belongs into gcsFaultToleranceOptions"
    if options and options.get("backend", "redis") != "redis":
        yield "gcsFaultToleranceOptions.backend: an alpha feature"
    if options and "storage" in options:
        yield "gcsFaultToleranceOptions.storage: not with Redis"


def _autoscaling(spec: Manifest) -> Iterator[str]:
    on, options = spec.get("enableInTreeAutoscaling", False), spec.get("autoscalerOptions", {})
    if "RAY_enable_autoscaler_v2" in {variable["name"] for variable in _head(spec).get("env", [])}:
        yield "env of the head: RAY_enable_autoscaler_v2 belongs into autoscalerOptions.version"
    second = on and options.get("version", "v2") == "v2"
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        if second and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield "restartPolicy: Never with autoscaler v2"
        if not second and (group.get("idleTimeoutSeconds") is not None or group.get("priority")):
            yield "idleTimeoutSeconds, priority: only with autoscaler v2"
        if on and group.get("suspend"):
            yield "suspend of a group: not with autoscaling"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds: negative"


def _auth(spec: Manifest, kind: str) -> Iterator[str]:
    options = spec.get("authOptions", {})
    if options.get("mode") == "token":
        numbers = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", spec.get("rayVersion", ""))
        if not numbers or tuple(map(int, numbers.groups())) < (2, 52, 0):
            yield "rayVersion: token authentication takes 2.52.0 or newer"
    if options.get("enableK8sTokenAuth") and kind == "RayJob":
        yield "authOptions.enableK8sTokenAuth: not with a RayJob"


def _job(spec: Manifest) -> Iterator[str]:
    mode, shutdown = spec.get("submissionMode", "K8sJobMode"), spec.get("shutdownAfterJobFinishes", False)
    if spec.get("suspend") and not shutdown:
        yield "suspend: takes shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) < 0 or (spec.get("ttlSecondsAfterFinished") and not shutdown):
        yield "ttlSecondsAfterFinished: not negative, and takes shutdownAfterJobFinishes"
    if spec.get("backoffLimit", 0) < 0 or (mode == "InteractiveMode" and spec.get("backoffLimit")):
        yield "backoffLimit: not negative, and not with InteractiveMode"
    for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(field, 1) <= 0:
            yield f"{field}: not positive"
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield "submitterPodTemplate, submitterConfig: not with SidecarMode"
    if "upgradeStrategy" in spec["rayClusterSpec"]:
        yield "upgradeStrategy: not for a job's cluster"
    yield from _deletion(spec, shutdown)


def _deletion(spec: Manifest, shutdown: bool) -> Iterator[str]:
    strategy: dict[str, Any] = spec.get("deletionStrategy", {})
    rules = strategy.get("deletionRules", [])
    if rules and (shutdown or spec.get("ttlSecondsAfterFinished")):
        yield "deletionRules: not with shutdownAfterJobFinishes or ttlSecondsAfterFinished"
    if rules and ("onSuccess" in strategy or "onFailure" in strategy):
        yield "deletionRules: not with onSuccess or onFailure"
    if spec["rayClusterSpec"].get("enableInTreeAutoscaling") and any(r["policy"] == "DeleteWorkers" for r in rules):
        yield "DeleteWorkers: not with autoscaling"


def _head(spec: Manifest) -> Manifest:
    return spec["headGroupSpec"]["template"]["spec"]["containers"][0]
