"""What Helm makes of k8s/chart, and k8s/overlays as the same in kustomize's form.

`python -m tests.k8s.chart` (`make k8s-overlays`) writes k8s/overlays: `gpu` whole, the others as patches on it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import K8S, OVERLAYS, Manifest

CHART = K8S / "chart"
FILES = {name: ("gpu", name) if name not in ("cpu", "gpu") else (name,) for name in OVERLAYS}
"""Values files of each overlay, in order."""
SOURCES = {
    "setup": ("setup", "network"),
    "train": ("jobs", "disruption"),
    "sweep": ("jobs", "disruption"),
    "cluster": ("cluster", "disruption"),
    "monitoring": ("monitoring",),
}
"""Templates of each part."""
BASE = "gpu"
WIDTH = 160


def program() -> str:
    """Helm's binary; skips the test where there is none."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    found = shutil.which("helm", path=path)
    if not found:
        pytest.skip("helm is not installed (`make setup` installs it on x86-64 Linux)")
    return found


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Helm, without a cluster."""
    environment = os.environ | {"KUBECONFIG": os.devnull}
    return subprocess.run([program(), *words], env=environment, capture_output=True, text=True, timeout=120)


def arguments(files: Sequence[str], settings: Sequence[str] = ()) -> list[str]:
    """Helm's words for values files of the chart and single values."""
    words = [word for name in files for word in ("--values", str(CHART / "values" / f"{name}.yaml"))]
    return words + [word for setting in settings for word in ("--set", setting)]


@cache
def template(
    files: tuple[str, ...], settings: tuple[str, ...] = (), release: str = "ganscale", namespace: str = "ganscale"
) -> tuple[tuple[str, Manifest], ...]:
    """Each manifest of a release with the template that it comes from; not to be changed."""
    done = helm("template", release, str(CHART), "--namespace", namespace, *arguments(files, settings))
    assert done.returncode == 0, done.stderr
    return tuple(parsed(done.stdout))


def parsed(output: str) -> list[tuple[str, Manifest]]:
    """Each manifest that `helm template` printed, with the template that it comes from."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    made = []
    for text in f"\n{output}".split("\n---\n# Source: ganscale/templates/")[1:]:
        name, _, content = text.partition(".yaml\n")
        if document := yaml.load(content, Loader=loader):
            made.append((name, document))
    return made


def release(
    files: Sequence[str], *settings: str, name: str = "ganscale", namespace: str = "ganscale"
) -> list[Manifest]:
    """All manifests of a release."""
    return [document for _, document in template(tuple(files), settings, name, namespace)]


def part(overlay: str, name: str) -> list[Manifest]:
    """What the chart makes of an overlay's part."""
    chosen = {job: job == name or (name == "setup" and job != "sweep") for job in ("train", "sweep", "cluster")}
    settings = [f"{job}.enabled={str(value).lower()}" for job, value in chosen.items()]
    settings += ["priorityClass.create=true", f"monitoring.enabled={str(name == 'monitoring').lower()}"]
    made = template(FILES[overlay], tuple(settings))
    return [document for source, document in made if source in SOURCES[name]]


def _flow(node: Any) -> str:
    return yaml.safe_dump(node, default_flow_style=True, width=10**9, sort_keys=False).removesuffix("...\n").strip()


def _lines(node: Any, indent: str = "") -> Iterator[str]:
    """YAML whose short parts stand in one line."""
    for key in node:
        value = node[key] if isinstance(node, dict) else key
        head = f"{indent}{_flow(key)}:" if isinstance(node, dict) else f"{indent}-"
        line = f"{head} {_flow(value)}"
        if len(line) <= WIDTH or not isinstance(value, dict | list):
            yield line
        elif isinstance(node, dict):
            yield head
            yield from _lines(value, f"{indent}  ")
        else:
            first, *rest = _lines(value, f"{indent}  ")
            yield f"{head} {first.strip()}"
            yield from rest


def _operations(old: Any, new: Any, path: str = "") -> list[Manifest]:
    """JSON patch that makes one of the other: in parts, or as a whole where that is shorter."""
    if old == new:
        return []
    made: list[Manifest] = []
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            place = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            if key not in new:
                made.append({"op": "remove", "path": place})
            elif key not in old:
                made.append({"op": "add", "path": place, "value": new[key]})
            else:
                made += _operations(old[key], new[key], place)
    elif isinstance(old, list) and isinstance(new, list):
        for index, (one, other) in enumerate(zip(old, new, strict=False)):
            made += _operations(one, other, f"{path}/{index}")
        made += [{"op": "add", "path": f"{path}/-", "value": value} for value in new[len(old) :]]
        made += [{"op": "remove", "path": f"{path}/{index}"} for index in reversed(range(len(new), len(old)))]
    whole = [{"op": "replace", "path": path, "value": new}]
    return made if made and len(_flow(made)) <= len(_flow(whole)) else whole


def _by_key(*versions: list[Manifest]) -> list[dict[tuple[str, str], Manifest]]:
    """Objects of each version by kind and name; by kind alone where no version has two of it."""
    kinds = [[document["kind"] for document in documents] for documents in versions]
    several = {kind for each in kinds for kind in each if each.count(kind) > 1}
    return [
        {(each["kind"], each["metadata"]["name"] if each["kind"] in several else ""): each for each in documents}
        for documents in versions
    ]


def kustomization(overlay: str, name: str) -> dict[str, str]:
    """Files of an overlay's part, by name."""
    new = part(overlay, name)
    base = ("train" if name == "sweep" else None) if overlay == BASE else (name if name != "sweep" else "train")
    folder = f"../{base}" if overlay == BASE or name == "sweep" else f"../../{BASE}/{name}"
    old = part(overlay if name == "sweep" else BASE, base) if base else []
    before, after = _by_key(old, new)
    added = [after[key] for key in after if key not in before]
    resources = [*([folder] if base else []), *(["objects.yaml"] if added else [])]
    if overlay == BASE and name == "setup":
        resources.insert(0, "../../../namespace")
    patches = []
    for key, document in before.items():
        target = {"kind": key[0]} | ({"name": key[1]} if key[1] else {})
        if key not in after:
            named = {field: document["metadata"][field] for field in ("name", "namespace")}
            gone = {"apiVersion": document["apiVersion"], "kind": key[0], "metadata": named, "$patch": "delete"}
            patches.append({"target": target, "patch": _flow(gone)})
        elif operations := _operations(document, after[key]):
            options = {"options": {"allowNameChange": True}} if name == "sweep" else {}
            patches.append({"target": target, **options, "patch": operations})
    text = [
        "# Made from k8s/chart by `make k8s-overlays`.",
        "apiVersion: kustomize.config.k8s.io/v1beta1",
        "kind: Kustomization",
    ]
    text += [f"resources: {_flow(resources)}", *(["patches:"] if patches else [])]
    for patch in patches:
        body = patch.pop("patch")
        first, *rest = _lines(patch)
        text += [f"  - {first}", *(f"    {line}" for line in rest), "    patch: |"]
        text += [
            f"      {line}" for line in ([body] if isinstance(body, str) else [f"- {_flow(each)}" for each in body])
        ]
    files = {"kustomization.yaml": "\n".join([*text, ""])}
    if added:
        documents = ["\n".join([*_lines(document), ""]) for document in added]
        files["objects.yaml"] = "# Made from k8s/chart by `make k8s-overlays`.\n" + "---\n".join(documents)
    return files


def places() -> Iterator[tuple[Path, dict[str, str]]]:
    """Every generated folder with its files."""
    for overlay, names in OVERLAYS.items():
        for name in names:
            yield K8S / "overlays" / overlay / name, kustomization(overlay, name)
    yield K8S / "monitoring", kustomization(BASE, "monitoring")


if __name__ == "__main__":
    for folder, files in list(places()):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
