"""The documentation site: its navigation, what it is made of, its tutorials' scripts and its notebook."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import local_cluster
from docs.tools import architecture, hooks
from ganscale.sweep.plan import load_plan
from tests.test_docs import ROOT, blocks, lines
from tests.test_floors import ORDER

DOCS = ROOT / "docs"
MADE = {hooks.NOTEBOOK_PAGE, *(f"project/{name}" for name in hooks.PROJECT)}
"""Pages that the site makes of files elsewhere."""
CLICKS = {
    "add a data set": "extending.md",
    "resume a run": "guides/resume.md",
    "GPU is out of memory": "guides/gpu.md",
    "W&B offline": "guides/wandb.md",
}


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name functions of the site's own environment."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
SETTINGS: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def nav(entry: Any) -> list[str]:
    """The pages of an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in nav(value)]


def test_every_page_is_in_the_navigation_once() -> None:
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | MADE
    assert sorted(nav(SETTINGS["nav"])) == sorted(there)


@pytest.mark.parametrize(("question", "page"), CLICKS.items(), ids=CLICKS)
def test_a_person_finds_it_by_one_click(question: str, page: str) -> None:
    rows = (DOCS / "index.md").read_text(encoding="utf-8").splitlines()
    (row,) = (row for row in rows if question.lower() in row.lower())
    assert f"]({page}" in row


def test_nothing_is_loaded_from_elsewhere() -> None:
    assert SETTINGS["theme"]["font"] is False
    assert not {"extra_javascript", "repo_url", "site_url"} & SETTINGS.keys()
    assert all("//" not in sheet for sheet in SETTINGS["extra_css"])
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        assert not re.search(r"!\[[^\]]*\]\(https?:", page.read_text(encoding="utf-8")), page


def test_links_out_of_docs_lead_to_pages() -> None:
    text = "[one](../BENCHMARKS.md#auto), [two](../configs/gaussians.yaml), [three](../k8s/chart), [four](data.md)"
    found = hooks.rewrite(text, DOCS, "x.md")
    assert found == "[one](project/BENCHMARKS.md#auto), [two](files/configs/gaussians.yaml.md), three, [four](data.md)"
    image = hooks.rewrite("![picture](docs/images/emoji_32.png)", ROOT, "project/README.md")
    assert image == "![picture](../images/emoji_32.png)"
    assert hooks.rewrite("[gone](../gone.md)", DOCS, "x.md") == "[gone](../gone.md)", "mkdocs warns of it"


def test_every_link_out_of_docs_has_its_page() -> None:
    pages = {hooks.site_path(path) for path in hooks.linked_files()}
    assert "files/configs/sweeps/gaussians.yaml.md" in pages
    for page in DOCS.rglob("*.md"):
        uri = page.relative_to(DOCS).as_posix()
        text = hooks.rewrite(page.read_text(encoding="utf-8"), page.parent, uri)
        for target in re.findall(r"\]\(([^):#]*files/[^)#]+)", text):
            assert os.path.normpath(Path(uri).parent / target) in pages, (uri, target)


def test_the_picture_has_every_package() -> None:
    found = architecture.drawing()
    assert all(f">{name}/</text>" in found for name in ORDER if name in architecture.CONTENT)
    assert [name for name in ORDER if name not in architecture.CONTENT] == re.findall(r'class="what">([^<]*)', found)[
        0
    ].split(", ")


@pytest.mark.parametrize(
    "line", [line for line in lines(DOCS / "tutorials" / "cluster.md") if "local_cluster.py" in line]
)
def test_the_local_cluster_takes_it(line: str) -> None:
    assert local_cluster._parse(shlex.split(line)[2:]).command


@pytest.mark.parametrize("page", ["sweep.md", "own_loss.md"])
def test_a_tutorials_sweep_loads(page: str, tmp_path: Path) -> None:
    (text,) = blocks(DOCS / "tutorials" / page, "yaml")
    file = tmp_path / "sweep.yaml"
    file.write_text(text.replace("absolute", "hinge"), encoding="utf-8")  # the tutorial's loss is its script's
    assert list(load_plan(file, []).metrics) == ["frechet"]


def test_the_tutorials_script_is_a_command(tmp_path: Path) -> None:
    (script,) = blocks(DOCS / "tutorials" / "own_loss.md", "python")
    (tmp_path / "my_loss.py").write_text(script, encoding="utf-8")
    line = next(line for line in lines(DOCS / "tutorials" / "own_loss.md") if "--dry-run" in line)
    command = [sys.executable, *shlex.split(line)[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "name: absolute" in done.stdout


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    cells = json.loads(hooks.NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 5
    (tmp_path / "cells.py").write_text("\n\n".join(code), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "cells.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "optim.lr_g" in done.stdout
    assert (tmp_path / "runs" / "notebook" / "metrics.jsonl").exists()


def test_the_notebook_holds_no_outputs() -> None:
    notebook = json.loads(hooks.NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert all(
        not cell["outputs"] and cell["execution_count"] is None for cell in notebook["cells"] if "outputs" in cell
    )


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    python = ROOT / ".venv-docs" / "bin" / "python"
    if not python.exists():
        pytest.skip("make docs-site makes its environment")
    command = [str(python), "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text(encoding="utf-8"))
        assert not loaded, (page, loaded)
    index = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    for question, page in CLICKS.items():
        words = question.lower().split()
        found = {each["location"].partition("#")[0] for each in index if words[-1] in each["text"].lower()}
        assert page.replace(".md", ".html") in found, question
