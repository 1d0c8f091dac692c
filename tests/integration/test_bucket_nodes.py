"""Jobs on a cluster of several hosts that share no folder: all they share is a bucket."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster.machines import Bridge, obstacle
from cluster.nodes import HEAD, LocalCluster
from ganscale.storage.run_dir import RunDir
from ganscale.sweep.results import read_entries
from ganscale.sweep.tuner import sweep_folder
from tests.buckets import moto
from tests.integration.test_bucket import final, rows
from tests.processes import ROOT, Command, final_state
from tests.sweep.sweeps import RING, ring_plan

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(obstacle() is not None, reason="namespaces cannot be made here"),
]
RUN = (
    *("train.images=240000", "checkpoint.every=24000", "log.every=24000", "log.samples_every=240000"),
    *("train.device=cpu", "wandb.mode=disabled"),
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ganscale.train")


class Hosts(NamedTuple):
    """A cluster whose hosts share a bucket only."""

    cluster: LocalCluster
    uri: str  # place in the bucket
    variables: Mapping[str, str]  # environment of the job's processes
    own: Path  # each host's own folder
    submit: Callable[..., Command]  # submits a job


@contextmanager
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """Three hosts of one CPU, with moto's server."""
    own, copy = tmp_path / "own", tmp_path / "checkout"
    own.mkdir()
    shutil.copytree(ROOT / "ganscale", copy / "ganscale", ignore=shutil.ignore_patterns("__pycache__"))
    with LocalCluster("bucket", folder=tmp_path / "cluster", nodes=3, cpus=1) as cluster:
        assert cluster.state is not None
        for name in cluster.state.nodes:  # temporary files and homes, and so all that Ray and we write
            subprocess.run(cluster.command(name, ["mount", "-t", "tmpfs", "own", str(own)]), check=True)
        with moto(Bridge(cluster.state.bridge).address(1)) as server:
            uri = server.use(monkeypatch)
            variables = {**server.environment, "TMPDIR": str(own), "HOME": str(own), "OMP_NUM_THREADS": "1"}
            options = ["--working-dir", str(copy), "--runtime-env-json", json.dumps({"env_vars": variables})]
            address = ["--address", cluster.state.dashboard]

            def submit(*words: str) -> Command:
                command = ["ray", "job", "submit", *address, *options, "--", "python", *words]
                environment = dict[str, str | None](cluster.environment())
                return Command(cluster.command(HEAD, command), tmp_path / "job.out", environment=environment)

            yield Hosts(cluster, uri, variables, own, submit)
            assert not list(own.iterdir()), "this host's folder is another one"


def test_a_submitted_job_needs_no_shared_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the bits of the same run in a folder; a second driver meanwhile is told who writes, since when."""
    with hosts(tmp_path, monkeypatch) as there:
        train = ["-m", "ganscale.train", f"run.dir={there.uri}", "run.name=a", "cluster.num_workers=2", *RUN]
        with there.submit(*train) as job:
            job.until(lambda: "24,000 / 240,000" in job.output, 600)
            words, variables = [sys.executable, *train], dict(there.variables)
            second = there.cluster.run(HEAD, words, env=variables, capture_output=True, text=True)
            assert second.returncode == 2, second.stdout + second.stderr
            assert "another process is writing to s3://" in second.stderr
            assert " on w" in second.stderr, "the writer's host"
            assert ", since 20" in second.stderr
            job.succeed(600)
        assert "run a is complete at 240,000 images" in job.output
        words = [sys.executable, *TORCHRUN, f"run.dir={tmp_path}", "run.name=a", *RUN]
        subprocess.run(words, check=True, timeout=600, cwd=tmp_path)
        assert final(f"{there.uri}/a") == final_state(tmp_path / "a")
        assert [row["images"] for row in rows(RunDir(f"{there.uri}/a"))] == list(range(24_000, 240_001, 24_000))


def test_a_submitted_sweep_needs_no_shared_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members of a population on different hosts exchange states; test_search_bucket.py compares what they find."""
    draws = {"optim.lr_g, optim.lr_d": {"loguniform": [1e-7, 1e-1]}, "optim.betas_g.0": {"uniform": [0.0, 0.9]}}
    settings = {"scheduler": "pbt", "quantile": 0.5, "num_configs": 2, "confirm_seeds": 0, "metrics": ["frechet"]}
    text = {"sweep": {"name": "try", **settings}, "set": {**RING, "cluster.address": "auto"}, "space": draws}
    with hosts(tmp_path, monkeypatch) as there:
        (tmp_path / "checkout" / "try.yaml").write_text(json.dumps(text), encoding="utf-8")
        with there.submit("-m", "ganscale.tune", "try.yaml", f"sweep.dir={there.uri}") as job:
            job.succeed(900)
        assert "2 at a time" in job.output, "a host has room for one, so they are on two"
        plan = ring_plan(Path(), draws, **settings, dir=there.uri)
        trials = sweep_folder(plan).trials
        entries = read_entries(trials, plan.metrics, plan.sweep.sweep)
        assert [entry.status for entry in entries] == ["complete"] * 2
        rates = [[row.drawn for row in entry.rows] for entry in entries]
        assert any(before != after for each in rates for before, after in pairwise(each)), "no trial was replaced"
