"""What W&B gets of a sweep: each ended trial once, and the summary, from a folder and from a bucket."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ganscale.config import Config
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import LocalStore, StorePath
from ganscale.sweep import wandb
from ganscale.sweep.results import SweepFolder
from tests.sweep.made_up import made_up


class FakeTracker:
    """Stands in for the tracker: notes what it is given, and writes an id and a file as W&B does."""

    sent: list[tuple[str, int]]

    def __init__(self, config: Config, folder: RunDir, notify: Callable[[str], None]) -> None:
        self.name, self.folder, self.rows = config.run.name, folder, 0
        self.known = sorted(path.name for path in (folder.path / "wandb").glob("*"))
        (folder.path / "wandb_id").write_text(config.run.name)

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        self.rows += 1

    def summary(self, facts: Any, columns: Sequence[str], rows: Sequence[Any], pictures: Mapping[str, Path]) -> None:
        assert list(pictures) == ["success"]
        self.rows = len(rows)

    def close(self, *, completed: bool) -> None:
        (self.folder.path / "wandb").mkdir(exist_ok=True)
        (self.folder.path / "wandb" / f"{len(self.known)}.wandb").write_text("x")
        self.sent.append((self.name.partition(" ")[0], self.rows))


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_every_ended_trial_is_sent_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    plan, here = made_up(tmp_path, num_configs=2)
    (here.trials / "0003" / "end.json").unlink()
    monkeypatch.setattr(wandb, "WandbTracker", FakeTracker)
    config = plan.config.model_copy(update={"wandb": plan.config.wandb.model_copy(update={"mode": "offline"})})
    object.__setattr__(plan, "config", config)

    def publish() -> list[tuple[str, int]]:
        """As a new command does."""
        FakeTracker.sent = []
        folder = here if kind == "folder" else SweepFolder(StorePath(LocalStore(tmp_path), "made"))
        folder.files.write_as(lambda: 1, periodic=False)
        folder.plots.mkdir(exist_ok=True)
        (folder.plots / "success.png").write_bytes(b"x")
        wandb.publish(plan, folder, lambda: 1)
        return sorted(FakeTracker.sent)

    assert publish() == [("0000", 4), ("0001", 4), ("0002", 4), ("made", 4)]
    assert publish() == [("made", 4)]
    root = here.root if kind == "folder" else StorePath(LocalStore(tmp_path), "made")
    assert (root / "wandb_id").read_text() == "made"
    run = RunDir(root).pull("wandb")
    assert sorted(path.name for path in (run.path / "wandb").iterdir()) == ["0.wandb", "1.wandb"]
