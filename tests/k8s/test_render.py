"""Every overlay renders, each part holds what it says, and versions stand in one place."""

import re
import tomllib

import pytest

from tests.k8s.manifests import (
    JOBS,
    K8S,
    OVERLAYS,
    RENDERINGS,
    ROOT,
    containers,
    of_kind,
    ray_spec,
    render,
    the,
    together,
)


def locked(package: str) -> str:
    """The version of a package in requirements.lock."""
    found = re.search(rf"^{package}==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, package
    return found[1]


@pytest.mark.parametrize("path", RENDERINGS)
def test_it_renders(path: str) -> None:
    assert all(document["apiVersion"] and document["metadata"]["name"] for document in render(path))


def test_all_overlays_are_tested() -> None:
    folders = {path.parent.relative_to(K8S / "overlays") for path in K8S.glob("overlays/**/kustomization.yaml")}
    assert {str(folder) for folder in folders} == {
        f"{overlay}/{part}" for overlay in OVERLAYS for part in OVERLAYS[overlay]
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_parts_share_no_object(overlay: str) -> None:
    """Else deleting one part would take away what another one needs."""
    keys = [(document["kind"], document["metadata"]["name"]) for document in together(overlay)]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(("overlay", "part"), JOBS)
def test_deleting_a_job_keeps_the_runs(overlay: str, part: str) -> None:
    kinds = {document["kind"] for document in render(f"overlays/{overlay}/{part}")}
    assert kinds - {"PodDisruptionBudget"} == {"RayJob"}
    volumes = of_kind(render(f"overlays/{overlay}/setup"), "PersistentVolumeClaim")
    assert bool(volumes) == (overlay != "bucket")


@pytest.mark.parametrize("path", RENDERINGS)
def test_everything_is_in_the_namespace(path: str) -> None:
    wide = {"Namespace", "PriorityClass", "ClusterQueue", "ResourceFlavor"}
    for document in render(path):
        expected = None if document["kind"] in wide else "ganscale"
        assert document["metadata"].get("namespace") == expected, document["kind"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_is_the_locked_one(overlay: str) -> None:
    for document in of_kind(together(overlay), "RayJob", "RayCluster"):
        assert ray_spec(document)["rayVersion"] == locked("ray")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_those_of_make_image(overlay: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    kind = "cpu" if overlay == "cpu" else "gpu"
    images = {container["image"] for _, container in containers(together(overlay)) if "image" in container}
    assert {image for image in images if "ganscale" in image} == {f"ganscale-{kind}:{version}"}


def test_overlays_differ_in_what_they_say() -> None:
    train = {overlay: the(render(f"overlays/{overlay}/train"), "RayJob") for overlay in OVERLAYS}
    cluster = {overlay: the(render(f"overlays/{overlay}/cluster"), "RayCluster") for overlay in OVERLAYS}
    for overlay in OVERLAYS:
        spec, other = ray_spec(train[overlay]), ray_spec(cluster[overlay])
        for part in (spec, other):
            limits = part["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert ("nvidia.com/gpu" in limits) == (overlay != "cpu")
            assert ("rdma/rdma_shared_device_a" in limits) == (overlay == "gpu-rdma")
            assert part.get("enableInTreeAutoscaling", False) == (overlay == "autoscale")
            template = part["workerGroupSpecs"][0]["template"]
            assert template["spec"]["containers"][0]["lifecycle"]["preStop"], "a drained node costs no attempt"
            assert ("annotations" in template["metadata"]) == (overlay != "spot")
            required = template["spec"].get("affinity", {}).get("nodeAffinity", {})
            assert "requiredDuringSchedulingIgnoredDuringExecution" not in required, "the GPU's resource is enough"
            selector = {} if overlay == "cpu" else {"kubernetes.io/arch": "amd64"}
            assert template["spec"].get("nodeSelector", {}) == selector
            for group in (part["headGroupSpec"], part["workerGroupSpecs"][0]):
                assert ("envFrom" in group["template"]["spec"]["containers"][0]) == (overlay == "bucket")
        for document in (train[overlay], cluster[overlay]):
            assert ("kueue.x-k8s.io/queue-name" in document["metadata"]["labels"]) == (overlay == "kueue")
    assert ray_spec(cluster["cpu"])["gcsFaultToleranceOptions"]
    assert the(render("overlays/cpu/setup"), "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert the(render("overlays/gpu/setup"), "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]
