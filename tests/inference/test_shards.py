"""Shards: what each holds, that they come back the same, and that a folder is never mixed."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.config import ConfigError
from ganscale.inference import shards
from ganscale.inference.generator import MAX_SEED, LoadedGenerator
from ganscale.inference.grid import to_bytes
from ganscale.inference.load import load_generator
from ganscale.inference.shards import (
    ShardPlan,
    check_visible,
    make_here,
    make_plan,
    missing,
    prepare,
    shard_bytes,
    sole_writer,
)
from ganscale.storage.lease import FileLease
from ganscale.storage.run_dir import RunDir
from tests.processes import snapshot
from tests.runs import MLP, RING, saved

CONDITIONAL = (*MLP, "model.generator.conditioning=concat", "model.discriminator.conditioning=projection")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> LoadedGenerator:
    folder = tmp_path_factory.mktemp("run")
    saved(folder, *CONDITIONAL, images=64)
    return load_generator(folder)


def plan_of(generator: LoadedGenerator, num_samples: int = 50, **changes: Any) -> ShardPlan:
    usual = {"shard_size": 20, "format": "npz", "truncation": 1.0, "labels": None, "device": "cpu"}
    return make_plan(generator, num_samples, **(usual | changes))


def fill(generator: LoadedGenerator, folder: Path, plan: ShardPlan) -> list[int]:
    """Make what is missing; return it."""
    prepare(folder, plan)
    with sole_writer(folder):
        return list(make_here(generator, folder, plan, missing(folder, plan)))


def test_arrays(generator: LoadedGenerator, tmp_path: Path) -> None:
    assert fill(generator, tmp_path, plan_of(generator, truncation=0.5)) == [0, 1, 2]
    parts = [np.load(tmp_path / f"shard-{shard:06d}.npz") for shard in range(3)]
    assert [part["arr_0"].shape for part in parts] == [(20, 8, 8, 1), (20, 8, 8, 1), (10, 8, 8, 1)]
    whole = np.concatenate([part["arr_0"] for part in parts])
    assert whole.dtype == np.uint8
    assert np.array_equal(whole, to_bytes(generator.sample(50, truncation=0.5)))
    assert np.concatenate([part["arr_1"] for part in parts]).tolist() == [seed % 10 for seed in range(50)]


def test_pictures(generator: LoadedGenerator, tmp_path: Path) -> None:
    fill(generator, tmp_path, plan_of(generator, format="zip", labels=[3, 8]))
    expected = to_bytes(generator.sample(50, [3, 8] * 25))
    with zipfile.ZipFile(tmp_path / "shard-000001.zip") as archive:
        assert archive.namelist() == [f"{seed:012d}.png" for seed in range(20, 40)]
        with Image.open(io.BytesIO(archive.read("000000000027.png"))) as picture:
            assert np.array_equal(np.asarray(picture), expected[27, :, :, 0])


def test_points(tmp_path: Path) -> None:
    saved(tmp_path / "run", *RING)
    generator = load_generator(tmp_path / "run")
    fill(generator, tmp_path / "out", plan_of(generator))
    part = np.load(tmp_path / "out" / "shard-000001.npz")
    assert part.files == ["arr_0"]
    assert np.array_equal(part["arr_0"], generator.sample(range(20, 40)).numpy())
    with pytest.raises(ConfigError, match="no pictures"):
        plan_of(generator, format="zip")


@pytest.mark.parametrize("format", ["npz", "zip"])
def test_the_bytes_are_a_function_of_the_plan(generator: LoadedGenerator, format: str, monkeypatch: Any) -> None:
    plan = plan_of(generator, format=format)
    before = shard_bytes(generator, plan, 1)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert shard_bytes(generator, plan, 1) == before
    assert shard_bytes(generator, plan, 0) != before


def test_shards_are_made_on_one_thread(generator: LoadedGenerator, tmp_path: Path, monkeypatch: Any) -> None:
    threads: list[int] = []
    monkeypatch.setattr(shards, "make_shard", lambda *_: threads.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert list(make_here(generator, tmp_path, plan_of(generator), [0, 2])) == [0, 2]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 1]


def test_only_what_is_missing_is_made_again(generator: LoadedGenerator, tmp_path: Path) -> None:
    plan = plan_of(generator, 100)
    fill(generator, tmp_path, plan)
    before = snapshot(tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    (tmp_path / "shard-000000.npz").unlink()
    (tmp_path / "shard-000001.json").unlink()
    damaged = tmp_path / "shard-000003.npz"
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"different")
    assert fill(generator, tmp_path, plan) == [0, 1, 3]
    assert snapshot(tmp_path) == before
    for name in ("shard-000002.npz", "shard-000004.npz"):
        assert (tmp_path / name).stat().st_mtime_ns == times[name]
    assert fill(generator, tmp_path, plan) == []


def test_more_samples_of_the_same_kind_may_follow(generator: LoadedGenerator, tmp_path: Path) -> None:
    fill(generator, tmp_path / "a", plan_of(generator, 50))
    assert fill(generator, tmp_path / "a", plan_of(generator, 90)) == [2, 3, 4]
    fill(generator, tmp_path / "b", plan_of(generator, 90))
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    with pytest.raises(ConfigError, match="num_samples: 90 -> 50"):
        prepare(tmp_path / "a", plan_of(generator, 50))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"truncation": 0.5}, "truncation: 1.0 -> 0.5"),
        ({"format": "zip"}, "format: npz -> zip"),
        ({"shard_size": 10}, "shard_size: 20 -> 10"),
        ({"labels": [1]}, "labels: null -> "),
        ({"device": "cuda"}, "device: cpu -> cuda"),
    ],
)
def test_other_samples_are_not_mixed_in(
    generator: LoadedGenerator, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    fill(generator, tmp_path, plan_of(generator))
    before = snapshot(tmp_path)
    with pytest.raises(ConfigError, match=words) as refusal:
        prepare(tmp_path, plan_of(generator, **changes))
    assert refusal.value.key == "--out"
    assert snapshot(tmp_path) == before


def test_another_checkpoint_is_not_mixed_in(generator: LoadedGenerator, tmp_path: Path) -> None:
    prepare(tmp_path / "out", plan_of(generator))
    saved(tmp_path / "run", *CONDITIONAL, images=128)
    with pytest.raises(ConfigError, match=r"images: 64 -> 128(.|\n)*sha256: "):
        prepare(tmp_path / "out", plan_of(load_generator(tmp_path / "run")))


def test_a_folder_of_something_else_is_refused(generator: LoadedGenerator, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds other files"):
        prepare(tmp_path, plan_of(generator))
    (tmp_path / "thesis.tex").rename(tmp_path / "generation.json")
    with pytest.raises(ConfigError, match="unreadable"):
        prepare(tmp_path, plan_of(generator))


def test_one_writer_at_a_time_who_clears_up(generator: LoadedGenerator, tmp_path: Path) -> None:
    plan = plan_of(generator)
    prepare(tmp_path, plan)
    lock = FileLease(RunDir(tmp_path), patience=0)
    with pytest.raises(ConfigError, match="another process"), sole_writer(tmp_path):
        pass
    lock.release()
    (tmp_path / ".writing-abc").write_bytes(b"half")
    (tmp_path / "shard-000000.json.abc").write_bytes(b"half")
    with sole_writer(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".lock", "generation.json"]


def test_a_write_that_fails_leaves_no_shard(generator: LoadedGenerator, tmp_path: Path, monkeypatch: Any) -> None:
    plan = plan_of(generator)
    prepare(tmp_path, plan)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        list(make_here(generator, tmp_path, plan, [0]))
    assert os.listdir(tmp_path) == ["generation.json"]


def test_a_node_without_the_folder_is_told(generator: LoadedGenerator, tmp_path: Path) -> None:
    plan = plan_of(generator)
    with pytest.raises(ConfigError, match="does not see it"):
        check_visible(tmp_path, plan)
    prepare(tmp_path, plan)
    check_visible(tmp_path, plan)
    (tmp_path / "generation.json").write_text(json.dumps({"generator": {}}))
    with pytest.raises(ConfigError, match="does not see it"):
        check_visible(tmp_path, plan)


def test_sizes(generator: LoadedGenerator) -> None:
    assert plan_of(generator, shard_size=None).shard_size == 10_000
    large = LoadedGenerator(generator.network, generator.description)
    large.shape = (3, 256, 256)
    assert plan_of(large, shard_size=None).shard_size == 1365
    assert plan_of(generator, 41).num_shards == 3
    assert plan_of(generator, 40).num_shards == 2
    for number in (0, -1, MAX_SEED + 1):
        with pytest.raises(ConfigError, match="--num-samples"):
            plan_of(generator, number)
    with pytest.raises(ConfigError, match="--shard-size"):
        plan_of(generator, shard_size=0)
