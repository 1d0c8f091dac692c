"""The environment of a run, for the record: versions of packages, git revision, devices."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import ganscale
from ganscale.parallel.replica import Replica

PACKAGES = ("torch", "torchvision", "ray", "numpy", "wandb", "pydantic")
TIMEOUT = 5.0
"""Seconds that git may take."""


def environment(device: torch.device, replica: Replica) -> dict[str, Any]:
    """Facts about this process and its cluster, as plain nested mappings.

    Args:
        device: where this replica computes.
        replica: this process among the replicas.
    """
    return {
        "ganscale": ganscale.__version__,
        "git": git_revision(Path(ganscale.__file__).parent),
        "python": platform.python_version(),
        "packages": packages(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cluster": _cluster(device, replica),
    }


def packages() -> dict[str, str]:
    """Versions of those of `PACKAGES` that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cluster(device: torch.device, replica: Replica) -> dict[str, Any]:
    """Workers, nodes if known, device and its name, CPU cores of this node."""
    facts: dict[str, Any] = {"workers": replica.world_size, "device": device.type, "cpus": os.cpu_count()}
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    if local.isdigit() and int(local) > 0 and replica.world_size > 1:
        facts["nodes"] = -(-replica.world_size // int(local))
    if device.type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return facts


def git_revision(folder: Path) -> dict[str, Any] | None:
    """Commit of the repository that holds a folder, and whether tracked files differ from it; None without git.

    Args:
        folder: inside the repository.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit or not _git(folder, "ls-files", "--", "."):  # a package installed inside somebody's repository
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str:
    """Output of git; empty if it fails."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
