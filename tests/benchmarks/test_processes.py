"""Processor time by process: names, trees of processes that come and go, what counts as training."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmarks.speed.processes import Phase, Process, ProcessTree, portable, process_name, rows_after_start, table
from ganscale.config import load, parse

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("ray::TrainController.run", "TrainController"),
        ("ray::_RayTrainWorker__execute.f", "RayTrainWorker__execute"),
        ("ray::RayTrainWorker", "RayTrainWorker"),
        ("ray::IDLE", "IDLE"),
        ("/x/bin/python -m ganscale.train run.yaml", "driver"),
        ("/x/bin/python -u /x/ray/_private/workers/default_worker.py --node-ip=1", "IDLE"),
        ("/x/bin/python -u /x/ray/_private/log_monitor.py", "log_monitor.py"),
        ("/x/ray/core/src/ray/raylet/raylet --port=1", "raylet"),
    ],
)
def test_processes_have_short_names(line: str, name: str) -> None:
    assert process_name(line.split(" ")) == name


def test_a_tree_has_children_and_what_those_used_that_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE) as running:
        tree = ProcessTree(running.pid)
        until = time.monotonic() + 60.0
        while sum(tree.seconds().values()) < 0.25 or len(tree.seen) < 2:
            assert time.monotonic() < until
            tree.look()
        before = tree.seconds()
        assert running.stdin is not None
        running.stdin.close()
    tree.look()
    assert tree.seconds() == before, "what ended keeps its time"
    assert all(seconds < 0.25 for seconds in tree.since(before).values())
    assert os.getpid() not in tree.seen


def test_only_what_came_since_counts() -> None:
    tree = ProcessTree(1)
    tree.seen = {1: Process("driver", 0, 5.0), 7: Process("worker", 1, 2.0), 8: Process("worker", 1, 0.5)}
    assert tree.since({1: 4.0, 7: 2.0}) == {"driver": 1.0, "worker": 0.5}
    assert tree.named("worker") == [7, 8]


def test_a_row_after_the_last_start_is_training(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    assert not rows_after_start(log, restarts=0)
    lines = ["12:00 building mlp on ring for 2 workers on cpu", "12:01  8 / 16 images  50.0%  7 images/s  eta 0:01"]
    seen = []
    for line in lines * 2:
        with log.open("a") as file:
            file.write(f"{line}\n")
        seen.append([rows_after_start(log, restarts=restarts) for restarts in (0, 1)])
    assert seen == [[False, False], [True, False], [False, False], [False, True]]


def test_the_table_has_medians_and_ratios() -> None:
    found = {
        "here": [Phase("ray", {"driver": seconds}, 1.0) for seconds in (1.0, 2.0, 9.0)],
        "other": [Phase("ray", {"driver": 4.0, "gone": 4.0}, 1.0)],
    }
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(found).splitlines()]
    assert lines[0] == ["phase", "process", "here", "other", "ratio"]
    assert sorted(lines[2:]) == [
        ["ray", "all", "2.0", "8.0", "0.25"],
        ["ray", "driver", "2.0", "4.0", "0.50"],
        ["ray", "gone", "0.0", "4.0", "0.00"],
    ]
    alone = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table({"here": found["here"]}).splitlines()
    ]
    assert sorted(alone[2:]) == [["ray", "all", "2.0"], ["ray", "driver", "2.0"]]


@pytest.mark.parametrize("name", ["gaussians", "mnist_dcgan", "mnist_demo", "mnist_stylegan2"])
def test_a_run_is_the_same_without_its_defaults(name: str) -> None:
    config = load(Path(__file__).parents[2] / "configs" / f"{name}.yaml")
    settings = yaml.safe_load(portable(config))
    assert parse(settings) == config
    assert "wandb" not in settings, "all have their defaults"
