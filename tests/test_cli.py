"""A reader that leaves early is no error."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "command", [["ganscale.train", "--dry-run"], ["ganscale.tune", "configs/sweeps/gaussians.yaml", "--dry-run"]]
)
def test_a_reader_may_leave_early(command: list[str], pytestconfig: pytest.Config) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=pytestconfig.rootpath
    )
    assert process.stdout is not None
    process.stdout.close()  # before it has written anything
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert errors == b""
