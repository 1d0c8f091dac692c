"""The process beside training: the numbers of this process, errors that say what failed, and an end on demand."""

import os
import signal
from pathlib import Path

import pytest
import torch

from ganscale.config import load
from ganscale.evaluation.callback import make_evaluator
from ganscale.evaluation.worker import EvaluationFailedError, ProcessExecutor, SnapshotEvaluator, save_snapshot
from ganscale.training.build import build
from tests.runs import EXACT, RING

CPU = torch.device("cpu")
LONG = 300.0
"""Seconds that a process may take to start on a busy machine."""


def test_a_snapshot_scores_what_the_average_scores(tmp_path: Path) -> None:
    config = load(overrides=(*EXACT, *RING, "eval.num_samples=40", "eval.metrics=[frechet,kid]"))
    experiment = build(config)
    average = experiment.state.ema.module
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.add_(0.1)
    wanted = make_evaluator(config, experiment.sampler.source, device=CPU).evaluate(average, 64)
    path = tmp_path / "pending" / "64.pt"
    save_snapshot(average, path)
    assert [file.name for file in path.parent.iterdir()] == ["64.pt"]
    assert SnapshotEvaluator(config, CPU).evaluate(64, path.read_bytes()).scores == wanted.scores

    executor = ProcessExecutor(config)
    try:
        executor.submit(64, path)
        found = executor.poll(LONG)
        assert found is not None
        assert (found.images, found.scores, found.protocol()) == (64, wanted.scores, wanted.protocol())
        assert executor.poll(0.0) is None

        path.write_bytes(b"damaged")
        executor.submit(65, path)
        with pytest.raises(EvaluationFailedError, match="Error: "):
            executor.poll(LONG)

        pid = executor.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EvaluationFailedError, match="exit code -9"):
            executor.poll(LONG)
        with pytest.raises(EvaluationFailedError, match="exit code -9"):
            executor.submit(66, path)
    finally:
        executor.close()


def test_a_process_that_is_at_work_is_ended_at_once(tmp_path: Path) -> None:
    executor = ProcessExecutor(load(overrides=(*EXACT, *RING)))
    executor.submit(1, tmp_path / "it has not started yet")
    pid = executor.pid
    executor.close()
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
