"""The commands that the jobs submit: our own command line takes them, as they stand."""

import importlib
import shlex

import pytest

from ganscale.train import main
from tests.k8s.manifests import JOBS, OVERLAYS, ROOT, Manifest, ray_spec, render, the

IMAGE = "/opt/ganscale/"
"""Where the image keeps what the repository has below `configs/`."""


def words(job: Manifest) -> list[str]:
    """A job's module and arguments, with the image's paths turned into the checkout's."""
    parts = shlex.split(job["spec"]["entrypoint"])
    assert parts[:2] == ["python", "-m"]
    return [part.replace(IMAGE, f"{ROOT}/") for part in parts[2:]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_training_dry_runs(overlay: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, *arguments = words(the(render(f"overlays/{overlay}/train"), "RayJob"))
    assert module == "ganscale.train"
    assert main([*arguments, "--dry-run"]) == 0
    place = "s3://ganscale/runs" if overlay == "bucket" else "/mnt/ganscale/runs"
    assert f"dir: {place}\n" in capsys.readouterr().out


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_sweep_dry_runs(overlay: str) -> None:
    module, *arguments = words(the(render(f"overlays/{overlay}/sweep"), "RayJob"))
    assert module == "ganscale.tune"
    assert importlib.import_module(module).main([*arguments, "--dry-run"]) == 0
    assert f"sweep.dir={'s3://ganscale/sweeps' if overlay == 'bucket' else '/mnt/ganscale/sweeps'}" in arguments


@pytest.mark.parametrize(("overlay", "part"), JOBS)
def test_the_command_stands_in_one_place(overlay: str, part: str) -> None:
    """The shell that submits it sees one line, and the run folder is on the shared storage."""
    job = the(render(f"overlays/{overlay}/{part}"), "RayJob")
    assert "\n" not in job["spec"]["entrypoint"]
    assert not set(job["spec"]["entrypoint"]) & set(";|&$`<>\"'")
    if overlay == "bucket":
        return
    spec = ray_spec(job)
    mounts = [
        {mount["mountPath"]: mount["name"] for mount in template["spec"]["containers"][0]["volumeMounts"]}
        for template in (spec["headGroupSpec"]["template"], spec["workerGroupSpecs"][0]["template"])
    ]
    assert all(mount["/mnt/ganscale"] == "runs" for mount in mounts)
