"""Training and search from Python, as in a notebook."""

from pathlib import Path
from typing import Any

import pytest
import torch

import ganscale
from ganscale import Trainer, Tuner
from ganscale.api import Table
from ganscale.config import ConfigError
from ganscale.storage.store import LocalStore, StorePath
from ganscale.training.loop import Tick
from tests.runs import RING

TINY = (*RING, "train.batch_size=16", "train.images=320", "log.every=160", "eval.every=160", "eval.num_samples=100")
OVERRIDES = (
    *TINY,
    "wandb.mode=disabled",
    "checkpoint.every=160",
    "checkpoint.mode=inline",
    "checkpoint.best_metric=modes",
    "cluster.timeout=60",
)


def test_a_run_from_start_to_generator(tmp_path: Path) -> None:
    ticks: list[Tick] = []
    trainer = Trainer(None, [*OVERRIDES, f"run.dir={tmp_path}"], launcher="local", callbacks=[ticks.append])
    result = trainer.fit()
    assert (result.folder, result.images, result.resumed_at) == (tmp_path / "mnist_mlp", 320, 0)
    assert (result.stop_reason, result.diagnosis) == ("", "")
    assert [tick.images for tick in ticks] == [row["images"] for row in result.metrics] == [160, 320]
    assert result.last_checkpoint == result.folder / "checkpoints" / f"{320:012d}"
    assert result.best_checkpoint in set((result.folder / "checkpoints").iterdir())
    images = result.load_generator().sample(3)
    torch.testing.assert_close(images, ganscale.load_generator(result.folder).sample(3))
    again = trainer.fit()
    assert (again.images, again.resumed_at, len(ticks)) == (320, 320, 2)
    longer = Trainer(trainer.config, ["train.images=480"], launcher="local", callbacks=[ticks.append]).fit()
    assert (longer.images, longer.resumed_at, ticks[-1].images) == (480, 320, 480)


def test_a_config_may_be_a_file_mappings_or_a_config(tmp_path: Path) -> None:
    raw: dict[str, Any] = {"train": {"images": 5}}
    path = tmp_path / "run.yaml"
    path.write_text("train: {images: 5}\n")
    configs = [Trainer(source, ["run.seed=3"]).config for source in (raw, path, str(path))]
    assert configs[0] == configs[1] == configs[2] == Trainer(configs[0]).config
    assert raw == {"train": {"images": 5}}, "overrides change a copy"
    assert ganscale.load_config(raw, ["run.seed=3"]) == configs[0]
    assert (configs[0].train.images, configs[0].run.seed) == (5, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "key"),
    [
        (({"train": {"image": 5}},), {}, "train.image"),
        ((None, ["optim.lr_g=fast"]), {}, "optim.lr_g"),
        (("nowhere.yaml",), {}, "config"),
        ((), {"launcher": "slurm"}, "launcher"),
    ],
)
def test_errors_are_raised(arguments: tuple[Any, ...], options: dict[str, str], key: str) -> None:
    with pytest.raises(ganscale.ConfigError) as caught:
        Trainer(*arguments, **options)
    assert caught.value.key == key


def test_a_callback_that_fails_fails_the_run(tmp_path: Path) -> None:
    def fail(_: Tick) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Trainer(None, [*OVERRIDES, f"run.dir={tmp_path}"], launcher="local", callbacks=[fail]).fit()


def test_rows_become_a_data_frame_where_pandas_is_there() -> None:
    pandas = pytest.importorskip("pandas")
    frame = Table([{"images": 1, "loss_d": 0.5}, {"images": 2, "loss_d": None}]).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["images"]) == [1, 2]


def test_the_package_offers_what_it_lists() -> None:
    assert {"Trainer", "Tuner", "Result", "SweepResult", "load_generator", "load_config"} <= set(dir(ganscale))
    for name in dir(ganscale):
        assert getattr(ganscale, name) is not None or name.startswith("__")
    with pytest.raises(AttributeError):
        _ = ganscale.nothing


def test_a_sweep_is_checked_before_it_starts() -> None:
    sweep = {"sweep": {"seeds": 4}, "set": {"eval.every": 160}, "space": {"optim.lr_g": {"choice": [1e-3, 1e-4]}}}
    plan = Tuner(sweep, ["sweep.num_configs=5", "train.images=320"]).plan
    assert (len(plan.sampler), len(plan.seeds), plan.config.train.images) == (5, 4, 320)
    with pytest.raises(ganscale.ConfigError):
        Tuner({"train": {"images": 5}})


@pytest.mark.parametrize("text", ["sweep: {name: try}\n", "train: [\n"], ids=["a sweep", "no YAML"])
def test_a_problem_of_a_config_in_a_bucket_names_its_place(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = StorePath(LocalStore(tmp_path), "a.yaml")
    place.write_text(text)
    monkeypatch.setattr("ganscale.storage.store.open_place", lambda *_, **__: place)
    with pytest.raises(ConfigError) as caught:
        Trainer("s3://bucket/a.yaml", launcher="local")
    assert caught.value.value == "s3://bucket/a.yaml"
    assert "ganscale-" not in str(caught.value), "the copy is gone"
