"""What KubeRay's operator (v1.7.0) makes of a RayJob: the command and environment of each pod's container.

After ray-operator/controllers/ray/common/{pod,job}.go: what a manifest leaves out is filled in, the rest stays.
"""

from typing import NamedTuple

from tests.k8s.manifests import Manifest, amount, ray_spec

SUBMISSION = "ganscale-train-abcde"
GCS, DASHBOARD, AGENT, METRICS = 6379, 8265, 52365, 8080


class Process(NamedTuple):
    """A container's command line and the variables that it adds to those of its image."""

    command: list[str]
    environment: dict[str, str]


def service(job: Manifest) -> str:
    """The name under which the pods find the head."""
    metadata = job["metadata"]
    return f"{metadata['name']}-abcde-head-svc.{metadata['namespace']}.svc.cluster.local"


def head(job: Manifest, token: str) -> Process:
    """Of the head's pod."""
    group = ray_spec(job)["headGroupSpec"]
    return _node(group, "ray start --head", {"dashboard-host": "0.0.0.0"}, f"127.0.0.1:{GCS}", token)


def worker(job: Manifest, token: str) -> Process:
    """Of a worker's pod, once its init container has seen the head."""
    (group,) = ray_spec(job)["workerGroupSpecs"]
    address = f"{service(job)}:{GCS}"
    process = _node(group, "ray start", {"address": address}, address, token)
    wait = f"until ray health-check --address {address} > /dev/null 2>&1; do sleep 5; done"
    return process._replace(command=[*process.command[:2], f"{wait}; {process.command[2]}"])


def submitter(job: Manifest, token: str) -> Process:
    """Of the submitter's pod."""
    container = job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]
    assert not {"command", "args"} & container.keys()
    url = f"http://{service(job)}:{DASHBOARD}"
    healthy = (
        f"python -c \"import urllib.request; r=urllib.request.urlopen('{url}/api/gcs_healthz', timeout=10); "
        "exit(0 if b'success' in r.read() else 1)\""
    )
    script = (
        f'until {healthy} >/dev/null 2>&1 ; do echo "Waiting for Ray Dashboard GCS ..." ; sleep 2 ; done ; '
        f"if ! ray job status --address {url} {SUBMISSION} >/dev/null 2>&1 ; "
        f"then ray job submit --address {url} --no-wait --submission-id {SUBMISSION} "
        f"-- {job['spec']['entrypoint'].strip()} ; fi ; ray job logs --address {url} --follow {SUBMISSION}"
    )
    added = {"PYTHONUNBUFFERED": "1", "RAY_DASHBOARD_ADDRESS": url, "RAY_JOB_SUBMISSION_ID": SUBMISSION}
    return Process(["/bin/bash", "-ce", script], _variables(container) | added | _auth(token))


def _node(group: Manifest, program: str, defaults: dict[str, str], address: str, token: str) -> Process:
    container = group["template"]["spec"]["containers"][0]
    assert not {"command", "args"} & container.keys()
    limits = container["resources"]["limits"]
    filled = {
        "block": "true",
        "dashboard-agent-listen-port": str(AGENT),
        "metrics-export-port": str(METRICS),
        "memory": f"{amount(limits['memory']):.0f}",
        "num-cpus": f"{amount(limits['cpu']):.0f}",
    }
    parameters = defaults | filled | group["rayStartParams"]
    flags = " ".join(
        f"--{name}" if value == "true" else f"--{name}={value}" for name, value in sorted(parameters.items())
    )
    start = f"{program} {flags}"
    added = {"RAY_ADDRESS": address, "RAY_PORT": str(GCS), "KUBERAY_GEN_RAY_START_CMD": start}
    return Process(
        ["/bin/bash", "-c", f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {start}"],
        _variables(container) | added | {"RAY_USAGE_STATS_KUBERAY_IN_USE": "1"} | _auth(token),
    )


def _variables(container: Manifest) -> dict[str, str]:
    """Those with a value; what comes from a Secret that may be missing is missing."""
    without = [each for each in container.get("env", []) if "value" not in each]
    assert all(each["valueFrom"]["secretKeyRef"]["optional"] for each in without)
    return {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def _auth(token: str) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
