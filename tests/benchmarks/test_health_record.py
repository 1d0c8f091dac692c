"""Runs of the health benchmark: injected faults, recorded files, rescue counts."""

from pathlib import Path

import pytest
import torch

from benchmarks.health.__main__ import main
from benchmarks.health.faults import BAD_FROM, FAULTS
from benchmarks.health.plan import FIRST_FAULTY, ROUNDS, plan
from benchmarks.health.record import from_folder, read, run, write
from benchmarks.health.rescue import Rescue
from benchmarks.health.rescue import report as rescue_report
from benchmarks.health.setups import ROWS, SETUPS, Setup, overrides
from ganscale.config import ConfigError, load
from ganscale.run.session import run_worker
from ganscale.storage.run_dir import RunDir, open_run
from ganscale.training.build import build

RING = SETUPS["ring-hinge"]
SHORT = ("train.images=1024", "log.every=256", "eval.every=512", "eval.num_samples=50", "train.batch_size=32")


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_every_fault_is_a_valid_config_where_it_fits(setup: Setup) -> None:
    healthy = load(overrides=overrides(setup, 3))
    assert healthy.run.seed == 3
    assert healthy.train.images // healthy.log.every == ROWS
    for fault in (each for each in FAULTS.values() if each.fits(setup)):
        assert load(overrides=(*overrides(setup, 3), *fault.settings(setup))).run.seed == 3, fault.name


def objects(fault: str):
    experiment = build(load(overrides=(*overrides(RING, 0), *SHORT)))
    FAULTS[fault].wrap(experiment)
    return experiment


def test_one_class_is_one_class() -> None:
    experiment = objects("one-class")
    points, labels = experiment.sampler.source.read(32, 64)
    assert points.shape == (32, 2)
    assert labels is not None
    assert set(labels.tolist()) == {0}
    assert points.std(0).max() < 0.1


def test_batches_by_class_go_through_the_classes() -> None:
    source = objects("batch-norm-leak").sampler.source
    seen = []
    for start in range(0, 16 * 32, 32):
        labels = source.read(start, start + 32)[1]
        assert labels is not None
        seen.append(set(labels.tolist()))
    assert seen == [{index % 8} for index in range(16)]


def test_damage_begins_late() -> None:
    source = objects("damaged-data").sampler.source
    begin = int(BAD_FROM * 1024)
    assert source.read(begin - 32, begin)[0].isfinite().all()
    assert source.read(begin, begin + 32)[0].isnan().sum() == 2


def test_without_noise_all_samples_are_alike() -> None:
    state = objects("no-noise").state
    z = torch.randn(5, 2)
    for network in (state.generator, state.ema.module):
        made = network(z, None)
        torch.testing.assert_close(made, made[:1].expand(5, 2))


def test_classes_are_lost_one_after_the_other() -> None:
    source = objects("mode-dropping").sampler.source
    counts = []
    for start in range(0, 1024, 64):
        labels = source.read(start, start + 64)[1]
        assert labels is not None
        counts.append(len(labels.unique()))
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[4], counts[8], counts[-1]) == (8, 8, 5, 2)


def test_changed_examples_are_what_the_fault_says() -> None:
    def read(fault: str) -> torch.Tensor:
        return objects(fault).sampler.source.read(32, 64)[0]

    plain = build(load(overrides=(*overrides(RING, 0), *SHORT))).sampler.source.read(32, 64)[0]
    assert ((read("outliers") / plain).mean(1).round() == 10).sum() == 3
    torch.testing.assert_close(read("wrong-range"), plain / 2 + 0.5)
    assert (read("dead-rank") == 0).all(1).sum() == 16
    assert len(read("repeated-data").unique(dim=0)) == 16
    few = objects("few-data").sampler.source
    torch.testing.assert_close(few.read(32, 64)[0], few.read(632, 664)[0])


def test_shuffled_labels_are_those_of_others() -> None:
    setup = SETUPS["mlp-acgan"]
    experiment = build(load(overrides=(*overrides(setup, 0), *SHORT)))
    examples, labels = experiment.sampler.source.read(0, 64)
    FAULTS["shuffled-labels"].wrap(experiment)
    others = experiment.sampler.source.read(0, 64)
    torch.testing.assert_close(others[0], examples)
    assert labels is not None
    assert others[1] is not None
    assert (others[1] == labels).float().mean() < 0.3


def test_rounds_have_every_setup_and_every_fault() -> None:
    whole = plan()
    first = plan(1)
    assert whole[: len(first)] == first
    assert len(whole) == ROUNDS * len(first)
    assert len({(job.setup, job.fault, job.seed) for job in whole}) == len(whole)
    assert {job.setup for job in first if not job.fault} == SETUPS.keys()
    assert {job.fault for job in first if job.fault} == FAULTS.keys()
    assert all(FAULTS[job.fault].fits(SETUPS[job.setup]) for job in whole if job.fault)
    assert all((job.seed >= FIRST_FAULTY) == bool(job.fault) for job in whole)


def test_a_record_comes_back_from_the_file(tmp_path: Path) -> None:
    made = run("ring-hinge", "damaged-data", 5, extra=SHORT)
    assert [row["images"] for row in made.rows] == [256, 512, 768, 1024]
    assert [row["images"] for row in made.evaluations] == [0, 512, 1024]
    assert made.loss == "hinge"
    for name in ("runs.json", "runs.json.gz"):
        write(tmp_path / name, [made])
        (back,) = read(tmp_path / name)
        assert (back.setup, back.fault, back.seed) == ("ring-hinge", "damaged-data", 5)
        for rows, others in ((back.rows, made.rows), (back.evaluations, made.evaluations)):
            assert [list(row) for row in rows] == [list(row) for row in others]
            for row, other in zip(rows, others, strict=True):
                assert row == pytest.approx(other, rel=1e-4, nan_ok=True)


def trained(folder: Path, *changes: str) -> RunDir:
    """A short run of the ring, as the command trains it."""
    words = (*overrides(RING, 5), *SHORT, f"run.dir={folder}", "run.name=ring", "wandb.mode=disabled", *changes)
    run_worker(load(overrides=words), folder / "ring", device=torch.device("cpu"), echo=False)
    return open_run(str(folder / "ring"))


def test_a_run_that_was_trained_as_usual_is_recorded_alike(tmp_path: Path) -> None:
    made, direct = from_folder(trained(tmp_path), "ring-hinge"), run("ring-hinge", "", 5, extra=SHORT)
    assert (made.setup, made.fault, made.seed, made.loss) == ("ring-hinge", "", 5, "hinge")
    for rows, others in ((made.rows, direct.rows), (made.evaluations, direct.evaluations)):
        for row, other in zip(rows, others, strict=True):
            assert {name: row[name] for name in other} == pytest.approx(other, nan_ok=True)


def test_a_run_without_evaluations_is_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--add = .*ring: no row"):
        from_folder(trained(tmp_path, "eval.every=0"), "ring-hinge")


def test_a_run_is_added_only_to_a_named_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--add", "runs/ring", "ring-hinge"])
    assert "--add needs --score FILE" in capsys.readouterr().err


def test_a_rescue_counts_what_was_lost_without_it() -> None:
    def each(lost: bool, saved: bool) -> Rescue:
        return Rescue("s", "f", 1, lost, saved, (0, 5), {"frechet": 1.0, "modes": 8.0})

    text, passed = rescue_report([each(True, True)] * 4 + [each(True, False), each(False, False)])
    assert "saved 4 of 5" in text
    assert passed
    assert not rescue_report([each(True, True), each(True, False), each(False, True)])[1]


def test_a_healthy_run_may_not_be_rolled_back() -> None:
    def healthy(*targets: int, diagnosis: str = "") -> Rescue:
        return Rescue("s", "", 1, False, False, targets, {"frechet": 1.0, "modes": 8.0}, diagnosis)

    saved = Rescue("s", "f", 1, True, True, (0, 5), {"frechet": 1.0, "modes": 8.0})
    text, passed = rescue_report([saved, healthy(), healthy()])
    assert "1 runs with too high rates; 1 are lost" in text
    assert "rolled back or stopped: 0 of 2" in text
    assert passed
    assert not rescue_report([saved, healthy(), healthy(0)])[1]
    assert not rescue_report([saved, healthy(diagnosis="divergence")])[1]
    assert rescue_report([healthy()])[1]
