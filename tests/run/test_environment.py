"""Facts about where a run runs."""

import subprocess
from pathlib import Path

import pytest
import torch

from ganscale.parallel.collectives import Replica
from ganscale.run.environment import environment, git_revision

CPU = torch.device("cpu")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.invalid", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_versions_and_devices_are_there() -> None:
    facts = environment(CPU, Replica())
    assert facts["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert facts["cluster"] == {"workers": 1, "device": "cpu", "cpus": facts["cluster"]["cpus"]}


def test_nodes_are_counted_where_the_launcher_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert environment(CPU, Replica(0, 5))["cluster"]["nodes"] == 3
    assert "nodes" not in environment(CPU, Replica(0, 1))["cluster"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "x")
    assert "nodes" not in environment(CPU, Replica(0, 5))["cluster"]


def test_the_revision_is_dirty_when_tracked_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    code, other = tmp_path / "repo" / "code", tmp_path / "repo" / "venv"
    code.mkdir(parents=True)
    other.mkdir()
    assert git_revision(code) is None
    git(tmp_path / "repo", "init", "-q")
    (code / "a.py").write_text("1")
    git(code, "add", ".")
    git(code, "commit", "-q", "-m", "x")
    commit = git(code, "rev-parse", "HEAD")
    (code / "new.py").write_text("untracked")
    assert git_revision(code) == {"commit": commit, "dirty": False}
    (code / "a.py").write_text("2")
    assert git_revision(code) == {"commit": commit, "dirty": True}
    (other / "b.py").write_text("installed here, not part of the repository")
    assert git_revision(other) is None


def test_without_git_there_is_no_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_revision(Path(__file__).parent) is None
