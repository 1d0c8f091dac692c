"""The chart: values files render, k8s/overlays are the same, wrong values are refused, releases share no name."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.k8s.chart import CHART, FILES, arguments, helm, parsed, part, places, release
from tests.k8s.manifests import K8S, OVERLAYS, RENDERINGS, ROOT, Manifest, of_kind, ray_spec, render, the

STORAGE = sorted(path.stem for path in (CHART / "values").glob("storage-*.yaml"))
EVERYTHING = ("sweep.enabled=true", "cluster.enabled=true", "monitoring.enabled=true", "priorityClass.create=true")


def by_key(documents: Sequence[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Objects by kind and name, none of them twice."""
    found = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(found) == len(documents)
    return found


@pytest.mark.parametrize("path", RENDERINGS)
def test_kustomize_makes_the_same(path: str) -> None:
    overlay, name = path.split("/")[1:] if "/" in path else ("gpu", path)
    there = [document for document in render(path) if document["kind"] != "Namespace"]
    assert by_key(there) == by_key(part(overlay, name)), "run `make k8s-overlays`"


def test_overlays_are_up_to_date() -> None:
    made = {folder / name: content for folder, files in places() for name, content in files.items()}
    there = {path: path.read_text(encoding="utf-8") for path in made if path.exists()}
    assert there == made, "run `make k8s-overlays`"
    folders = {path.parent for path in made}
    assert {path for folder in folders for path in folder.iterdir()} == set(made)


@pytest.mark.parametrize("files", [*FILES.values(), *(("gpu", name) for name in STORAGE)], ids="+".join)
def test_lint(files: tuple[str, ...]) -> None:
    done = helm("lint", "--strict", str(CHART), *arguments(files, EVERYTHING))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_values_file_is_tested() -> None:
    assert {path.stem for path in (CHART / "values").iterdir()} == {*OVERLAYS, *STORAGE}


REFUSED = {
    "worker.replicas=two": "/worker/replicas",
    "workers=2": "workers",
    "worker.resources.cpu=500m": "/worker/resources/cpu",
    "image.digest=sha256:12": "/image/digest",
    "image.tag=latest": "image.tag",
    "train.args={a;b}": "/train/args/0",
    "storage.bucket=http://bucket": "/storage/bucket",
    "storage.size=200": "/storage/size",
    "env.WANDB_API_KEY=x": "WANDB_API_KEY",
    "queue.scheduler=slurm": "/queue/scheduler",
    "worker.maxReplicas=1": "worker.maxReplicas",
    "worker.maxReplicas=4,queue.scheduler=kueue": "worker.maxReplicas and queue.scheduler",
    "storage.bucket=s3://b,storage.existingClaim=c": "storage.bucket and storage.existingClaim",
    "networkPolicy.dns.namespaces=": "/networkPolicy/dns/namespaces",
    "proxy.http=http://user:word@proxy": "/proxy/http",
    "train.args={#a}": "/train/args/0",
    "head.resources.memory=0Gi": "/head/resources/memory",
    "worker.replicas=0": "worker.replicas: 0",
    "worker.maxReplicas=4,ncclCheck.enabled=true": "ncclCheck.enabled with worker.maxReplicas",
    "ncclCheck.enabled=true,train.enabled=false,sweep.enabled=true": "ncclCheck.enabled without train.enabled",
    "worker.maxReplicas=4,serviceAccount.create=false": "serviceAccount.headName",
    "sweep.timeZone=Etc/UTC": "sweep.timeZone without sweep.schedule",
    "sweep.enabled=true,sweep.schedule=@daily,queue.scheduler=kueue": "sweep.schedule and queue.scheduler",
    "queue.create=true": "queue.create with queue.scheduler: none",
    "storage.class=nfs,storage.newClass.provisioner=nfs.csi.k8s.io": "storage.class and storage.newClass.provisioner",
    "job.submitterImage.tag=1.0": "job.submitterImage.repository",
    f"job.submitterImage.digest=sha256:{'a' * 64}": "job.submitterImage.repository",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_wrong_values_are_refused(setting: str) -> None:
    done = helm("template", "any", str(CHART), "--set", setting)
    assert done.returncode != 0
    assert REFUSED[setting] in done.stderr


def test_long_names_are_refused() -> None:
    """KubeRay takes jobs' names up to 47 characters."""
    assert helm("template", "a" * 42, str(CHART)).returncode != 0
    names = [
        document["metadata"]["name"] for document in of_kind(release(["cpu"], *EVERYTHING, name="a" * 41), "RayJob")
    ]
    assert max(map(len, names)) == 47
    nightly = ("--set", "sweep.enabled=true,sweep.schedule=@daily")
    assert helm("template", "a" * 30, str(CHART), *nightly).returncode == 0, "cron jobs' names: 36"
    assert "at most 30" in helm("template", "a" * 31, str(CHART), *nightly).stderr


@pytest.mark.parametrize("name", ["2nd", "team.flowers"])
def test_names_that_no_service_may_have_are_refused(name: str) -> None:
    assert f"release name {name}: " in helm("template", name, str(CHART)).stderr


@pytest.mark.parametrize(("schedule", "kind"), [("", "rayjob"), ("@daily", "raycronjob")])
def test_notes_name_the_job(schedule: str, kind: str) -> None:
    settings = f"train.enabled=false,sweep.enabled=true,sweep.schedule={schedule}"
    done = helm("install", "any", str(CHART), "--dry-run=client", "--set", settings)
    assert re.findall(r"get (\w+) any-sweep", done.stdout) == [kind], done.stderr


def test_numbers_of_values_files(tmp_path: Path) -> None:
    """Helm reads those of a file as floats, those of --set as integers."""
    file = tmp_path / "values.yaml"
    file.write_text(
        "worker: {maxReplicas: 4, env: {NCCL_BUFFSIZE: 8388608, A: true, B: '1e3'}}\n"
        "job: {keepSeconds: 1209600, submitterRetries: 2000000}\nenv: {C: 16777216}\n",
        encoding="utf-8",
    )
    mixed = ["any", str(CHART), "--values", str(file), "--set"]
    done = helm("template", *mixed, "worker.replicas=3")
    assert done.returncode == 0, done.stderr
    job = the([document for _, document in parsed(done.stdout)], "RayJob")
    assert (job["spec"]["ttlSecondsAfterFinished"], job["spec"]["submitterConfig"]["backoffLimit"]) == (
        1_209_600,
        2_000_000,
    )
    (group,) = ray_spec(job)["workerGroupSpecs"]
    environment = group["template"]["spec"]["containers"][0]["env"]
    found = {each["name"]: each.get("value") for each in environment}
    wanted = {"NCCL_BUFFSIZE": "8388608", "A": "true", "B": "1e3", "C": "16777216"}
    assert found | wanted == found
    assert (
        "worker.maxReplicas: 4 is less than worker.replicas: 5" in helm("template", *mixed, "worker.replicas=5").stderr
    )


def test_the_schema_is_strict_and_complete() -> None:
    """Each object of values.yaml is closed, and each of its keys is described."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def check(values: Manifest, described: Manifest, place: str) -> None:
        assert described.get("additionalProperties") is False, place
        assert set(values) == set(described["properties"]) - {"global"}, place
        for key, value in values.items():
            below = described["properties"][key]
            below = schema["definitions"][below["$ref"].rpartition("/")[2]] if "$ref" in below else below
            if "properties" in below and below["additionalProperties"] is False:
                check(value, below, f"{place}.{key}")

    check(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8")), schema, "")


WIDE = {"PriorityClass", "StorageClass", "ClusterQueue", "ResourceFlavor"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_two_releases_share_nothing(overlay: str) -> None:
    """In one namespace, and of one name in two namespaces: no common name, and no selector takes the other's pods."""
    files, extra = [*FILES[overlay], "storage-efs"], [*EVERYTHING]
    one = release(files, *extra, name="flowers", namespace="team-a")
    other = release(files, *extra, name="birds", namespace="team-a")
    third = release(files, *extra, name="flowers", namespace="team-b")
    assert not by_key(one).keys() & by_key(other).keys()
    assert not by_key(of_kind(one, *WIDE)).keys() & by_key(of_kind(third, *WIDE)).keys()
    for document in [*one, *third]:
        assert document["metadata"].get("namespace") == (
            None if document["kind"] in WIDE else "team-a" if document in one else "team-b"
        )
    selectors = [policy["spec"]["podSelector"] for policy in of_kind(one, "NetworkPolicy")]
    selectors += [budget["spec"]["selector"] for budget in of_kind(one, "PodDisruptionBudget")]
    assert len(selectors) >= 8
    assert all(selector["matchLabels"]["app.kubernetes.io/instance"] == "flowers" for selector in selectors)


def test_versions() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert f'version = "{chart["appVersion"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert chart["version"] == chart["appVersion"]


def test_digests_pin() -> None:
    digest = f"sha256:{'a' * 64}"
    job = the(release(["gpu"], f"image.digest={digest}", "image.registry=registry.example/team"), "RayJob")
    image = ray_spec(job)["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
    assert image == f"registry.example/team/ganscale-gpu:0.2.0@{digest}"
    assert (K8S / "chart" / "README.md").exists()
