"""Ray Train's trainer without processes that a run's own cluster has no use for."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.train import RunConfig, ScalingConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from ganscale.launch import ray_train, trainer
from ganscale.launch.controller import ControllerProcess
from ganscale.launch.process_group import ProcessGroup
from ganscale.launch.reporting import SnapshotFileSystem
from ganscale.launch.trainer import LeanTrainer
from ganscale.launch.worker_entry import train_loop
from ganscale.run.outcome import Outcome
from ganscale.run.stop_signal import StopReason


def test_the_private_names_are_rays() -> None:
    """On a newer version of Ray: read what launch/trainer.py overrides."""
    assert PlacementGroupCleanerCallback.__name__ == trainer.CLEANER
    assert DatasetsCallback.__name__ == trainer.DATASETS
    assert all(callable(getattr(FixedScalingPolicy, name)) for name in trainer.REQUESTS)
    for name in ("_create_default_callbacks", "_initialize_and_run_controller", "_register_sigint_handler"):
        assert callable(getattr(DataParallelTrainer, name))


def lean_trainer(tmp_path: Path, **options: Any) -> LeanTrainer:
    return LeanTrainer(
        train_loop,
        train_loop_config={},
        backend_config=ProcessGroup(9.0),
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="r", storage_path=str(tmp_path), storage_filesystem=SnapshotFileSystem()),
        **options,
    )


def handed_to_the_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, alone: bool) -> dict[str, Any]:
    given: dict[str, Any] = {}

    def run(self: DataParallelTrainer, **arguments: Any) -> Any:
        given.update(arguments)
        return type("Result", (), {"error": None})

    monkeypatch.setattr(DataParallelTrainer, "_initialize_and_run_controller", run)
    monkeypatch.setattr("ray.train.v2.api.data_parallel_trainer.ObjectRefWrapper", lambda function: None)
    lean_trainer(tmp_path, alone=alone).fit()
    return given


@pytest.mark.parametrize("alone", [True, False])
def test_on_a_cluster_of_its_own_a_run_has_neither_cleaner_nor_coordinator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    given = handed_to_the_controller(tmp_path, monkeypatch, alone=alone)
    cleaners = [each for each in given["callbacks"] if isinstance(each, PlacementGroupCleanerCallback)]
    assert len(cleaners) == (0 if alone else 1)
    assert not [each for each in given["callbacks"] if isinstance(each, DatasetsCallback)], "there are none of Ray's"
    policy = given["scaling_policy"]
    for name in trainer.REQUESTS:
        assert (getattr(policy, name) is trainer._no_request) == alone
    if alone:  # an assertion of Ray's fails where it asks its coordinator
        assert policy.make_decision_for_non_running_worker_group().num_workers == 2


@pytest.mark.parametrize("known", [True, False])
def test_the_controller_runs_in_the_process_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    """Where Ray names what that needs; otherwise in one of Ray's."""
    used: list[str] = []
    result = SimpleNamespace(error=None)
    before = signal.getsignal(signal.SIGINT)

    class InProcess(ControllerProcess):
        def run(self, kind: Any, arguments: Any, **options: Any) -> Any:
            used.append(kind.__name__)
            assert {"train_fn_ref", "scaling_policy", "callbacks"} <= set(arguments)
            assert set(options) == {"environment", "prepare"}
            options["prepare"]("controller")
            assert signal.getsignal(signal.SIGINT) is not before, "Ray's"
            return result

    def run(self: DataParallelTrainer, **arguments: Any) -> Any:
        used.append("Ray's")
        return result

    monkeypatch.setattr(DataParallelTrainer, "_initialize_and_run_controller", run)
    monkeypatch.setattr("ray.train.v2.api.data_parallel_trainer.ObjectRefWrapper", lambda function: None)
    if not known:
        monkeypatch.setattr(trainer, "CONTROLLER", "Other")
    made = lean_trainer(tmp_path, alone=True, process=InProcess())
    assert made.fit() is result
    assert used == (["TrainController"] if known else ["Ray's"])
    assert signal.getsignal(signal.SIGINT) is before


def test_the_controller_needs_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for what it is handed, nor for what the workers return through it."""
    assert ray_train.train_loop.__module__ == "ganscale.launch.worker_entry", "by its name"
    given = handed_to_the_controller(tmp_path, monkeypatch, alone=True)
    outcome = Outcome(8, 0, stop_reason=StopReason.STOP)
    (tmp_path / "given").write_bytes(cloudpickle.dumps((given, outcome)))  # pyright: ignore
    code = (
        "import sys, ray.cloudpickle; from ray.train.v2._internal.execution.controller import TrainController\n"
        "print(ray.cloudpickle.load(open(sys.argv[1], 'rb'))[1])\n"
        "assert not {'torch', 'torchvision', 'matplotlib', 'wandb', 'sympy'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "given")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, f"{outcome}\n"), done.stderr
