"""Shards from a Ray cluster: the same bytes as from this process, also when a worker is killed on the way."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.state import title
from ganscale.config import ConfigError
from ganscale.inference.generator import LoadedGenerator
from ganscale.inference.load import load_generator
from ganscale.inference.shards import ShardPlan, make_plan, prepare
from ganscale.sample import main
from tests.processes import Command, descendants, snapshot
from tests.runs import MLP, saved

SAMPLE = (sys.executable, "-m", "ganscale.sample")
MANY = ("--num-samples", "32000", "--shard-size", "4000", "--format", "zip")


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_make_the_same_bytes(tmp_path: Path) -> None:
    saved(tmp_path / "run", *MLP)
    assert main([str(tmp_path / "run"), *MANY, "--out", str(tmp_path / "alone"), "--device", "cpu"]) == 0
    arguments = ("run", *MANY, "--out", "together", "--device", "cpu", "--workers", "2", "--address", "local")
    environment = {"RAY_ADDRESS": None, "OMP_NUM_THREADS": "1"}
    together = tmp_path / "together"
    with Command((*SAMPLE, *arguments), tmp_path / "sample.out", environment=environment, cwd=tmp_path) as command:
        command.until(lambda: any(together.glob("shard-*.json")), 200)
        victims = [pid for pid in descendants(command.process.pid) if title(pid).startswith("ray::_make")]
        assert victims, command.report("no worker makes anything")
        os.kill(victims[0], signal.SIGKILL)
        assert "made 32,000 samples" in command.succeed(200)
    assert snapshot(together) == snapshot(tmp_path / "alone")


@contextmanager
def no_cluster(_: object) -> Iterator[None]:
    """In place of a connection."""
    yield


def planned(folder: Path, device: str) -> tuple[LoadedGenerator, ShardPlan]:
    saved(folder / "run", *MLP)
    generator = load_generator(folder / "run")
    plan = make_plan(generator, 20, shard_size=10, format="npz", truncation=1.0, labels=None, device=device)
    return generator, plan


def test_a_cluster_without_what_is_asked_for_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    from ganscale.launch import generate

    monkeypatch.setattr(generate, "connected", no_cluster)
    for device, resources, words in (("cuda", {"CPU": 4.0}, "no GPU"), ("cpu", {"GPU": 4.0}, "no CPU")):
        monkeypatch.setattr(generate.ray, "cluster_resources", lambda found=resources: found)
        generator, plan = planned(tmp_path, device)
        with pytest.raises(ConfigError, match=words):
            list(generate.make_on_ray(generator, tmp_path / "out", plan, [0], num_workers=2))


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    from ganscale.launch import generate

    generator, plan = planned(tmp_path, "cpu")
    answer = generate._make(generator, tmp_path / "out", plan, 0)
    assert isinstance(answer, ConfigError)
    assert answer.key == "--out"
    prepare(tmp_path / "out", plan)
    assert generate._make(generator, tmp_path / "out", plan, 1) is None
    assert (tmp_path / "out" / "shard-000001.npz").exists()
