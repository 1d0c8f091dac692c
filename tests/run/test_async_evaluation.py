"""Evaluation beside training: inline's numbers at their own images, late but in order, and nothing lost unsaid."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.config import Config
from ganscale.config import load as load_config
from ganscale.evaluation.callback import EvaluationCallback
from ganscale.evaluation.metrics.result import Evaluation, Score
from ganscale.evaluation.worker import EvaluationFailedError, SnapshotEvaluator
from ganscale.health import detectors
from ganscale.health.detectors import Row, Verdict
from ganscale.parallel.replica import Replica
from ganscale.run.async_evaluation import MAX_FAILURES
from ganscale.run.callback import Callback
from ganscale.run.health_monitor import TIMES
from ganscale.run.session import Outcome, Session, run_worker
from ganscale.run.stop_signal import StopReason
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import LATE, JsonlTracker, read_metrics, read_raw_metrics, read_rollbacks
from ganscale.training.loop import Tick
from tests.fleet import Fleet
from tests.processes import final_state
from tests.runs import FIFTY, QUIET, RING

CPU = torch.device("cpu")
RUN = (*FIFTY, *QUIET, *RING, "eval.every=120", "eval.num_samples=40", "eval.metrics=[frechet]")
"""Ticks at multiples of 60, evaluations at 120, 240, 360, 480 and 600, the end."""
ASYNC = (*RUN, "eval.mode=async", "eval.busy=queue")


class Script:
    """Makes executors that work in this process: when their results come is the test's choice, not the machine's.

    Args:
        polls: without waiting that find nothing, per evaluation; one poll is made per tick.
        failures: of the first polls.
        scores: by images, in place of computed ones.
    """

    def __init__(self, polls: int = 0, failures: int = 0, scores: dict[int, float] | None = None) -> None:
        self.polls, self.failures, self.scores = polls, failures, scores
        self.submitted: list[int] = []
        self.closed: list[Scripted] = []

    def __call__(self, config: Config) -> "Scripted":
        return Scripted(self, config)


class Scripted:
    """An executor (see `Script`)."""

    def __init__(self, script: Script, config: Config) -> None:
        self._script, self._config = script, config

    def submit(self, images: int, snapshot: Path) -> None:
        self._images, self._snapshot, self._left = images, snapshot, self._script.polls
        self._script.submitted.append(images)

    def poll(self, timeout: float) -> Evaluation | None:
        if self._script.failures:
            self._script.failures -= 1
            raise EvaluationFailedError("as the test wants it")
        if self._left and not timeout:
            self._left -= 1
            return None
        if self._script.scores is not None:
            scores = {"frechet": Score(self._script.scores[self._images], 0.0)}
            return Evaluation(self._images, "ring", 40, 0, "pixels", "", scores, 0.0)
        return SnapshotEvaluator(self._config, CPU).evaluate(self._images, self._snapshot.read_bytes())

    def close(self) -> None:
        self._script.closed.append(self)


def run(folder: Path, name: str, *overrides: str, script: Script | None = None, **options: Any) -> Outcome:
    config = load_config(overrides=(*overrides, f"run.dir={folder}", f"run.name={name}"))
    made = {"make_executor": script} if script else {}
    return run_worker(config, folder / name, device=CPU, echo=False, **made, **options)


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """Rows without what depends on the machine."""
    beside = (*TIMES, "memory_mib")
    return [{k: v for k, v in row.items() if k not in beside} for row in read_metrics(RunDir(folder / name))]


def scores(rows: list[dict[str, Any]]) -> dict[int, float]:
    return {row["images"]: row["frechet"] for row in rows if "frechet" in row}


def scored(folder: Path, name: str) -> list[int]:
    return list(scores(rows(folder, name)))


def log(folder: Path, name: str) -> str:
    return RunDir(folder / name).log.read_text(encoding="utf-8")


class Late(Callback):
    """Remembers which evaluations a session had at which tick, and may end the run there."""

    def __init__(self, action: Callable[[Tick, Session], None] = lambda tick, session: None) -> None:
        self.seen: dict[int, list[int]] = {}
        self._action = action

    def on_tick(self, tick: Tick, session: Session) -> None:
        own = [session.evaluation] if session.evaluation else []
        found = [evaluation.images for evaluation in (*session.late_evaluations, *own)]
        if found:
            self.seen[tick.images] = found
        self._action(tick, session)


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of the same run evaluated inline."""
    folder = tmp_path_factory.mktemp("inline")
    run(folder, "inline", *RUN)
    return rows(folder, "inline")


@pytest.mark.parametrize(
    ("polls", "seen"),
    [
        (0, {180: [120], 300: [240], 420: [360], 540: [480], 600: [600]}),
        (2, {300: [120], 420: [240], 540: [360], 600: [480, 600]}),
        (9, {600: [120, 240, 360, 480, 600]}),
    ],
)
def test_rows_are_those_of_inline_whenever_results_come(
    tmp_path: Path, inline: list[dict[str, Any]], polls: int, seen: dict[int, list[int]]
) -> None:
    late = Late()
    run(tmp_path, "async", *ASYNC, script=Script(polls), callbacks=[late])
    assert late.seen == seen
    assert rows(tmp_path, "async") == inline
    raw = read_raw_metrics(RunDir(tmp_path / "async"))
    assert [(row["images"], row[LATE]) for row in raw if LATE in row] == [
        (images, at) for at, found in seen.items() for images in found if images < at
    ]
    assert not list(RunDir(tmp_path / "async").pending_evaluations.iterdir())


def on_a_rank(folder: str, failures: int) -> dict[int, list[int]]:
    late, script = Late(), Script(2, failures, {images: images / 7 for images in range(120, 601, 120)})
    run(Path(folder), "async", *ASYNC, script=script, callbacks=[late])
    assert Replica.current().is_rank_zero or not script.submitted
    return late.seen


@pytest.mark.multiprocess
def test_all_ranks_get_the_same_evaluations(fleet: Fleet, tmp_path: Path) -> None:
    seen = {300: [120], 420: [240], 540: [360], 600: [480, 600]}
    assert fleet.run(on_a_rank, 2, str(tmp_path), 0) == [seen, seen]
    assert scores(rows(tmp_path, "async")) == {images: images / 7 for images in range(120, 601, 120)}


@pytest.mark.multiprocess
def test_all_ranks_evaluate_inline_after_many_failures(
    fleet: Fleet, tmp_path: Path, inline: list[dict[str, Any]]
) -> None:
    seen = {images: [images] for images in (240, 360, 480, 600)}
    assert fleet.run(on_a_rank, 2, str(tmp_path), 99) == [seen, seen]
    found, wanted = scores(rows(tmp_path, "async")), scores(inline)
    assert found == pytest.approx({images: wanted[images] for images in found}, rel=1e-9)


def test_a_busy_evaluator_skips_and_says_so_once(tmp_path: Path, inline: list[dict[str, Any]]) -> None:
    run(tmp_path, "skip", *ASYNC, "eval.busy=skip", script=Script(polls=9))
    assert scored(tmp_path, "skip") == [120, 600], "the last one of a run is never skipped"
    found = {row["images"]: row.get("evaluations_skipped", 0) for row in rows(tmp_path, "skip")}
    assert [found[images] for images in (180, 240, 360, 480, 600)] == [0, 1, 2, 3, 3]
    assert log(tmp_path, "skip").count("is skipped") == 1
    wanted = scores(inline)
    assert scores(rows(tmp_path, "skip")) == {images: wanted[images] for images in (120, 600)}


def test_an_evaluation_that_fails_is_tried_again_in_a_new_process(tmp_path: Path, inline: list[dict[str, Any]]) -> None:
    script = Script(failures=MAX_FAILURES - 1)
    run(tmp_path, "retry", *ASYNC, script=script)
    assert script.submitted == [120] * MAX_FAILURES + [240, 360, 480, 600]
    assert len(script.closed) == MAX_FAILURES, "two that failed, and the last at the end"
    assert rows(tmp_path, "retry") == inline
    assert log(tmp_path, "retry").count("as the test wants it; it is tried again") == 2


def test_after_many_failures_the_run_evaluates_inline(tmp_path: Path, inline: list[dict[str, Any]]) -> None:
    run(tmp_path, "broken", *ASYNC, script=Script(failures=99))
    assert scored(tmp_path, "broken") == [240, 360, 480, 600], "the first is lost, and the log says it"
    assert "the evaluations at 120 images are lost" in log(tmp_path, "broken").replace("\n", " ")
    found = rows(tmp_path, "broken")
    assert {row.pop("evaluations_skipped") for row in found if row["images"] >= 180} == {1.0}
    assert found[3:] == inline[3:]


def test_a_failure_at_the_end_is_made_good_inline(tmp_path: Path, inline: list[dict[str, Any]]) -> None:
    script = Script(polls=9)

    def arm(tick: Tick, _: Session) -> None:
        script.failures = MAX_FAILURES if tick.images == 540 else 0

    run(tmp_path, "late", *ASYNC, "eval.every=600", script=script, callbacks=[Late(arm)])
    assert rows(tmp_path, "late")[-1]["frechet"] == inline[-1]["frechet"]


def test_a_stopped_run_leaves_its_evaluations_to_the_next_attempt(
    tmp_path: Path, inline: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def request(tick: Tick, _: Session) -> None:
        asked.append(tick.images)

    monkeypatch.setattr("ganscale.run.stop_signal.EVERY", 0.0)
    stop = {"ask": lambda: StopReason.STOP if asked and asked[-1] >= 300 else StopReason.NONE}
    first = run(tmp_path, "stopped", *ASYNC, script=Script(polls=9), callbacks=[Late(request)], **stop)
    assert first.stop_reason == StopReason.STOP
    assert 300 < first.images < 600
    folder = RunDir(tmp_path / "stopped")
    left = sorted(int(path.stem) for path in folder.pending_evaluations.glob("*.pt"))
    assert left[:2] == [120, 240]
    assert "evaluations are not done yet and will be when the run resumes: at 120, 240" in log(tmp_path, "stopped")
    second = Script(polls=9)
    assert run(tmp_path, "stopped", *ASYNC, script=second).resumed_at == first.images
    assert second.submitted == [120, 240, 360, 480, 600]
    assert scores(rows(tmp_path, "stopped")) == scores(inline)


@pytest.mark.parametrize("polls", [0, 1, 2, 9])
@pytest.mark.parametrize("at", [240, 300, 420])
def test_a_killed_run_loses_no_evaluation(tmp_path: Path, inline: list[dict[str, Any]], polls: int, at: int) -> None:
    def die(tick: Tick, _: Session) -> None:
        if tick.images == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "killed", *ASYNC, "checkpoint.every=180", script=Script(polls), callbacks=[Late(die)])
    resumed = at // 180 * 180
    assert run(tmp_path, "killed", *ASYNC, "checkpoint.every=180", script=Script(polls)).resumed_at == resumed
    assert rows(tmp_path, "killed") == inline
    assert not list(RunDir(tmp_path / "killed").pending_evaluations.iterdir())


def test_scores_that_were_written_just_before_a_crash_are_not_doubled(
    tmp_path: Path, inline: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = JsonlTracker.late

    def die(tracker: JsonlTracker, scores: Any, *, at: int) -> None:
        write(tracker, scores, at=at)
        raise KeyboardInterrupt

    monkeypatch.setattr(JsonlTracker, "late", die)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "killed", *ASYNC, "checkpoint.every=120", script=Script())
    monkeypatch.setattr(JsonlTracker, "late", write)
    second = Script()
    assert run(tmp_path, "killed", *ASYNC, "checkpoint.every=120", script=second).resumed_at == 120
    assert second.submitted == [120, 240, 360, 480, 600]
    assert rows(tmp_path, "killed") == inline


def test_inline_says_which_evaluations_async_has_left(tmp_path: Path, inline: list[dict[str, Any]]) -> None:
    def die(tick: Tick, _: Session) -> None:
        if tick.images == 420:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "mixed", *ASYNC, script=Script(polls=9), callbacks=[Late(die)])
    run(tmp_path, "mixed", *RUN)
    assert "the evaluations that an attempt with async left are not done: at 120, 240, 360 images" in log(
        tmp_path, "mixed"
    )
    assert scored(tmp_path, "mixed") == [480, 600]


def test_health_sees_late_evaluations_in_their_order_and_rolls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []

    def diagnose(ticks: Sequence[Row], evaluations: Sequence[Row] = (), **_: Any) -> Verdict | None:
        seen.append([row["frechet"] for row in evaluations])
        assert all(any(row is tick for tick in ticks) for row in evaluations)
        bad = len(evaluations) == 2 and not ticks[-1].get("rollbacks")
        return Verdict("degradation", "as the test wants it", since=3) if bad else None

    monkeypatch.setattr(detectors, "diagnose", diagnose)
    script = Script(polls=2, scores={120: 1.0, 240: 2.0, 360: 3.0, 480: 4.0, 600: 5.0})
    run(tmp_path, "back", *ASYNC, "health.response=rollback", script=script)
    (noted,) = read_rollbacks(RunDir(tmp_path / "back"))
    assert (noted["at"], noted["to"], noted["kind"]) == (420, 120, "degradation")
    assert [1.0, 2.0] in seen
    assert all(values == sorted(values) for values in seen)
    assert script.submitted == [120, 240, 360, 240, 360, 480, 600], "what a rollback made void is not waited for"
    assert scored(tmp_path, "back") == [120, 240, 360, 480, 600]


def test_the_best_checkpoint_waits_for_its_score(tmp_path: Path) -> None:
    scores = {120: 3.0, 240: 1.0, 360: 2.0, 480: 4.0, 600: 5.0}
    kept: dict[int, list[int]] = {}
    folder = RunDir(tmp_path / "best")

    def look(tick: Tick, _: Session) -> None:
        kept[tick.images] = sorted(int(path.name) for path in CheckpointStore(folder.checkpoints).folders())

    options = ("checkpoint.best_metric=frechet", "checkpoint.keep=1", "checkpoint.every=600")
    run(tmp_path, "best", *ASYNC, *options, script=Script(polls=2, scores=scores), callbacks=[Late(look)])
    assert kept[240] == [120, 240], "one without its score is kept"
    assert kept[600] == [240, 600]
    assert json.loads((folder.checkpoints / "best.json").read_text()) == {
        "images": 240,
        "metric": "frechet",
        "value": 1.0,
    }
    best = CheckpointStore(folder.checkpoints, best_metric="frechet").best()
    assert best is not None
    assert best.images == 240


def test_async_changes_no_weight(tmp_path: Path) -> None:
    run(tmp_path, "inline", *RUN)
    run(tmp_path, "async", *ASYNC, script=Script(polls=1))
    assert final_state(tmp_path / "async") == final_state(tmp_path / "inline")


def test_a_run_that_is_too_short_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EvaluationCallback, "__call__", lambda *_: pytest.fail("it is not due"))
    script = Script()
    run(tmp_path, "short", *ASYNC, "eval.every=900", script=script)
    assert script.submitted == []
