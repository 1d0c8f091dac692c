"""What single values of the chart change."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ganscale.config import load
from tests.k8s.chart import CHART, helm, release
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
    assert "$" not in words[2], "the submitter's shell would replace it"
    check, train = re.findall(r"python -m ganscale\.(?:doctor --nccl --nodes 3|train) ([^&;]*[^&;\s])", words[2])
    assert check == train


@pytest.mark.parametrize(("failures", "calls", "status"), [(0, 2, 7), (2, 4, 7), (10, 10, 1)])
def test_the_check_is_repeated(failures: int, calls: int, status: int, tmp_path: Path) -> None:
    """Workers come back after a lost head; the command's status is the training's."""
    words = shlex.split(the(made("ncclCheck.enabled=true"), "RayJob")["spec"]["entrypoint"])
    script = f"""#!/bin/bash
echo "$2" >> {tmp_path}/calls
[ "$2" = ganscale.train ] && exit 7
[ $(wc -l < {tmp_path}/calls) -gt {failures} ]
"""
    for name, content in (("python", script), ("sleep", "#!/bin/bash\n")):
        (tmp_path / name).write_text(content, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert subprocess.run(words, env=environment, timeout=60, check=False).returncode == status
    assert len((tmp_path / "calls").read_text(encoding="utf-8").splitlines()) == calls


def test_a_nightly_sweep() -> None:
    documents = made("sweep.enabled=true", "train.enabled=false", "sweep.schedule=0 1 * * *", "sweep.timeZone=Etc/UTC")
    cron = the(documents, "RayCronJob")
    assert (cron["spec"]["schedule"], cron["spec"]["timeZone"]) == ("0 1 * * *", "Etc/UTC")
    assert "ganscale.tune" in cron["spec"]["jobTemplate"]["entrypoint"]
    assert cron["spec"]["jobTemplate"]["backoffLimit"] == 0, "the night before may hold the sweep"
    assert custom_errors(cron) == []


def test_the_platform_chooses_the_user() -> None:
    for pod in pods(made("runAsUser=platform", "cluster.enabled=true")):
        assert set(pod.spec["securityContext"]) == {"runAsNonRoot", "seccompProfile"}, pod.owner


def test_pods_without_ipv4() -> None:
    job = the(made("ipFamily=IPv6"), "RayJob")
    assert ray_spec(job)["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "::"


def test_whoever_logs_to_wandb_has_the_key_and_a_way_there() -> None:
    """The worker of rank 0; of a sweep the head too, where Tune's driver logs the progress."""
    for settings, groups in (((), {"workers"}), (("train.enabled=false", "sweep.enabled=true"), {"head", "workers"})):
        documents = made(*settings)
        (policy,) = [each for each in documents if each["metadata"]["name"] == "ganscale-wandb"]
        for pod in pods(of_kind(documents, "RayJob")):
            group = pod.owner.rpartition(" ")[-1]
            names = {variable["name"] for variable in pod.spec["containers"][0].get("env", [])}
            assert ("WANDB_API_KEY" in names) == (group in groups), pod.owner
            assert matches(policy["spec"]["podSelector"], pod.labels) == (group in groups), pod.owner


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


@pytest.mark.parametrize(("least", "budgets"), [(0, []), (2, [2])])
def test_budgets_under_autoscaling(least: int, budgets: list[int]) -> None:
    """They count the least number of workers; where nothing may go, it is the head that stays."""
    files = ("gpu", "autoscale")
    documents = made(f"worker.replicas={least}", files=files)
    assert [each["spec"]["minAvailable"] for each in of_kind(documents, "PodDisruptionBudget")] == budgets
    documents = made(f"worker.replicas={least}", "disruption.maxUnavailable=0", files=files)
    budget = the(documents, "PodDisruptionBudget")["spec"]
    taken = [pod.owner for pod in pods(documents) if matches(budget["selector"], pod.labels)]
    assert ([owner.rpartition(" ")[2] for owner in taken], budget["minAvailable"]) == (["head"], 1)


def test_cpu_workers_use_their_cpus() -> None:
    job = the(made("worker.resources.cpu=6", files=("cpu",)), "RayJob")
    assert " cluster.cpus_per_worker=6 " in job["spec"]["entrypoint"]
    (group,) = ray_spec(job)["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (limits["cpu"], "num-cpus" in group["rayStartParams"]) == ("6", False), "Ray counts the container's limit"


def test_an_account_of_the_heads_own() -> None:
    documents = made("serviceAccount.create=false", "serviceAccount.headName=scaler", files=("gpu", "autoscale"))
    assert not of_kind(documents, "ServiceAccount")
    by_role = {pod.owner.split()[-1]: pod.spec["serviceAccountName"] for pod in pods(documents)}
    assert by_role == {"head": "scaler", "workers": "default", "submitter": "default"}


def test_affinity_of_your_own_is_added() -> None:
    zone, node = "worker.affinity.podAffinity", "worker.affinity.podAntiAffinity"
    documents = made(
        f"{zone}.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1",
        f"{zone}.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey=rack",
        f"{node}.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=rack",
        "worker.onePerNode=true",
    )
    (pod,) = [pod for pod in pods(documents) if pod.owner.endswith("workers")]
    near = pod.spec["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    apart = pod.spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert [term["podAffinityTerm"]["topologyKey"] for term in near] == ["rack", "topology.kubernetes.io/zone"]
    assert [term["topologyKey"] for term in apart] == ["rack", "kubernetes.io/hostname"]


def test_words_that_are_no_secrets() -> None:
    assert variables(made("worker.env.TOKENIZERS_PARALLELISM=false"))["TOKENIZERS_PARALLELISM"] == "false"
    for name in ("AWS_ACCESS_KEY_ID", "HF_TOKEN", "PASSWORD", "MY_SECRETS"):
        assert name in helm("template", "any", str(CHART), "--set", f"env.{name}=x").stderr
