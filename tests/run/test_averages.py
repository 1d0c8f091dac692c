"""Snapshots of further averages save only: rows, verdicts and the state are those of a run without them."""

from pathlib import Path
from typing import Any

import pytest

from ganscale.health import detectors
from ganscale.run.callback import Callback
from ganscale.run.health_monitor import TIMES
from ganscale.storage.averages import numbers
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from ganscale.training.loop import Tick
from tests.run.test_health_monitor import final, run
from tests.run.test_session import run as run_with
from tests.trajectories import assert_same

ADA = ("augment.adaptive=true", "augment.transforms=[flip]", "augment.every=7", "augment.speed=2000")
PROFILES = ("ema.profiles=[0.05, 0.1]", "ema.snapshot_every=36")
SNAPSHOTS = list(range(36, 600, 36))


def rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run without what depends on the machine."""
    found = read_metrics(RunDir(folder))
    return [{name: each for name, each in row.items() if name not in (*TIMES, "memory_mib")} for row in found]


def test_snapshots_add_neither_rows_nor_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(detectors, "diagnose", lambda ticks, *_, **__: seen.append(len(ticks)))
    run(tmp_path, "plain", *ADA)
    run(tmp_path, "profiles", *ADA, *PROFILES)
    assert [row["images"] for row in rows(tmp_path / "profiles")] == list(range(60, 601, 60))
    assert rows(tmp_path / "profiles") == rows(tmp_path / "plain")
    assert seen == [*range(1, 11)] * 2
    assert numbers(tmp_path / "profiles" / "averages") == SNAPSHOTS
    state = final(tmp_path, "profiles")
    state.pop("averages")
    assert_same(state, final(tmp_path, "plain"))


class Killed(Callback):
    """Ends the run at the snapshot of 432 images, between two rows and after the checkpoint of 360."""

    def on_quiet_tick(self, tick: Tick, session: Any) -> None:
        if tick.images == 432:
            raise KeyboardInterrupt


def test_a_run_killed_at_a_snapshot_resumes_as_if_it_had_not_been(tmp_path: Path) -> None:
    given = (*ADA, *PROFILES)
    run_with(tmp_path / "straight", *given)
    with pytest.raises(KeyboardInterrupt):
        run_with(tmp_path / "killed", *given, callbacks=(Killed(),))
    assert run_with(tmp_path / "killed", *given).resumed_at == 360
    straight, killed = (rows(tmp_path / name / "run") for name in ("straight", "killed"))
    assert straight == killed
    assert numbers(tmp_path / "killed" / "run" / "averages") == SNAPSHOTS
    assert_same(final(tmp_path / "killed", "run"), final(tmp_path / "straight", "run"))
