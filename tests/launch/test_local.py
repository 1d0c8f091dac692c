"""torchrun: several processes without Ray train one run, and the same command resumes it."""

import sys
from pathlib import Path

import pytest
import torch

from ganscale.storage.checkpoint import load
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from ganscale.train import main
from tests.processes import Command, final_state
from tests.runs import MLP

RUN = (
    *MLP,
    "train.batch_size=15",
    "train.images=1800",
    "log.every=225",
    "checkpoint.every=450",
    "checkpoint.mode=inline",
    "run.dir=runs",
)
QUIET = ("wandb.mode=disabled", "log.num_samples=4", "train.device=cpu")

pytestmark = pytest.mark.multiprocess


def torchrun(folder: Path, name: str, *overrides: str, processes: int = 2) -> Command:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return Command(
        [*command, "-m", "ganscale.train", *RUN, *QUIET, f"run.name={name}", *overrides],
        folder / f"{name}.out",
        environment={"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        cwd=folder,
    )


@pytest.mark.slow
def test_a_child_of_rank_zero_evaluates_beside_two_processes(tmp_path: Path) -> None:
    evaluated = ("eval.every=450", "eval.num_samples=300", "eval.metrics=[frechet,kid]", "eval.extractor=pixels")
    for mode in ("inline", "async"):
        with torchrun(tmp_path, mode, *evaluated, f"eval.mode={mode}", "eval.busy=queue") as command:
            command.succeed(300)
    inline, beside = (read_metrics(RunDir(tmp_path / "runs" / mode)) for mode in ("inline", "async"))
    assert [row["images"] for row in beside if "kid" in row] == [450, 900, 1350, 1800]
    for row, wanted in zip(beside, inline, strict=True):
        for name in ("frechet", "frechet_floor", "kid", "kid_error"):
            assert (name in row) == (name in wanted)
            assert name not in row or row[name] == pytest.approx(wanted[name], rel=1e-9)
    assert final_state(tmp_path / "runs" / "async") == final_state(tmp_path / "runs" / "inline")


def test_two_processes_train_one_run_and_resume_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    with torchrun(tmp_path, "straight") as command:
        output = command.succeed(180)
    assert output.count("2 workers on cpu") == output.count("run straight is complete at 1,800 images") == 1
    assert [row["images"] for row in read_metrics(RunDir(runs / "straight"))] == list(range(225, 1801, 225))

    with torchrun(tmp_path, "killed") as command:
        command.until((runs / "killed" / "checkpoints" / f"{450:012d}").exists, 180)
        command.kill()
    with torchrun(tmp_path, "killed") as command:
        output = command.succeed(180)
    assert "resuming at " in output
    assert final_state(runs / "killed") == final_state(runs / "straight")

    monkeypatch.chdir(tmp_path)
    assert main(["--launcher", "local", *RUN, *QUIET, "run.name=alone"]) == 0
    (_, two), (_, one) = (load(max((runs / name / "checkpoints").iterdir())) for name in ("straight", "alone"))
    for network in ("generator", "discriminator", "ema"):
        torch.testing.assert_close(two[network], one[network], rtol=0, atol=2e-3)


@pytest.mark.slow
def test_what_cannot_be_is_refused_by_torchrun_too(tmp_path: Path) -> None:
    with torchrun(tmp_path, "refused", "cluster.num_workers=3") as command:
        assert command.wait(180) == 1, command.report("torchrun's own code")
        assert "use cluster.num_workers=auto or 2" in command.output
        assert 'File "' not in command.output.partition("ganscale: error")[0]
    assert not (tmp_path / "runs").exists()


def test_a_complete_run_is_announced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--launcher", "local", *RUN, *QUIET, "train.images=15"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for rank, lines in (("0", 2), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert main([*RUN, *QUIET, "train.images=15"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == lines
