"""What single values of the chart change."""

import shlex
from typing import Any

import pytest

from ganscale.config import load
from tests.k8s.chart import release
from tests.k8s.manifests import ROOT, Manifest, matches, of_kind, pods, ray_spec, the
from tests.k8s.schemas import core_errors, custom_errors


def made(*settings: str, files: tuple[str, ...] = ("gpu",)) -> list[Manifest]:
    """A release of the chart, checked against the schemas of Kubernetes."""
    documents = release(files, *settings)
    for document in documents:
        if document["apiVersion"] in ("v1", "storage.k8s.io/v1", "networking.k8s.io/v1", "policy/v1"):
            assert core_errors(document, "1.37") == [], document["metadata"]["name"]
    return documents


def container(documents: list[Manifest], group: str = "workers") -> Manifest:
    """The Ray container of the job's head or workers."""
    (pod,) = [pod for pod in pods(of_kind(documents, "RayJob")) if pod.owner.endswith(group)]
    return pod.spec["containers"][0]


def variables(documents: list[Manifest], group: str = "workers") -> dict[str, Any]:
    """Its environment."""
    return {each["name"]: each.get("value") for each in container(documents, group)["env"]}


@pytest.mark.parametrize(
    ("scheduler", "labels"),
    [
        ("kueue", {"kueue.x-k8s.io/queue-name": "team"}),
        ("volcano", {"ray.io/scheduler-name": "volcano", "volcano.sh/queue-name": "team"}),
        ("kai", {"kai.scheduler/queue": "team"}),
        ("yunikorn", {"ray.io/gang-scheduling-enabled": "true", "yunikorn.apache.org/queue": "team"}),
    ],
)
def test_queues(scheduler: str, labels: dict[str, str]) -> None:
    documents = made(f"queue.scheduler={scheduler}", "queue.name=team", "cluster.enabled=true")
    for document in of_kind(documents, "RayJob", "RayCluster"):
        assert labels.items() <= document["metadata"]["labels"].items()
    assert not of_kind(documents, "ClusterQueue")


@pytest.mark.parametrize(("gpus", "replicas", "processes"), [(1, 4, 4), (8, 2, 16)])
def test_the_command_says_the_number_of_workers(gpus: int, replicas: int, processes: int) -> None:
    settings = (rf"worker.resources.nvidia\.com/gpu={gpus}", f"worker.replicas={replicas}", "worker.resources.cpu=64")
    job = the(made(*settings), "RayJob")
    words = shlex.split(job["spec"]["entrypoint"].replace("/opt/ganscale", str(ROOT)))[3:]
    cluster = load(words[0], words[1:]).cluster
    assert (cluster.num_workers, cluster.cpus_per_worker, cluster.node_wait) == (processes, 64 // gpus, 1800)


def test_retries() -> None:
    """Losing the head costs the submitter's, so there are many; a failed command the job's, so there are few."""
    spec = the(made(), "RayJob")["spec"]
    assert spec["submitterConfig"]["backoffLimit"] >= 100
    assert 0 < spec["backoffLimit"] < 10


def test_the_check_before_training() -> None:
    """The submitter's shell sees one command, Ray's runs both."""
    words = shlex.split(the(made("ncclCheck.enabled=true"), "RayJob")["spec"]["entrypoint"])
    assert words[:2] == ["bash", "-c"]
    assert len(words) == 3
    check, _, train = words[2].partition(" && exec ")
    assert check.removeprefix("python -m ganscale.doctor --nccl ") == train.removeprefix("python -m ganscale.train ")


def test_a_nightly_sweep() -> None:
    documents = made("sweep.enabled=true", "train.enabled=false", "sweep.schedule=0 1 * * *", "sweep.timeZone=Etc/UTC")
    cron = the(documents, "RayCronJob")
    assert custom_errors(cron) == []
    assert (cron["spec"]["schedule"], cron["spec"]["timeZone"]) == ("0 1 * * *", "Etc/UTC")
    assert "ganscale.tune" in cron["spec"]["jobTemplate"]["entrypoint"]


def test_the_platform_chooses_the_user() -> None:
    for pod in pods(made("runAsUser=platform", "cluster.enabled=true")):
        assert set(pod.spec["securityContext"]) == {"runAsNonRoot", "seccompProfile"}, pod.owner


def test_pods_without_ipv4() -> None:
    job = the(made("ipFamily=IPv6"), "RayJob")
    assert ray_spec(job)["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "::"


def test_a_proxy_is_for_the_outside_only() -> None:
    documents = made("proxy.https=http://proxy:3128", "proxy.exclude=.example.com")
    for group in ("head", "workers"):
        environment = variables(documents, group)
        assert environment["HTTPS_PROXY"] == environment["https_proxy"] == "http://proxy:3128"
        excluded = environment["NO_PROXY"].split(",")
        assert {".svc", "127.0.0.1", "10.0.0.0/8", ".example.com"} <= set(excluded)
    assert "NO_PROXY" not in variables(made())


def test_the_api_server_is_all_that_the_autoscaler_reaches() -> None:
    files = ("gpu", "autoscale")
    narrow = made("networkPolicy.apiServer.cidrs={10.0.0.1/32}", files=files)
    (policy,) = [each for each in narrow if each["metadata"]["name"] == "ganscale-autoscaler"]
    assert policy["spec"]["egress"][0]["to"] == [{"ipBlock": {"cidr": "10.0.0.1/32"}}]
    documents = made("networkPolicy.apiServer.cilium=true", files=files)
    policy = the(documents, "CiliumNetworkPolicy")
    (head,) = [pod for pod in pods(of_kind(documents, "RayJob")) if pod.owner.endswith("head")]
    assert matches(policy["spec"]["endpointSelector"], head.labels)
    assert policy["spec"]["egress"][0]["toEntities"] == ["kube-apiserver"]
    assert not [each for each in made() if each["metadata"]["name"] == "ganscale-autoscaler"]


@pytest.mark.parametrize(("identity", "ports"), [("none", {443}), ("eks", {443, 80}), ("gke", {443, 80, 988})])
def test_where_credentials_come_from(identity: str, ports: set[int]) -> None:
    documents = made(f"networkPolicy.identity={identity}", "storage.bucket=gs://runs")
    (policy,) = [each for each in documents if each["metadata"]["name"] == "ganscale-egress"]
    assert {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]} == ports


@pytest.mark.parametrize("storage", ["efs", "filestore", "azurefile", "nfs"])
def test_storage(storage: str) -> None:
    documents = made(files=("gpu", f"storage-{storage}"))
    claim = the(documents, "PersistentVolumeClaim")
    assert claim["spec"]["storageClassName"] == the(documents, "StorageClass")["metadata"]["name"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert the(documents, "StorageClass")["reclaimPolicy"] == "Retain"


def test_a_volume_of_another_release() -> None:
    documents = made("storage.existingClaim=team-runs")
    assert not of_kind(documents, "PersistentVolumeClaim")
    for group in ("head", "workers"):
        (pod,) = [pod for pod in pods(of_kind(documents, "RayJob")) if pod.owner.endswith(group)]
        assert {"name": "runs", "persistentVolumeClaim": {"claimName": "team-runs"}} in pod.spec["volumes"]


def test_what_is_yours_reaches_pods() -> None:
    documents = made(
        "imagePullSecrets={registry}",
        "worker.runtimeClassName=nvidia",
        "env.A=1",
        "volumes[0].name=data,volumes[0].emptyDir.sizeLimit=1Gi",
        "volumeMounts[0].name=data,volumeMounts[0].mountPath=/data",
        r"serviceAccount.annotations.eks\.amazonaws\.com/role-arn=arn",
        "job.submitterImage.repository=ganscale-submitter",
        r"podLabels.azure\.workload\.identity/use=yes",
        "worker.sameZone=required",
    )
    by_role = {pod.owner.split()[-1]: pod for pod in pods(of_kind(documents, "RayJob"))}
    for role, pod in by_role.items():
        assert pod.spec["imagePullSecrets"] == [{"name": "registry"}]
        assert pod.labels["azure.workload.identity/use"] == "yes"
        if role != "submitter":
            assert {"name": "A", "value": "1"} in pod.spec["containers"][0]["env"]
            assert {"name": "data", "mountPath": "/data"} in pod.spec["containers"][0]["volumeMounts"]
    assert by_role["submitter"].spec["containers"][0]["image"] == "ganscale-submitter:0.2.0"
    assert by_role["workers"].spec["runtimeClassName"] == "nvidia"
    (term,) = by_role["workers"].spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert matches(term["labelSelector"], by_role["workers"].labels)
    assert "affinity" not in by_role["head"].spec
    assert the(documents, "ServiceAccount")["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn"}


def test_nothing_may_be_evicted() -> None:
    budget = the(made("disruption.maxUnavailable=0"), "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 3, "head and two workers"
