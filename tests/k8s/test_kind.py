""".ci/kind, which runs every night where Docker is: its steps in their order, with programs that only pretend."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.k8s.chart import helm, program
from tests.k8s.manifests import ROOT, containers, the

SCRIPT = ROOT / ".ci" / "kind"
FAKE = """#!{python}
# Notes its arguments, and answers as a cluster would on which the job ends with STATUS.
import json, os, pathlib, sys
folder = pathlib.Path({folder!r})
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with (folder / "calls").open("a") as file:
    file.write(json.dumps([name, *words]) + "\\n")
text = " ".join(words)
seen = (folder / "calls").read_text()
deleted = '"delete", "pod"' in seen
if text == "apply -f -":
    (folder / "applied").write_text(sys.stdin.read())
elif text.startswith("template"):
    print((folder / "rendered").read_text() if (folder / "rendered").exists() else "")
elif "jobStatus}}/" in text:
    print(("FAILED" if {status!r} == "FAILED" and deleted else "RUNNING") + "/Running")
elif "jobStatus" in text:
    polls = seen.count("{{.status.jobStatus}}\\"")
    print({status!r} if deleted and {status!r} == "SUCCEEDED" else "" if polls < 3 else "RUNNING")
elif "logs" in words and "component=submitter" in text:
    print("       2,560 / 25,600 images  10.0%")
elif "metadata.uid" in text:
    print("uid-2" if deleted else "uid-1")
elif "metadata.name" in text:
    print("head-pod")
elif "train.log" in text:
    print("dcgan on mnist for 2 workers", "resuming at 2,560 images", "dcgan on mnist for {workers} workers", sep="\\n")
"""


def run(folder: Path, *, status: str = "SUCCEEDED", workers: int = 2) -> tuple[int, list[list[str]], str]:
    """Exit code, all commands, and the output."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("kind", "kubectl", "helm", "make"):
        text = FAKE.format(python=sys.executable, folder=str(folder), status=status, workers=workers)
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "KIND_SECONDS": "60", "KIND_PAUSE": "0"}
    done = subprocess.run([str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=120)
    calls = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    return done.returncode, calls, done.stdout + done.stderr


def position(calls: list[list[str]], *words: str) -> int:
    """Index of the only command that begins with some words."""
    (found,) = [index for index, call in enumerate(calls) if tuple(call[: len(words)]) == words]
    return found


def test_syntax() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    assert os.access(SCRIPT, os.X_OK)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(SCRIPT)], check=True)


def test_the_head_is_deleted_once_and_the_cluster_in_the_end(tmp_path: Path) -> None:
    code, calls, output = run(tmp_path)
    assert code == 0, output
    order = [
        position(calls, "kind", "create", "cluster"),
        position(calls, "helm", "install", "kuberay-operator"),
        position(calls, "make", "image"),
        position(calls, "kind", "load", "docker-image", "ganscale-cpu:0.2.0"),
        position(calls, "helm", "template", "ganscale", "k8s/chart"),
        position(calls, "kubectl", "-n", "ganscale", "delete", "pod"),
        position(calls, "kubectl", "-n", "ganscale", "exec", "head-pod"),
        position(calls, "kind", "delete", "cluster"),
    ]
    assert order == sorted(order)
    assert order[-1] == len(calls) - 1


@pytest.mark.parametrize(("status", "workers", "says"), [("FAILED", 2, "failed"), ("SUCCEEDED", 1, "both workers")])
def test_it_fails_with_the_job_and_with_a_lost_worker(status: str, workers: int, says: str, tmp_path: Path) -> None:
    code, calls, output = run(tmp_path, status=status, workers=workers)
    assert code == 1
    assert says in output
    position(calls, "kubectl", "-n", "ganscale", "describe", "pods")
    assert calls[-1][:3] == ["kind", "delete", "cluster"], "whatever happens"


def test_what_it_applies_is_the_chart_with_smaller_requests(tmp_path: Path) -> None:
    """Its own words for Helm, with the real Helm."""
    program()
    (tmp_path / "first").mkdir()
    _, calls, _ = run(tmp_path / "first")
    words = calls[position(calls, "helm", "template")][1:]
    done = helm(*(str(ROOT / word) if word.startswith("k8s/") else word for word in words))
    assert done.returncode == 0, done.stderr
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "rendered").write_text(done.stdout)
    run(tmp_path / "second")
    before = [document for document in yaml.safe_load_all(done.stdout) if document]
    after = [each for each in yaml.safe_load_all((tmp_path / "second" / "applied").read_text()) if each]
    job = the(after, "RayJob")
    assert job["metadata"]["name"] == "ganscale-train"
    assert "train.images=25600" in job["spec"]["entrypoint"]
    assert "cluster.num_workers=2 " in job["spec"]["entrypoint"]
    for (name, container), (_, old) in zip(containers(after), containers(before), strict=True):
        assert container["resources"]["requests"].pop("cpu") == "200m", name
        old["resources"]["requests"].pop("cpu")
    assert after == before, "else nothing changes"


def test_the_workflow_runs_it_where_docker_is() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text(encoding="utf-8"))
    *_, docker, last = workflow["jobs"]["kind"]["steps"]
    assert "docker info" in docker["run"]
    assert (last["run"], last["if"]) == (".ci/kind", f"steps.{docker['id']}.outputs.found == 'true'")
