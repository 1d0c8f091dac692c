"""Rollbacks and stops: to the state from before the trouble, with other rates, exact under resume, on all replicas."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.config import Config
from ganscale.config import load as load_config
from ganscale.health import detectors
from ganscale.health.detectors import Row, Verdict
from ganscale.run import session
from ganscale.run.checkpointing import Checkpointer
from ganscale.run.health_monitor import weight_norms
from ganscale.run.session import Outcome, run_worker
from ganscale.storage.checkpoint import CheckpointStore, load
from ganscale.storage.run_dir import RunDir
from ganscale.tracking import EventTracker, Tracker
from ganscale.tracking.jsonl import JsonlTracker, read_events, read_metrics, read_rollbacks
from ganscale.tracking.timeline import timeline
from ganscale.train import main
from ganscale.training.build import build
from tests.fleet import Fleet
from tests.runs import FIFTY, QUIET, STYLEGAN2, TRANSFORMER, tiny

BACK = ("health.response=rollback", "health.rate_factor=0.5", "health.penalty_factor=2", "penalty.r1=1")
CPU = torch.device("cpu")

EvaluationCallback = Callable[..., Verdict | None]


def at(images: int, since: int, *, times: int = 1) -> EvaluationCallback:
    """A verdict at the tick of so many images in a run rolled back less than `times` times."""

    def diagnose(ticks: Sequence[Row], *_: Any, **__: Any) -> Verdict | None:
        sick = len(ticks) * 60 == images and ticks[-1].get("rollbacks", 0) < times
        return Verdict("divergence", "as the test wants it", since) if sick else None

    return diagnose


def config(folder: Path, name: str, *overrides: str) -> Config:
    return load_config(overrides=(*FIFTY, *QUIET, f"run.dir={folder}", f"run.name={name}", *overrides))


def run(folder: Path, name: str, *overrides: str, trackers: Sequence[Tracker] = ()) -> Outcome:
    return run_worker(config(folder, name, *overrides), folder / name, device=CPU, echo=False, trackers=trackers)


def final(folder: Path, name: str) -> dict[str, Any]:
    newest = CheckpointStore(folder / name / "checkpoints").newest(lambda _: None)
    assert newest is not None
    return load(newest.path)[1]


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return read_metrics(RunDir(folder / name))


@pytest.mark.parametrize("mode", ["inline", "async"])
def test_a_run_goes_back_to_before_the_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(detectors, "diagnose", at(420, since=3))
    outcome = run(tmp_path, "back", *BACK, f"checkpoint.mode={mode}")
    assert (outcome.images, outcome.diagnosis) == (600, "")
    found = rows(tmp_path, "back")
    assert [(row["images"], row["rollbacks"]) for row in found] == [
        *((images, 0) for images in (60, 120)),
        *((images, 1) for images in range(180, 601, 60)),
    ]
    assert {row["lr_d"] for row in found[:2]} == {1e-3}
    starts = [images - 12 for images in range(180, 601, 60)]  # of the iterations at whose ends the rows are
    assert [row["lr_d"] for row in found[2:]] == pytest.approx([1e-3 * 0.5 ** (1 + start / 600) for start in starts])
    lost = [json.loads(line)["images"] for line in (tmp_path / "back" / "abandoned.jsonl").read_text().splitlines()]
    assert lost == [180, 240, 300, 360, 420]
    (event,) = read_events(RunDir(tmp_path / "back"))
    assert (event["images"], event["kind"]) == (420, "divergence, rollback")
    assert "to 120 images, rates times 0.435, which falls to 0.25, penalties times 2" in event["text"]
    (noted,) = read_rollbacks(RunDir(tmp_path / "back"))
    assert (noted["at"], noted["to"], noted["kind"]) == (420, 120, "divergence")
    assert final(tmp_path, "back")["rollbacks"] == 1


def test_a_rollback_waits_for_the_checkpoint_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the target; one from after the trouble must be marked, which nothing does later."""
    monkeypatch.setattr(detectors, "diagnose", at(300, since=3))
    save, opened, main = CheckpointStore.save, threading.Event(), threading.get_ident()

    def slow(*arguments: Any, **options: Any) -> Path:
        assert threading.get_ident() == main or opened.wait(60)
        return save(*arguments, **options)

    flush = Checkpointer.flush

    def open_and_flush(checkpointer: Checkpointer) -> None:
        opened.set()
        flush(checkpointer)

    marked: list[int] = []
    mark = CheckpointStore.mark
    monkeypatch.setattr(CheckpointStore, "save", slow)
    monkeypatch.setattr(CheckpointStore, "mark", lambda *a: marked.extend(mark(*a)))
    monkeypatch.setattr(Checkpointer, "flush", open_and_flush)
    run(tmp_path, "back", *BACK, "checkpoint.mode=async")
    assert [noted["to"] for noted in read_rollbacks(RunDir(tmp_path / "back"))] == [120]
    assert marked == [240]


def test_a_run_back_at_the_beginning_is_one_with_the_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detectors, "diagnose", at(240, since=0))
    run(tmp_path, "back", *BACK)
    falling = "{start: 5e-4, end: 2.5e-4, over: 600, curve: exponential}"
    run(tmp_path, "calm", "penalty.r1=2", f"optim.lr_g={falling}", f"optim.lr_d={falling}")
    back, calm = final(tmp_path, "back"), final(tmp_path, "calm")
    assert (back.pop("rollbacks"), calm.pop("rollbacks")) == (1, 0)
    torch.testing.assert_close(back, calm, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("since", "target"), [(3, 120), (2, 0)])
@pytest.mark.parametrize("moment", ["at the rollback", "after a row", "at a checkpoint"])
def test_a_run_killed_around_a_roll_back_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, since: int, target: int
) -> None:
    monkeypatch.setattr(detectors, "diagnose", at(420, since=since))
    run(tmp_path, "straight", *BACK)
    armed = [True]

    def die(*_: Any) -> None:
        if armed and (tmp_path / "killed" / "rollbacks.json").exists():
            armed.clear()
            raise KeyboardInterrupt

    place, name = {
        "at the rollback": (JsonlTracker, "rewind"),
        "after a row": (JsonlTracker, "log"),
        "at a checkpoint": (Checkpointer, "_save"),
    }[moment]
    real = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *a, **k: die() or real(*a, **k))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "killed", *BACK)
    assert run(tmp_path, "killed", *BACK).resumed_at == target
    torch.testing.assert_close(final(tmp_path, "killed"), final(tmp_path, "straight"), rtol=0, atol=0)
    assert [row["lr_g"] for row in rows(tmp_path, "killed")] == [row["lr_g"] for row in rows(tmp_path, "straight")]


class Reads(EventTracker):
    """Reads the time line at each event, as W&B's tracker does.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: RunDir) -> None:
        self._folder = folder
        self.lost: list[float | None] = []

    def log(self, images: int, metrics: Any) -> None: ...

    def samples(self, images: int, picture: Any) -> None: ...

    def close(self, *, completed: bool) -> None: ...

    def event(self, images: int, kind: str, text: str) -> None:
        self.lost += [each.seconds_lost for each in timeline(self._folder)]


def test_the_time_line_has_what_a_rollback_costs_at_its_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "diagnose", at(420, since=3))
    reads = Reads(RunDir(tmp_path / "back"))
    run(tmp_path, "back", *BACK, trackers=[reads])
    assert reads.lost == [each.seconds_lost for each in timeline(RunDir(tmp_path / "back"))]
    assert reads.lost
    assert reads.lost[0]


def test_a_state_that_did_not_help_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "diagnose", at(420, since=6, times=3))
    run(tmp_path, "back", *BACK)
    assert [noted["to"] for noted in read_rollbacks(RunDir(tmp_path / "back"))] == [360, 240, 120]
    assert final(tmp_path, "back")["rollbacks"] == 3
    assert rows(tmp_path, "back")[-1]["lr_d"] == pytest.approx(1e-3 * 0.5 ** (3 + 588 / 600))


def test_no_state_from_after_a_grave_row_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "diagnose", at(540, since=7))
    monkeypatch.setattr(detectors, "first_suspect_tick", lambda ticks, **_: 4)
    run(tmp_path, "back", *BACK)
    assert [noted["to"] for noted in read_rollbacks(RunDir(tmp_path / "back"))] == [240]


def test_a_run_that_went_wrong_early_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "diagnose", at(420, since=2))
    run(tmp_path, "back", *BACK)
    assert [noted["to"] for noted in read_rollbacks(RunDir(tmp_path / "back"))] == [0]


def test_after_the_last_roll_back_the_run_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "diagnose", at(420, since=6, times=9))
    outcome = run(tmp_path, "back", *BACK, "health.max_rollbacks=2")
    assert outcome.images == 420
    assert "after 2 of 2 rollbacks" in outcome.diagnosis


def test_a_stop_is_told_by_the_exit_code_and_leaves_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(detectors, "diagnose", at(420, since=3))
    command = ["--launcher", "local", *FIFTY, *QUIET, f"run.dir={tmp_path}", "run.name=ill"]
    assert main([*command, "health.response=stop"]) == 3
    error = capsys.readouterr().err
    assert "run ill was stopped: divergence at 420 images: as the test wants it" in error
    assert "Traceback" not in error
    folder = tmp_path / "ill" / "checkpoints"
    assert load(folder / f"{420:012d}")[1]["images"] == 420
    assert "as the test wants it" in (folder / f"{420:012d}" / "suspect.txt").read_text(encoding="utf-8")
    newest = CheckpointStore(folder).newest(lambda _: None)
    assert newest is not None
    assert newest.images == 120
    assert main([*command, "health.response=warn"]) == 0
    assert "resuming at 120 images" in (tmp_path / "ill" / "train.log").read_text(encoding="utf-8")


def test_a_warning_is_said_once_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, "plain")
    monkeypatch.setattr(
        detectors,
        "diagnose",
        lambda ticks, *_, **__: Verdict("oscillation", "so") if len(ticks) in (3, 4, 5, 8) else None,
    )
    run(tmp_path, "warned")
    events = read_events(RunDir(tmp_path / "warned"))
    assert [(event["images"], event["kind"]) for event in events] == [(180, "oscillation"), (480, "oscillation")]
    torch.testing.assert_close(final(tmp_path, "warned"), final(tmp_path, "plain"), rtol=0, atol=0)


def test_a_generator_of_nan_is_told_and_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of it cannot be scored, and the run must not fail for that."""
    build = session.build

    def spoilt(*a: Any, **k: Any) -> Any:
        made = build(*a, **k)
        read = made.sampler.source.read

        def damaged(start: int, stop: int) -> Any:
            examples, labels = read(start, stop)
            return (examples * torch.nan if start >= 300 else examples), labels

        made.sampler.source.read = damaged
        return made

    monkeypatch.setattr(session, "build", spoilt)
    scored = ("eval.every=120", "eval.num_samples=20", "eval.metrics=[frechet]", "eval.extractor=pixels")
    assert run(tmp_path, "ill", *scored).diagnosis == ""
    (event,) = read_events(RunDir(tmp_path / "ill"))
    assert (event["images"], event["kind"]) == (360, "non-finite")
    assert [row["images"] for row in rows(tmp_path, "ill") if "frechet" in row] == [120, 240]
    stopped = run(tmp_path, "stopped", *scored, "health.response=stop")
    assert (stopped.images, "non-finite" in stopped.diagnosis) == (360, True)


def train_badly(folder: str, overrides: tuple[str, ...]) -> tuple[Outcome, int]:
    """On one replica: a run that goes wrong; its outcome and the rollbacks that its own state knows of."""
    real, detectors.diagnose = detectors.diagnose, at(420, since=3)
    seen: list[int] = []
    build = session.build

    def remember(*a: Any, **k: Any) -> Any:
        made = build(*a, **k)
        seen.append(0)
        states.append(made.state)
        return made

    states: list[Any] = []
    session.build = remember
    try:
        outcome = run(Path(folder), "two", *overrides)
    finally:
        detectors.diagnose, session.build = real, build
    return outcome, states[0].rollbacks


@pytest.mark.multiprocess
def test_all_replicas_go_back_together(fleet: Fleet, tmp_path: Path) -> None:
    ranks = fleet.run(train_badly, 3, str(tmp_path), BACK)
    assert [(outcome.images, rollbacks) for outcome, rollbacks in ranks] == [(600, 1)] * 3
    alone = tmp_path / "alone"
    train_badly(str(alone), BACK)
    one, three = final(alone, "two"), final(tmp_path, "two")
    for network in ("generator", "discriminator", "ema"):
        torch.testing.assert_close(three[network], one[network], rtol=1e-9, atol=1e-12)


@pytest.mark.multiprocess
def test_all_replicas_stop_together(fleet: Fleet, tmp_path: Path) -> None:
    ranks = fleet.run(train_badly, 2, str(tmp_path), ("health.response=stop",))
    assert [outcome.images for outcome, _ in ranks] == [420, 420]
    assert all(outcome.diagnosis for outcome, _ in ranks)


@pytest.mark.parametrize("overrides", [STYLEGAN2, TRANSFORMER], ids=["stylegan2", "transformer"])
def test_weights_of_a_mapping_network_count_as_they_act(overrides: tuple[str, ...]) -> None:
    experiment = build(tiny(*overrides))
    networks = {"weight_norm_d": experiment.state.discriminator, "weight_norm_g": experiment.state.generator}
    found = weight_norms(experiment)
    for column, network in networks.items():
        acting = [
            each.detach().flatten() * (0.01 if name.startswith("mapping.") and name[8].isdigit() else 1.0)
            for name, each in network.named_parameters()
        ]
        torch.testing.assert_close(found[column], float(torch.cat(acting).norm()))
    plain = torch.cat([each.detach().flatten() for each in networks["weight_norm_g"].parameters()]).norm()
    assert found["weight_norm_g"] < 0.5 * float(plain), "the stored weights of the mapping network dominate"


def test_weight_norms_of_other_networks_are_those_of_their_weights() -> None:
    experiment = build(tiny(*FIFTY))
    found = weight_norms(experiment)
    for side, network in (("d", experiment.state.discriminator), ("g", experiment.state.generator)):
        assert found[f"weight_norm_{side}"] == float(torch.nn.utils.get_total_norm(network.parameters(), foreach=True))
