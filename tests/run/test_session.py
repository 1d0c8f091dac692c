"""A run's session: one control flow for all ranks, its callbacks, and what it reports and refuses on the way."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.config import Config, ConfigError
from ganscale.config import load as load_config
from ganscale.health.policy import Decision
from ganscale.run.callback import Callback
from ganscale.run.session import Outcome, Session, run_worker
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.run_dir import RunDir
from ganscale.training.build import build
from ganscale.training.loop import Tick
from tests.fleet import Fleet
from tests.run.test_stop_signal import RUN
from tests.runs import MLP, tiny

CPU = torch.device("cpu")


def config(folder: Path, *overrides: str) -> Config:
    return load_config(overrides=(*RUN, f"run.dir={folder}", "run.name=run", *overrides))


def run(folder: Path, *overrides: str, callbacks: tuple[Callback, ...] = ()) -> Outcome:
    return run_worker(config(folder, *overrides), folder / "run", device=CPU, echo=False, callbacks=callbacks)


def log(folder: Path) -> str:
    return RunDir(folder / "run").log.read_text(encoding="utf-8")


class Recorder(Callback):
    """Remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_start(self, session: Session) -> None:
        self.calls.append(("start", session.images))

    def on_tick(self, tick: Tick, session: Session) -> None:
        assert session.metrics["loss_d"] == tick.metrics["loss_d"]
        self.calls.append((tick.images, sorted(tick.due)))

    def on_end(self, session: Session, *, completed: bool) -> None:
        self.calls.append(("end", completed))


def recorded(folder: str) -> list[Any]:
    recorder = Recorder()
    run(Path(folder), "train.images=240", "log.every=120", callbacks=(recorder,))
    return recorder.calls


CALLS = [("start", 0), (120, ["checkpoint", "log"]), (240, ["checkpoint", "end", "log"]), ("end", True)]


@pytest.mark.multiprocess
def test_callbacks_are_called_on_every_rank(fleet: Fleet, tmp_path: Path) -> None:
    assert fleet.run(recorded, 2, str(tmp_path)) == [CALLS, CALLS]


def test_a_session_ends_at_a_stop_and_closes_its_callbacks() -> None:
    experiment, recorder = build(tiny(*MLP, "train.images=120")), Recorder()

    def stop_at(tick: Tick, _: Any) -> Decision:
        return Decision("stop" if tick.images >= 48 else "continue", kind="k")

    session = Session(experiment, intervals={"log": 24}, health=stop_at, callbacks=[recorder])
    assert [tick.images for tick in session.ticks()] == [24, 48]
    assert recorder.calls[-1] == ("end", False)


def test_a_callback_that_fails_ends_the_run_in_order(tmp_path: Path) -> None:
    class Broken(Recorder):
        def on_tick(self, tick: Tick, session: Session) -> None:
            raise ZeroDivisionError

    broken = Broken()
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, callbacks=(broken,))
    assert broken.calls[-1] == ("end", False)


def test_a_tick_answers_what_it_is() -> None:
    def tick(*due: str) -> Tick:
        return Tick(0, 0, frozenset(due), {})

    assert tick("stop").is_stop_only
    assert tick("stop", "averages").is_stop_only
    assert not tick("stop", "log").is_stop_only
    assert not tick("averages").is_stop_only
    assert tick("averages").is_quiet
    assert not tick("averages", "stop").is_quiet
    assert not tick("averages", "log").is_quiet
    assert tick("stop", "log").is_stop
    assert tick("end").is_final
    assert tick("log").is_due("eval", "log")
    assert not tick("log").is_due("eval")


class Removes(Callback):
    """Removes the run's folder at some images."""

    def __init__(self, folder: Path, images: int) -> None:
        self.folder, self.images = folder, images

    def on_tick(self, tick: Tick, session: Session) -> None:
        if tick.images == self.images and session.replica.is_rank_zero:
            shutil.rmtree(self.folder)


def vanish(folder: str, images: int) -> str:
    try:
        run(Path(folder), callbacks=(Removes(Path(folder) / "run", images),))
    except ConfigError as error:
        return error.key or "other rank"
    return "complete"


@pytest.mark.parametrize("images", [120, 600])
def test_a_folder_that_vanishes_is_an_error(tmp_path: Path, images: int) -> None:
    assert vanish(str(tmp_path), images) == "run.dir"


@pytest.mark.multiprocess
def test_all_ranks_end_where_the_folder_vanishes(fleet: Fleet, tmp_path: Path) -> None:
    assert fleet.run(vanish, 2, str(tmp_path), 120) == ["run.dir", "other rank"]


def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").symlink_to(target)
    with pytest.raises(ConfigError) as caught:
        run(tmp_path)
    assert (caught.value.key, caught.value.value) == ("run.dir", str(tmp_path / "run" / "train.log"))
    assert target.read_text() == "mine"


def test_a_damaged_only_checkpoint_is_reported(tmp_path: Path) -> None:
    run(tmp_path, "train.images=120", "log.every=120")
    for folder in CheckpointStore(tmp_path / "run" / "checkpoints").folders():
        (folder / "state.pt").write_bytes(b"")
    assert "from image 0" not in log(tmp_path)
    assert run(tmp_path, "train.images=240", "log.every=120").resumed_at == 0
    assert "warning: no checkpoint in this run's folder can be used; the run starts from image 0" in log(tmp_path)


def test_an_evaluation_is_announced_before_it_starts(tmp_path: Path) -> None:
    run(tmp_path, "eval.every=240", "eval.num_samples=20", "eval.metrics=[frechet]", "eval.extractor=pixels")
    lines = [line for line in log(tmp_path).splitlines() if "evaluat" in line]
    assert [("evaluating at" in line, "evaluation at" in line) for line in lines] == [(True, False), (False, True)] * 3
