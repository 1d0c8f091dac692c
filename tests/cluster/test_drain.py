"""The hook of a pod that Kubernetes ends, with a stand-in for `ray`."""

import os
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "drain.sh"


def drain(folder: Path, *arguments: str, code: int = 0) -> tuple[float, str]:
    """Run it; return the seconds it took and how it called Ray."""
    program = folder / "ray"
    program.write_text(f'#!/bin/sh\necho "$*" >> {folder}/log\nexit {code}\n', encoding="utf-8")
    program.chmod(0o755)
    started = time.monotonic()
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run([str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started, (folder / "log").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize(("arguments", "seconds"), [((), 60), (("100",), 100)])
def test_ray_hears_of_it(tmp_path: Path, arguments: tuple[str, ...], seconds: int) -> None:
    _, call = drain(tmp_path, *arguments, code=1)
    reason = "--reason DRAIN_NODE_REASON_PREEMPTION --reason-message the pod ends"
    assert call == f"drain-node {reason} --deadline-remaining-seconds {seconds}"


def test_it_does_not_wait_for_a_ray_that_does_not_answer(tmp_path: Path) -> None:
    took, _ = drain(tmp_path, "30", code=1)
    assert took < 10


def test_it_waits_while_ray_runs_and_no_longer(tmp_path: Path) -> None:
    raylet = tmp_path / "raylet"
    raylet.symlink_to("/bin/sleep")
    with subprocess.Popen([str(raylet), "60"]) as process:
        try:
            took, _ = drain(tmp_path, "2")
            assert 1 <= took < 10
        finally:
            process.kill()


def test_ray_knows_the_options() -> None:
    """They are not covered by Ray's promise of stability."""
    from click.testing import CliRunner
    from ray.scripts.scripts import cli

    shown = CliRunner().invoke(cli, ["drain-node", "--help"]).output
    text = SCRIPT.read_text(encoding="utf-8")
    for option in ("--reason", "--reason-message", "--deadline-remaining-seconds", "DRAIN_NODE_REASON_PREEMPTION"):
        assert option in shown
        assert option in text
