"""The commands on a GPU: train, resume, evaluate, sample, export."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ganscale import evaluate, sample
from ganscale.train import main
from tests.processes import final_state
from tests.runs import DCGAN

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
RUN = (
    *DCGAN,
    *("train.device=cuda", "train.images=6400", "train.batch_size=64", "log.every=640", "checkpoint.every=640"),
    *("eval.every=6400", "eval.num_samples=500", "wandb.mode=disabled", "log.num_samples=16"),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    assert main(["--launcher", "local", *RUN, f"run.dir={tmp_path}", "run.name=x"]) == 0
    return tmp_path / "x"


def test_a_run_is_evaluated_sampled_and_exported(run: Path, tmp_path: Path) -> None:
    assert "gpu_memory_mib" in (run / "metrics.jsonl").read_text()
    assert "on cuda" in (run / "train.log").read_text()
    assert evaluate.main([str(run), "--num-samples", "500"]) == 0
    assert sample.main([str(run), "--out", str(tmp_path / "grid")]) == 0
    assert sample.main([str(run), "--export", str(tmp_path / "exported")]) == 0
    assert all(list((tmp_path / name).iterdir()) for name in ("grid", "exported"))


@pytest.mark.parametrize("more", [(), ("train.cuda_graphs=true",)], ids=["eager", "graphs"])
def test_a_killed_run_resumes_with_the_same_bits(tmp_path: Path, more: tuple[str, ...]) -> None:
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

    def command(name: str) -> list[str]:
        words = [*RUN, *more, "train.deterministic=true", "eval.every=0", f"run.dir={tmp_path}", f"run.name={name}"]
        return [sys.executable, "-m", "ganscale.train", "--launcher", "local", *words]

    subprocess.run(command("whole"), env=environment, check=True, capture_output=True)
    process = subprocess.Popen(command("killed"), env=environment, stdout=subprocess.DEVNULL)
    first, deadline = tmp_path / "killed" / "checkpoints" / f"{640:012d}", time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command("killed"), env=environment, check=True, capture_output=True)
    assert final_state(tmp_path / "killed") == final_state(tmp_path / "whole")
