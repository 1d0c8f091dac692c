"""A configuration with its seeds: advanced together, and going on as if nothing had happened."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch

from ganscale.config import parse
from ganscale.health import detectors
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.lease import LeaseLostError, TrialLease
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import ChangedError, LocalStore, StorePath
from ganscale.sweep import trial
from ganscale.sweep.results import read_drawn, read_end, read_rows
from ganscale.sweep.trial import MultiSeedTrial
from ganscale.tracking.jsonl import read_metrics
from ganscale.training.build import build
from ganscale.training.loop import train
from tests.sweep.sweeps import ring_plan

METRICS = ("modes", "high_quality")
DRAWN = {"optim.lr_g": 2e-3, "optim.lr_d": 3e-3}


def candidate(
    folder: Path,
    drawn: dict[str, float] | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    audited: tuple[int, ...] = (),
) -> MultiSeedTrial:
    drawn = drawn or DRAWN
    config = ring_plan(folder).space.config(drawn)
    device = torch.device("cpu")
    return MultiSeedTrial(config, drawn, seeds, METRICS, folder / "0000", device=device, audited=audited)


def rows_of(folder: Path, count: int = 4) -> list[tuple]:
    made = candidate(folder)
    return [(row.images, row.seeds, row.last) for row in map(made.row, range(count))]


def test_rows_are_told_from_evaluation_to_evaluation(tmp_path: Path) -> None:
    found = rows_of(tmp_path)
    assert [images for images, _, _ in found] == [320, 640, 960, 1280]
    assert [last for _, _, last in found] == [False, False, False, True]
    assert [[seed.seed for seed in seeds] for _, seeds, _ in found] == [[0, 1, 2]] * 4
    assert all(set(seed.values) == set(METRICS) and seed.images == images for images, row, _ in found for seed in row)
    assert read_end(tmp_path / "0000")[0] == "complete"
    assert [row.images for row in read_rows(tmp_path / "0000")] == [320, 640, 960, 1280]


def test_a_seed_trains_as_a_run_of_its_own(tmp_path: Path) -> None:
    made = candidate(tmp_path)
    made.row(1)
    raw = ring_plan(tmp_path).space.config(DRAWN).model_dump(mode="json")
    raw["run"]["seed"] = 1
    alone = build(parse(raw))
    list(train(alone, intervals={}, until=640))
    for mine, other in zip(
        made.experiments[1].state.generator.parameters(), alone.state.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_a_trial_that_died_goes_on_alike(tmp_path: Path, done: int) -> None:
    undisturbed = rows_of(tmp_path / "a")
    first = candidate(tmp_path / "b")
    for number in range(done):
        first.row(number)
    assert rows_of(tmp_path / "b") == undisturbed


def test_what_is_recorded_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rows_of(tmp_path)
    monkeypatch.setattr(trial, "build", lambda *a, **k: pytest.fail("trained again"))
    assert rows_of(tmp_path) == first


def test_a_trial_that_died_before_it_noted_its_end_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever hears of its last row takes it for one that a scheduler stopped."""
    before = rows_of(tmp_path)
    (tmp_path / "0000" / "end.json").unlink()
    monkeypatch.setattr(trial, "build", lambda *_, **__: pytest.fail("nothing is left to be trained"))
    again = candidate(tmp_path)
    again.row(2)
    assert read_end(tmp_path / "0000")[0] == ""
    assert (again.row(3).images, again.row(3).seeds, again.row(3).last) == before[3]
    assert read_end(tmp_path / "0000")[0] == "complete"


@pytest.mark.parametrize("damage", ["row", "checkpoint", "all checkpoints"])
def test_damage_costs_rows_but_changes_none(tmp_path: Path, damage: str) -> None:
    undisturbed = rows_of(tmp_path / "a")
    candidate(tmp_path / "b").row(2)
    folder = tmp_path / "b" / "0000"
    if damage == "row":
        text = (folder / "rows.jsonl").read_text(encoding="utf-8")
        (folder / "rows.jsonl").write_text(text[:-40], encoding="utf-8")
    else:
        checkpoints = CheckpointStore(folder / "seed-1" / "checkpoints").folders()
        for path in checkpoints if damage == "all checkpoints" else checkpoints[:1]:
            (path / "state.pt").write_bytes(b"")
    assert rows_of(tmp_path / "b") == undisturbed


def test_a_failed_seed_stops_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = detectors.diagnose

    def diagnose(ticks, evaluations, **kinds):
        bad = len(ticks) == 3 and ticks[0]["loss_d"] == first_loss
        return detectors.Verdict("divergence", "as the test wants it") if bad else real(ticks, evaluations, **kinds)

    probe = candidate(tmp_path / "probe")
    probe.row(0)
    line = (tmp_path / "probe/0000/seed-1/metrics.jsonl").read_text(encoding="utf-8").splitlines()[0]
    first_loss = json.loads(line)["loss_d"]
    monkeypatch.setattr(detectors, "diagnose", diagnose)
    made = candidate(tmp_path / "b")
    rows = [made.row(number) for number in range(4)]
    assert [seed.failure for seed in rows[0].seeds] == ["", "", ""]
    assert [bool(seed.failure) for seed in rows[1].seeds] == [False, True, False]
    assert [seed.images for seed in rows[3].seeds] == [1280, 480, 1280]
    assert rows[3].last
    assert rows[3].spent == 3040


def test_a_trial_ends_when_all_seeds_have_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "diagnose", lambda *a, **k: detectors.Verdict("mode-collapse", "all of them"))
    row = candidate(tmp_path).row(0)
    assert row.last
    assert [seed.failure for seed in row.seeds] == ["mode-collapse: all of them"] * 3
    assert row.spent == 3 * 160


def test_an_audited_seed_fails_but_is_trained_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = candidate(tmp_path / "healthy")
    expected = [healthy.row(number).seeds[1] for number in range(4)]
    monkeypatch.setattr(detectors, "diagnose", lambda *a, **k: detectors.Verdict("mode-collapse", "all of them"))
    rows = [candidate(tmp_path / "b", audited=(1,)).row(number) for number in range(4)]  # each by another process
    for row, alike in zip(rows, expected, strict=True):
        assert [seed.failure for seed in row.seeds] == ["mode-collapse: all of them"] * 3
        assert [seed.images for seed in row.seeds] == [160, alike.images, 160]
        assert [seed.audited for seed in row.seeds] == [False, True, False]
        assert row.seeds[1].values == alike.values
    assert [row.last for row in rows] == [False, False, False, True]


def test_a_finished_trial_keeps_no_checkpoints_but_shows_samples(tmp_path: Path) -> None:
    rows_of(tmp_path)
    for seed in range(3):
        run = tmp_path / "0000" / f"seed-{seed}"
        assert not CheckpointStore(run / "checkpoints").folders()
        assert [path.name for path in (run / "samples").iterdir()] == ["00001280.png"]
        assert len(list((run / "evaluations").iterdir())) == 4


def test_the_drawn_rate_is_the_live_optimizers(tmp_path: Path) -> None:
    made = candidate(tmp_path, {"optim.lr_g": 1.5e-3, "optim.lr_d": 7e-4})
    made.row(0)
    for experiment in made.experiments:
        assert experiment.state.optimizer_g.param_groups[0]["lr"] == 1.5e-3
        assert experiment.state.optimizer_d.param_groups[0]["lr"] == 7e-4


def test_adopting_a_state_keeps_ones_own_rates(tmp_path: Path) -> None:
    donor = candidate(tmp_path / "donor", {"optim.lr_g": 1e-3, "optim.lr_d": 1e-3})
    donor.row(1)
    heir = candidate(tmp_path / "heir", {"optim.lr_g": 5e-3, "optim.lr_d": 6e-3})
    heir.row(0)
    states = donor.states()
    heir.adopt(states)
    for mine, state in zip(heir.experiments, states, strict=True):
        assert mine.state.images == 640
        for part in ("generator", "discriminator"):
            for name, value in getattr(mine.state, part).state_dict().items():
                torch.testing.assert_close(value, state[part][name], rtol=0, atol=0)
        for name, value in mine.state.ema.module.state_dict().items():
            torch.testing.assert_close(value, state["ema"][name], rtol=0, atol=0)
        moments = mine.state.optimizer_g.state_dict()["state"]
        torch.testing.assert_close(moments[0]["exp_avg"], state["optimizer_g"]["state"][0]["exp_avg"], rtol=0, atol=0)
    row = heir.row(1)
    assert row.images == 960
    for experiment in heir.experiments:
        assert experiment.state.optimizer_g.param_groups[0]["lr"] == 5e-3
        assert experiment.state.optimizer_d.param_groups[0]["lr"] == 6e-3


def test_a_folder_of_an_unfinished_trial_can_be_removed(tmp_path: Path) -> None:
    undisturbed = rows_of(tmp_path / "a")
    candidate(tmp_path / "b").row(1)
    shutil.rmtree(tmp_path / "b" / "0000" / "seed-0")
    assert rows_of(tmp_path / "b") == undisturbed


@pytest.fixture
def bucket(tmp_path: Path) -> StorePath:
    return StorePath(LocalStore(tmp_path / "bucket"), "try/trials")


def in_bucket(bucket: StorePath) -> MultiSeedTrial:
    """A new process's trial, as on a host that shares no folder with the others."""
    config = ring_plan(Path()).space.config(DRAWN)
    return MultiSeedTrial(config, DRAWN, (0, 1, 2), METRICS, bucket / "0000", device=torch.device("cpu"))


def test_a_trial_in_a_bucket_resumes_as_in_a_folder(tmp_path: Path, bucket: StorePath) -> None:
    expected = rows_of(tmp_path)
    first = in_bucket(bucket)
    first.row(0)
    first.row(1)
    second = in_bucket(bucket)
    assert [(row.images, row.seeds, row.last) for row in map(second.row, range(4))] == expected
    assert read_end(bucket / "0000")[0] == "complete"
    for seed in range(3):
        here, there = RunDir(tmp_path / "0000" / f"seed-{seed}"), RunDir(bucket / "0000" / f"seed-{seed}").pull()
        names = [{str(p.relative_to(r.path)) for p in r.path.rglob("*") if p.is_file()} for r in (here, there)]
        assert names[1] == {name for name in names[0] if not name.startswith("checkpoints/")}
        found = [[(row["images"], row["loss_d"]) for row in read_metrics(run)] for run in (here, there)]
        assert found[0] == found[1]
        assert not CheckpointStore(there.checkpoints).folders()


def test_of_two_processes_of_a_trial_the_later_one_writes(bucket: StorePath, monkeypatch: pytest.MonkeyPatch) -> None:
    first = in_bucket(bucket)
    first.row(0)
    second = in_bucket(bucket)
    second.row(1)
    with pytest.raises(LeaseLostError):
        first.row(1)
    monkeypatch.setattr(TrialLease, "confirm", lambda lease: 1)  # as if it had confirmed just before
    with pytest.raises(ChangedError):
        first._append(second.rows[1])
    assert [row.images for row in read_rows(bucket / "0000")] == [320, 640]


@pytest.mark.parametrize("name", ["rows.jsonl", "end.json", "drawn.json", "state"])
def test_a_bucket_that_does_not_answer_is_not_an_empty_one(
    bucket: StorePath, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Else the trial would begin anew, and its rows be lost."""
    if name == "state":
        in_bucket(bucket).row(0)
    get = LocalStore.get

    def fail(store: LocalStore, key: str) -> tuple[bytes, str]:
        if name in key.rpartition("/")[2]:
            raise OSError(errno.EIO, "503", key)
        return get(store, key)

    monkeypatch.setattr(LocalStore, "get", fail)
    read = {"rows.jsonl": read_rows, "end.json": read_end, "drawn.json": read_drawn}
    with pytest.raises(OSError, match="503"):
        read[name](bucket / "0000") if name in read else in_bucket(bucket).row(1)
