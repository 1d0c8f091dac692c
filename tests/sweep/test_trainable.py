"""A trial's checkpoints for population-based training."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ganscale.sweep.trainable import TrialActor


class FakeExecutor:
    """Writes and reads the states of a trial in place of the workers."""

    loaded = b""

    def run(self, spec: object, operation: str, argument: str) -> None:
        if operation == "save":
            Path(argument).write_bytes(b"states")
        else:
            self.loaded = Path(argument).read_bytes()


def test_states_pass_between_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep's folder is often NFS or a volume; Ray's temporary folder is on the node."""

    def rename(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    folder, temporary = tmp_path / "trial", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    actor: Any = TrialActor.__new__(TrialActor)
    actor._executor, actor._folder, actor._spec = FakeExecutor(), folder, None
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", rename)
    actor.save_checkpoint(str(temporary))
    assert not list(folder.iterdir())
    actor.load_checkpoint(str(temporary))
    assert actor._executor.loaded == b"states"
    assert not list(folder.iterdir())
