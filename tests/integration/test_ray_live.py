"""`cluster.recovery: live` on Ray: a killed worker is replaced while the others stay in their processes."""

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.config import Config, load
from ganscale.run.heartbeats import read_heartbeats
from ganscale.run.session import run_worker
from ganscale.storage.failures import read_failures
from ganscale.storage.run_dir import RunDir
from ganscale.training.loop import Tick
from tests.chaos.live_campaign import RUN, outcome
from tests.integration.cluster import Cluster
from tests.live import wait_for_workers, want
from tests.processes import Command

pytest.importorskip("torchft", reason="torchft has wheels for CPython 3.11 on Linux only")
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("all_held_out")]

LIMIT = 600.0


def config(folder: Path) -> Config:
    live = ("cluster.recovery=live", "cluster.num_workers=2", "cluster.timeout=120")
    return load(overrides=(*RUN, *live, f"run.dir={folder.parent}", f"run.name={folder.name}"))


def hold(folder: Path, tick: Tick) -> None:
    """Wait at each tick until so many workers train as the test wants."""
    wait_for_workers(folder, 300.0)


def main(folder: Path) -> None:
    """The driver."""
    from ganscale.launch.ray_train import train_on_ray

    found = train_on_ray(config(folder), RunDir(folder), [partial(hold, folder)])
    print(f"ended at {found.images} images")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The end of the run that one worker computes by itself."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_worker(load(overrides=RUN), folder, device=torch.device("cpu"), echo=False)
    return outcome(folder)


def start(cluster: Cluster, folder: Path) -> Command:
    folder.parent.mkdir()
    want(folder, 9)  # more than there are: held until the test has done what it has to do
    program = [sys.executable, "-m", "tests.integration.test_ray_live", str(folder)]
    return cluster.command(program, "driver", folder.parent)


def ranks(folder: Path) -> dict[int, int]:
    """Rank to process, by the newest heartbeats."""
    return {each.rank: each.pid for each in read_heartbeats(RunDir(folder).heartbeats)}


def test_a_killed_worker_is_replaced_and_the_other_stays(
    cluster: Cluster, tmp_path: Path, undisturbed: tuple[dict[str, Any], list[dict[str, Any]]]
) -> None:
    folder = tmp_path / "runs" / "live"
    with start(cluster, folder) as command:
        command.until(lambda: len(ranks(folder)) == 2, LIMIT)
        before = ranks(folder)
        os.kill(before[0], signal.SIGKILL)
        command.until(lambda: ranks(folder).keys() == {0, 1} and before[0] not in ranks(folder).values(), LIMIT)
        assert ranks(folder)[0] == before[1], "the survivor is worker 0 now"
        want(folder, 2)
        assert "ended at 720 images" in command.succeed(LIMIT)
    state, rows = outcome(folder)
    torch.testing.assert_close(state, undisturbed[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rows, undisturbed[1], rtol=1e-9, atol=1e-9)


def test_when_all_die_the_run_resumes_from_storage(
    cluster: Cluster, tmp_path: Path, undisturbed: tuple[dict[str, Any], list[dict[str, Any]]]
) -> None:
    folder = tmp_path / "runs" / "live"
    with start(cluster, folder) as command:
        command.until(lambda: len(ranks(folder)) == 2, LIMIT)
        before = ranks(folder)
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        want(folder, 2)
        assert "ended at 720 images" in command.succeed(LIMIT)
    assert "all workers died" in read_failures(RunDir(folder).failures)[-1].what
    state, rows = outcome(folder)
    torch.testing.assert_close(state, undisturbed[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rows, undisturbed[1], rtol=1e-9, atol=1e-9)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
