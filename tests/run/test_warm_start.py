"""Warm start of a run: from where, what it says and records, and that workers, resumes and rollbacks change nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ganscale.config import Config, ConfigError, parse
from ganscale.config import load as load_config
from ganscale.data import Source
from ganscale.health import detectors
from ganscale.inference.export import export
from ganscale.inference.load import load_generator
from ganscale.run.health_monitor import HealthMonitor
from ganscale.run.session import run_worker
from ganscale.run.warm_start import locate, read, start, warm_start
from ganscale.storage.checkpoint import CheckpointStore, load
from ganscale.storage.run_dir import RunDir
from ganscale.train import main
from ganscale.training.build import Experiment, build, initial_state
from tests.fleet import Fleet
from tests.inference import r3gan_layout
from tests.run.test_health_monitor import at
from tests.run.test_stop_signal import RUN
from tests.runs import DCGAN, EXACT, MLP, QUIET, saved

CPU = torch.device("cpu")
FROZEN = ("model.freeze_d=1",)
BASE = (*DCGAN, *EXACT)


def config(*overrides: str) -> Config:
    return load_config(overrides=overrides)


def begun(folder: Path, *overrides: str) -> Experiment:
    """A run that has started from `folder`, and has not trained."""
    experiment = build(config(f"train.init_from={folder}", *overrides))
    source = experiment.sampler.source
    start(experiment.config, experiment.state, source, read(experiment.config))
    return experiment


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("origin")
    saved(folder, *BASE, "run.seed=5", images=96, metrics={"frechet": 1.0})
    return folder


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_checkpoints_with_unused_settings_stay_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = config(*BASE).model_dump(mode="json")
    raw["penalty"]["lecam_decay"] = 0.9
    raw["model"]["generator"]["class_dim"] = 7
    with pytest.raises(ConfigError):
        load_config(raw)
    with monkeypatch.context() as patch:
        patch.setattr("tests.runs.load", lambda overrides: parse(raw))
        saved(tmp_path / "old")
    assert load_generator(tmp_path / "old").config == parse(raw)
    begun(tmp_path / "old", *BASE)


def test_all_parts_are_those_of_the_checkpoint(origin: Path) -> None:
    _, there = load(next(iter(CheckpointStore(origin / "checkpoints").folders())))
    state = begun(origin, *BASE).state.state_dict()
    assert all(equal(state[part], there[part]) for part in ("generator", "discriminator", "ema"))
    assert not equal(state["ema"], there["generator"])
    assert (state["images"], state["iteration"], state["optimizer_g"]["state"]) == (0, 0, {})


def test_parts_that_are_not_asked_for_stay(origin: Path) -> None:
    _, there = load(next(iter(CheckpointStore(origin / "checkpoints").folders())))
    cold = build(config(*BASE)).state.state_dict()
    only_d = begun(origin, *BASE, "train.init_parts=discriminator").state.state_dict()
    assert equal(only_d["discriminator"], there["discriminator"])
    assert equal(only_d["generator"], cold["generator"])
    assert equal(only_d["ema"], cold["ema"])
    only_g = begun(origin, *BASE, "train.init_parts=[generator]").state.state_dict()
    assert equal(only_g["ema"], there["generator"])  # the average begins with the generator
    assert equal(only_g["discriminator"], cold["discriminator"])


def test_optimizers_continue(tmp_path: Path) -> None:
    settings = load_config(overrides=(*RUN, f"run.dir={tmp_path}", "run.name=a", "train.images=120"))
    run_worker(settings, tmp_path / "a", device=CPU, echo=False)
    _, there = load(tmp_path / "a" / "checkpoints" / f"{120:012d}")
    parts = "train.init_parts=[generator, discriminator, ema, optimizers]"
    experiment = begun(tmp_path / "a", *RUN, parts)
    for side in ("g", "d"):
        moments = getattr(experiment.state, f"optimizer_{side}").state_dict()["state"]
        known = there[f"optimizer_{side}"]["state"]
        assert moments.keys() == known.keys()
        assert all(torch.equal(moments[i][name], known[i][name]) for i in known for name in ("exp_avg", "step"))


def test_an_export_and_a_pickle_are_origins(origin: Path, tmp_path: Path) -> None:
    export(load_generator(origin), tmp_path / "out", ["safetensors"])
    _, there = load(next(iter(CheckpointStore(origin / "checkpoints").folders())))
    for path in (tmp_path / "out", tmp_path / "out" / "generator.safetensors"):
        state = begun(path, *BASE, "train.init_parts=[generator, ema]").state.state_dict()
        assert equal(state["generator"], there["ema"])
        assert equal(state["ema"], there["ema"])
    with pytest.raises(ConfigError, match="has no discriminator"):
        begun(tmp_path / "out", *BASE)
    networks = r3gan_layout.networks((8, 8, 8), (1, 1, 1), group_size=4)
    r3gan_layout.write(tmp_path / "a.pkl", networks)
    settings = ("name=r3gan", "width=8", "max_width=8", "depth=1", "group_size=4")
    sides = [f"model.{side}.{each}" for side in ("generator", "discriminator") for each in settings]
    run = ("data.name=stacked_mnist", "data.resolution=16", "data.num_images=64", "model.latent_dim=8", *sides)
    state = begun(tmp_path / "a.pkl", *run, "loss.name=relativistic_pairing").state
    z = torch.randn(4, 8)
    with torch.no_grad():
        torch.testing.assert_close(state.generator(z), networks["G"](z), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(state.ema.module(z), networks["G_ema"](z), rtol=1e-5, atol=1e-5)


REFUSED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "nothing": (("train.init_from={}/nothing",), "train.init_from", "no such folder"),
    "no_pickle": (("train.init_from={}/nothing.pkl",), "train.init_from", "no such file"),
    "no_checkpoint": (("train.init_checkpoint=7",), "train.init_checkpoint", "no such checkpoint"),
    "no_best": (("train.init_checkpoint=best",), "train.init_checkpoint", "no checkpoint.best_metric"),
    "other_generator": (("model.generator={name: mlp}",), "model.generator.name", "is dcgan"),
    "other_discriminator": (("model.discriminator={name: mlp}",), "model.discriminator.name", "is dcgan"),
    "other_widths": (("model.generator.width=7", "model.generator.max_width=7"), "train.init_from", "of the generator"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_started_from_is_refused(name: str, origin: Path) -> None:
    overrides, key, problem = REFUSED[name]
    with pytest.raises(ConfigError, match=problem) as caught:
        begun(origin, *BASE, *(each.replace("{}", str(origin)) for each in overrides))
    assert caught.value.key == key
    assert caught.value.remedy


def test_a_damaged_checkpoint_is_refused(origin: Path, tmp_path: Path) -> None:
    shutil.copytree(origin, tmp_path / "run")
    (folder,) = CheckpointStore(tmp_path / "run" / "checkpoints").folders()
    (folder / "state.pt").write_bytes(b"\0" * (folder / "state.pt").stat().st_size)
    for path in (folder, tmp_path / "run"):
        with pytest.raises(ConfigError, match="altered"):
            read(config(*BASE, f"train.init_from={path}"))


CONDITIONAL = (
    *MLP,
    *EXACT,
    "model.generator.conditioning=concat",
    "model.discriminator.conditioning=projection",
    "data.num_images=64",
)


class _Named(Source):
    """A source with names of its classes."""

    def __init__(self, *names: str, count: int = 0) -> None:
        self.shape, self.num_classes, self.class_names = (1, 8, 8), len(names) or count, names

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        raise AssertionError("nothing is read")


def _rows(folder: Path, source: _Named, *overrides: str) -> tuple[Tensor, Tensor]:
    """Embeddings of the classes after a start from `folder`, and before."""
    settings = config(*CONDITIONAL, "data.name=folder", "data.path=x", f"train.init_from={folder}", *overrides)
    first, state = (initial_state(settings, source.shape, CPU, num_classes=source.num_classes) for _ in range(2))
    start(settings, state, source, read(settings))
    return state.generator.state_dict()["class_embedding"], first.generator.state_dict()["class_embedding"]


def test_classes_of_the_same_name_are_taken(tmp_path: Path) -> None:
    saved(tmp_path, *CONDITIONAL)
    _, state = load(next(iter(CheckpointStore(tmp_path / "checkpoints").folders())))
    there = state["generator"]["class_embedding"]
    taken, before = _rows(tmp_path, _Named("7", "cat", "0"))
    assert torch.equal(taken[[0, 2]], there[[7, 0]])
    assert torch.equal(taken[1], before[1])
    unnamed, before = _rows(tmp_path, _Named(count=3))
    assert torch.equal(unnamed, before)
    by_index, _ = _rows(tmp_path, _Named(count=3), "train.init_classes=index")
    assert torch.equal(by_index, there[:3])


def _tiny(folder: Path, name: str, *overrides: str) -> Config:
    common = (*RUN, *FROZEN, f"run.dir={folder}", f"run.name={name}", f"train.init_from={folder / 'a'}")
    return load_config(overrides=(*common, *overrides))


def _train(folder: Path, name: str, *overrides: str) -> dict[str, Any]:
    settings = _tiny(folder, name, *overrides)
    run_worker(settings, folder / name, device=CPU, echo=False)
    return load(next(iter(CheckpointStore(folder / name / "checkpoints").folders())))[1]


def _first(folder: Path) -> None:
    settings = load_config(overrides=(*RUN, f"run.dir={folder}", "run.name=a", "train.images=120"))
    run_worker(settings, folder / "a", device=CPU, echo=False)


def test_a_run_says_and_records_where_it_starts(tmp_path: Path) -> None:
    _first(tmp_path)
    _train(tmp_path, "b", "train.images=120")
    log = (tmp_path / "b" / "train.log").read_text()
    assert "starting from run a at 120 images" in log
    record = json.loads((tmp_path / "b" / "environment.json").read_text())["init_from"]
    manifest = CheckpointStore(tmp_path / "a" / "checkpoints").newest(lambda _: None)
    assert manifest is not None
    assert (record["images"], record["sha256"]) == (120, manifest.sha256)
    assert record["path"] == str(tmp_path / "a" / "checkpoints" / f"{120:012d}")
    assert record["share"] == {"generator": 1.0, "discriminator": 1.0}
    assert "init_from" not in json.loads((tmp_path / "a" / "environment.json").read_text())


def test_a_resume_does_not_read_the_origin(tmp_path: Path) -> None:
    """The run in two parts, the origin gone after the first, ends with the same bits as in one."""
    _first(tmp_path)
    whole = _train(tmp_path, "whole", "train.images=240")
    _train(tmp_path, "parts", "train.images=120")
    record = json.loads((tmp_path / "parts" / "environment.json").read_text())["init_from"]
    shutil.rmtree(tmp_path / "a")
    parts = _train(tmp_path, "parts", "train.images=240")
    assert equal(whole["generator"], parts["generator"])
    assert equal(whole["discriminator"], parts["discriminator"])
    assert "train.init_from is not read" in (tmp_path / "parts" / "train.log").read_text()
    assert json.loads((tmp_path / "parts" / "environment.json").read_text())["init_from"] == record


def test_a_start_before_the_first_checkpoint_takes_the_same_again(tmp_path: Path) -> None:
    """The origin has trained on, and the run starts once more from what it recorded."""
    _first(tmp_path)
    settings, folder = _tiny(tmp_path, "b"), RunDir(tmp_path / "b")
    run_worker(_tiny(tmp_path, "b", "train.images=120"), tmp_path / "b", device=CPU, echo=False)
    more = load_config(overrides=(*RUN, f"run.dir={tmp_path}", "run.name=a", "train.images=240"))
    run_worker(more, tmp_path / "a", device=CPU, echo=False)
    assert locate(settings).name == f"{240:012d}"
    experiment, lines = build(settings), []
    facts = warm_start(settings, experiment.state, experiment.sampler.source, folder, lines.append)
    assert facts["images"] == 120
    shutil.rmtree(tmp_path / "a" / "checkpoints" / f"{120:012d}")
    facts = warm_start(settings, experiment.state, experiment.sampler.source, folder, lines.append)
    assert facts["images"] == 240
    assert any("gone or has changed" in line for line in lines)


def test_a_rollback_to_the_start_goes_back_to_the_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _first(tmp_path)
    _, there = load(tmp_path / "a" / "checkpoints" / f"{120:012d}")
    restore, found = HealthMonitor._restore, []

    def checked(monitor: HealthMonitor, target: int, rollbacks: int) -> None:
        restore(monitor, target, rollbacks)
        state = monitor._experiment.state.state_dict()
        found.append((target, equal(state["generator"], there["generator"]), equal(state["ema"], there["ema"])))

    monkeypatch.setattr(HealthMonitor, "_restore", checked)
    monkeypatch.setattr(detectors, "diagnose", at(420, since=2))
    _train(tmp_path, "b", "health.response=rollback", "health.rate_factor=0.5")
    assert found == [(0, True, True)]


def _share(folder: str, name: str) -> dict[str, Any]:
    return _train(Path(folder), name, "train.images=240")


@pytest.mark.multiprocess
def test_the_number_of_workers_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    _first(tmp_path)
    alone = _share(str(tmp_path), "one")
    for state in fleet.run(_share, 3, str(tmp_path), "three"):
        for part in ("generator", "discriminator", "ema"):
            for name, tensor in state[part].items():
                torch.testing.assert_close(tensor, alone[part][name], rtol=1e-9, atol=1e-12)


def _refused(folder: str) -> str:
    with pytest.raises(ConfigError) as caught:
        _train(Path(folder), "b")
    return caught.value.key


@pytest.mark.multiprocess
def test_all_workers_refuse_together(fleet: Fleet, tmp_path: Path) -> None:
    assert fleet.run(_refused, 2, str(tmp_path)) == ["train.init_from"] * 2


def test_a_dry_run_shows_the_table(origin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*BASE, *QUIET, f"train.init_from={origin}", "--dry-run"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "# starting from run" in shown
    assert "taken" in next(line for line in shown.splitlines() if "layers.0.weight" in line)
    assert main([*arguments, "train.init_checkpoint=7"]) == 2
