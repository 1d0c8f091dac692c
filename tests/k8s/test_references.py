"""Names, labels, selectors, ports, volumes and Secrets lead to something within an overlay."""

import pytest
import yaml

from ganscale.config import load
from ganscale.launch.placement import NodeResources, place
from tests.k8s.manifests import (
    JOBS,
    K8S,
    OVERLAYS,
    Manifest,
    amount,
    containers,
    matches,
    of_kind,
    pods,
    ray_spec,
    render,
    the,
    together,
    with_operator_labels,
)
from tests.k8s.test_commands import words

EVERY = pytest.mark.parametrize("overlay", OVERLAYS)


def names(documents: list[Manifest], kind: str) -> set[str]:
    """Names of a kind's objects."""
    return {document["metadata"]["name"] for document in of_kind(documents, kind)}


@EVERY
def test_what_pods_name_is_there(overlay: str) -> None:
    everything = together(overlay)
    for pod in pods(everything):
        assert pod.spec["serviceAccountName"] in names(everything, "ServiceAccount")
        own = overlay == "autoscale" and pod.owner.endswith(" head")
        assert (pod.spec["serviceAccountName"] == "ganscale-head") == own, "the operator gives this account a role"
        assert pod.spec["priorityClassName"] in names(everything, "PriorityClass")
        for volume in pod.spec.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in names(everything, "PersistentVolumeClaim")


@EVERY
def test_volumes_are_mounted_and_mounts_have_volumes(overlay: str) -> None:
    for document in together(overlay):
        claims = {template["metadata"]["name"] for template in document.get("spec", {}).get("volumeClaimTemplates", [])}
        for pod in pods([document]):
            volumes = {volume["name"] for volume in pod.spec.get("volumes", [])} | claims
            mounted = [mount["name"] for container in pod.spec["containers"] for mount in container["volumeMounts"]]
            assert set(mounted) == volumes, pod.owner
            for container in pod.spec["containers"]:
                paths = [mount["mountPath"] for mount in container["volumeMounts"]]
                assert len(paths) == len(set(paths)), pod.owner
    for document in of_kind(together(overlay), "RayJob", "RayCluster"):
        head = {volume["name"] for volume in ray_spec(document)["headGroupSpec"]["template"]["spec"]["volumes"]}
        assert {
            mount["name"] for mount in ray_spec(document).get("autoscalerOptions", {}).get("volumeMounts", [])
        } <= head


@EVERY
def test_ray_nodes_can_write_where_ray_writes(overlay: str) -> None:
    for pod in pods(of_kind(together(overlay), "RayJob", "RayCluster")):
        paths = {mount["mountPath"] for container in pod.spec["containers"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/home/ganscale"} <= paths, pod.owner
        if not pod.owner.endswith("submitter"):
            assert "/dev/shm" in paths, pod.owner
            assert ("/mnt/ganscale" in paths) == (overlay != "bucket"), pod.owner


@EVERY
def test_secrets_have_an_example(overlay: str) -> None:
    keys = {}
    for path in (K8S / "secrets").glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if document["kind"] == "Secret":
                keys[document["metadata"]["name"]] = set(document["stringData"])
    references = [
        variable["valueFrom"]["secretKeyRef"]
        for _, container in containers(together(overlay))
        for variable in container.get("env", [])
        if "valueFrom" in variable
    ]
    redis = ray_spec(the(together(overlay), "RayCluster"))["gcsFaultToleranceOptions"]["redisPassword"]
    references.append(redis["valueFrom"]["secretKeyRef"])
    assert len(references) >= 3
    for reference in references:
        assert reference["key"] in keys[reference["name"]]
        assert reference.get("optional", False) == (reference["name"] == "ganscale-wandb")
    for _, container in containers(together(overlay)):
        for source in container.get("envFrom", []):
            assert source["secretRef"]["name"] in keys
            assert source["secretRef"]["optional"], "a pod's own identity takes its place"


@EVERY
def test_selectors_select(overlay: str) -> None:
    everything = together(overlay)
    labels = [with_operator_labels(pod) for pod in pods(everything)]
    for policy in of_kind(everything, "NetworkPolicy"):
        name, spec = policy["metadata"]["name"], policy["spec"]
        assert any(matches(spec["podSelector"], each) for each in labels), name
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            for peer in [*rule.get("from", []), *rule.get("to", [])]:
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    assert any(matches(peer["podSelector"], each) for each in labels), name
    for budget in of_kind(everything, "PodDisruptionBudget"):
        taken = [pod.owner for pod in pods(everything) if matches(budget["spec"]["selector"], pod.labels)]
        assert [owner.rpartition(" ")[2] for owner in taken] == ["head", "workers"]
        assert {owner.split()[0].split("/")[1] for owner in taken} <= {budget["metadata"]["name"], "ganscale"}
        (cluster,) = [each for each in everything if f"{each['kind']}/{each['metadata']['name']} head" == taken[0]]
        (group,) = ray_spec(cluster)["workerGroupSpecs"]
        assert budget["spec"]["minAvailable"] == group["replicas"], "one pod at a time may go: nodes can be upgraded"
    for service in of_kind(everything, "Service"):
        taken = [pod for pod in pods(everything) if matches({"matchLabels": service["spec"]["selector"]}, pod.labels)]
        assert len(taken) == 1
        ports = {port["name"] for port in taken[0].spec["containers"][0]["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for stateful in of_kind(everything, "StatefulSet"):
        assert matches(stateful["spec"]["selector"], stateful["spec"]["template"]["metadata"]["labels"])
        assert stateful["spec"]["serviceName"] in names(everything, "Service")


@EVERY
def test_probes_and_policies_name_ports_that_listen(overlay: str) -> None:
    agent = 52365  # Ray's dashboard agent, which every node has and which answers the operator's own probes
    declared = {
        port["containerPort"] for _, container in containers(together(overlay)) for port in container.get("ports", [])
    }
    for name, container in containers(together(overlay)):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "httpGet" in container.get(probe, {}):
                assert container[probe]["httpGet"] == {"path": "/api/healthz", "port": agent}, name
    for policy in of_kind(together(overlay), "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            assert {port["port"] for port in rule.get("ports", [])} <= declared, policy["metadata"]["name"]


@EVERY
def test_valkey_is_where_ray_looks_for_it(overlay: str) -> None:
    everything = together(overlay)
    host, _, port = ray_spec(the(everything, "RayCluster"))["gcsFaultToleranceOptions"]["redisAddress"].partition(":")
    service = the(everything, "Service")
    assert (host, int(port)) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
    container = the(everything, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"name": "redis", "containerPort": int(port)}]


def test_queues_hold_what_is_queued() -> None:
    everything = together("kueue")
    queue, cluster_queue = the(everything, "LocalQueue"), the(everything, "ClusterQueue")
    assert queue["spec"]["clusterQueue"] == cluster_queue["metadata"]["name"]
    (group,) = cluster_queue["spec"]["resourceGroups"]
    assert {flavor["name"] for flavor in group["flavors"]} == names(everything, "ResourceFlavor")
    quota = {entry["name"]: amount(entry["nominalQuota"]) for entry in group["flavors"][0]["resources"]}
    for job in of_kind(everything, "RayJob", "RayCluster"):  # as many workers as there is quota of GPUs
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"]
        needs = dict.fromkeys(quota, 0.0)
        for pod in pods([job]):
            for resource, value in pod.spec["containers"][0]["resources"]["requests"].items():
                needs[resource] += amount(value) * (quota["nvidia.com/gpu"] if pod.owner.endswith("workers") else 1)
        assert all(needs[resource] <= quota[resource] for resource in quota), needs


@pytest.mark.parametrize(("overlay", "part"), JOBS)
def test_the_driver_retries_less_often_than_pods_come(overlay: str, part: str) -> None:
    job = the(render(f"overlays/{overlay}/{part}"), "RayJob")["spec"]
    assert job["backoffLimit"] > 0
    assert job["submitterConfig"]["backoffLimit"] > 0
    assert job["preRunningDeadlineSeconds"] < job["activeDeadlineSeconds"]


@EVERY
def test_the_run_takes_all_workers(overlay: str) -> None:
    """The command's settings fit the pods: every GPU, or without GPUs every pod, gets a worker."""
    job = the(render(f"overlays/{overlay}/train"), "RayJob")
    _, *arguments = words(job)
    config = load(arguments[0], arguments[1:])
    group = ray_spec(job)["workerGroupSpecs"][0]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    gpus = int(limits.get("nvidia.com/gpu", 0))
    pods = group["maxReplicas"]
    nodes = [NodeResources(0, 0), *[NodeResources(float(limits["cpu"]), gpus)] * pods]
    placement = place(config, nodes)
    assert placement.num_workers == pods * max(1, gpus)
    assert placement.use_gpu == (gpus > 0)
    scaled = overlay == "autoscale"
    asked = config.cluster.num_workers
    assert asked == ((1, pods) if scaled else pods * max(1, gpus)), "a resume waits for as many"
    assert (group["replicas"], group["minReplicas"]) == ((0, 0) if scaled else (pods, pods))
    assert config.cluster.node_wait > 0
