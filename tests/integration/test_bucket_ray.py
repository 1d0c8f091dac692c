"""A run in a bucket on a Ray cluster: a token that expires, and a stop request that costs no requests to the bucket."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import StorePath
from tests.buckets import Proxy, proxied_moto
from tests.integration.cluster import Cluster
from tests.integration.test_bucket import final, rows
from tests.integration.test_bucket_nodes import TORCHRUN
from tests.processes import TRAIN, final_state
from tests.runs import FIFTY, QUIET

LIMIT = 300.0
RUN = (*FIFTY, *QUIET, "cluster.timeout=60")

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with proxied_moto() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def cluster(proxy: Proxy) -> Iterator[Cluster]:
    """A cluster whose nodes have the bucket's variables."""
    with pytest.MonkeyPatch.context() as patch:
        proxy.server.use(patch)
        cluster = Cluster()
        yield cluster
        cluster.close()


def test_a_token_that_expires_ends_the_run_with_what_to_do_and_the_next_command_resumes(
    proxy: Proxy, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It expires after the second checkpoint. Restarted workers have the same token: all attempts fail alike."""
    place = proxy.server.use(monkeypatch)
    restarts = ["cluster.num_workers=2", "cluster.max_restarts=1", "cluster.restart_pause=1"]
    words = [*TRAIN, *RUN, *restarts, f"run.dir={place}", "run.name=a"]

    def disturb(method: str, path: str) -> object:
        return "expired" if any("000000000360/state" in each for _, each in proxy.requests) else None

    proxy.requests.clear()
    proxy.disturb = disturb
    with cluster.command(words, "expired", tmp_path) as command:
        assert command.wait(LIMIT) == 1, command.report("another code")
        assert "ExpiredToken; renew the credentials in the environment" in command.output
    proxy.disturb = lambda method, path: None
    with cluster.command(words, "renewed", tmp_path) as command:
        assert "resuming at 240 images" in command.succeed(LIMIT)
    straight = [sys.executable, *TORCHRUN, *RUN, f"run.dir={tmp_path}", "run.name=a"]
    subprocess.run(straight, check=True, timeout=LIMIT, cwd=tmp_path)
    assert final(f"{place}/a") == final_state(tmp_path / "a")
    assert rows(RunDir(f"{place}/a")) == rows(RunDir(tmp_path / "a"))


def test_a_stop_request_reaches_the_workers_and_they_ask_no_storage_for_it(
    proxy: Proxy, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = ["train.images=60000000", "log.every=600", "checkpoint.every=6000000", "cluster.num_workers=2"]
    words = [*TRAIN, *RUN, *long, f"run.dir={proxy.server.use(monkeypatch)}", "run.name=a"]
    row = " / 60,000,000 images "
    with cluster.command(words, "stopped", tmp_path) as command:
        command.until(lambda: row in command.output, LIMIT)
        proxy.requests.clear()
        shown = command.output.count(row)
        command.until(lambda: command.output.count(row) >= shown + 30, LIMIT)
        during = [path.rpartition("/")[2] for _, path in list(proxy.requests)]
        command.process.send_signal(signal.SIGTERM)
        assert command.wait(LIMIT) == 75, command.report("another code")
        assert "the same command resumes" in command.output
    assert "metrics.jsonl" in {path.split("/")[-2] for _, path in proxy.requests if path.count("/") > 2}, (
        "it goes there"
    )
    assert ".stop" not in during


def test_the_cause_of_a_failure_outlives_the_cluster(
    proxy: Proxy, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is killed, and no restart is allowed: the bucket has the command's log and the workers'."""
    place = proxy.server.use(monkeypatch)
    long = ["train.images=60000000", "log.every=600", "checkpoint.every=6000000", "cluster.max_restarts=0"]
    words = [*TRAIN, *RUN, *long, "cluster.num_workers=2", f"run.dir={place}", "run.name=a"]
    with cluster.command(words, "killed", tmp_path) as command:
        command.until(lambda: " / 60,000,000 images " in command.output, LIMIT)
        os.kill(cluster.workers()[0], signal.SIGKILL)
        assert command.wait(LIMIT) == 1, command.report("another code")
    run = RunDir(f"{place}/a").root
    assert isinstance(run, StorePath)
    found = {entry.key.partition("logs/")[2]: entry.key for entry in run.store.list((run / "logs").key)}
    names = {name.partition("/")[2] for name in found}
    assert {"driver.log", "01/cause.txt"} <= names
    assert any(name.endswith("raylet.out") for name in names), names
    assert any(name.rpartition("/")[2].startswith("worker-") for name in names), names
    (driver,) = [run.store.get(key)[0].decode() for name, key in found.items() if name.endswith("driver.log")]
    assert "starting 2 workers" in driver
    assert "TrainingError" in driver
