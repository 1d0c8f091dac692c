"""A job on a cluster of several hosts that share no folder: all they share is a bucket."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.machines import Bridge, obstacle
from cluster.nodes import HEAD, LocalCluster
from tests.buckets import moto
from tests.integration.test_bucket import final, rows
from tests.processes import ROOT, Command, final_state

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(obstacle() is not None, reason="namespaces cannot be made here"),
]
RUN = ("train.images=96000", "checkpoint.every=24000", "log.every=24000", "train.device=cpu", "wandb.mode=disabled")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ganscale.train")


def test_a_submitted_job_needs_no_shared_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with the bits of the same run in a folder; a second driver meanwhile is told who writes, since when."""
    own, copy = tmp_path / "own", tmp_path / "checkout"
    own.mkdir()
    shutil.copytree(ROOT / "ganscale", copy / "ganscale", ignore=shutil.ignore_patterns("__pycache__"))
    with LocalCluster("bucket", folder=tmp_path / "cluster", nodes=3, cpus=1) as cluster:
        assert cluster.state is not None
        for (
            name
        ) in cluster.state.nodes:  # temporary files and homes, and so all that Ray and we write, are the host's own
            subprocess.run(cluster.command(name, ["mount", "-t", "tmpfs", "own", str(own)]), check=True)
        with moto(Bridge(cluster.state.bridge).address(1)) as server:
            uri = server.use(monkeypatch)
            variables = {**server.environment, "TMPDIR": str(own), "HOME": str(own), "OMP_NUM_THREADS": "1"}
            options = ["--working-dir", str(copy), "--runtime-env-json", json.dumps({"env_vars": variables})]
            train = ["python", "-m", "ganscale.train", f"run.dir={uri}", "run.name=a", "cluster.num_workers=2", *RUN]
            submit = ["ray", "job", "submit", "--address", cluster.state.dashboard, *options, "--", *train]
            environment = dict[str, str | None](cluster.environment())
            with Command(cluster.command(HEAD, submit), tmp_path / "job.out", environment=environment) as job:
                job.until(lambda: "24,000 / 96,000" in job.output, 600)
                second = cluster.run(HEAD, [sys.executable, *train[1:]], env=variables, capture_output=True, text=True)
                assert second.returncode == 2, second.stdout + second.stderr
                assert "another process is writing to s3://" in second.stderr
                assert " on w" in second.stderr, "the writer's host"
                assert ", since 20" in second.stderr
                job.succeed(600)
            assert "run a is complete at 96,000 images" in job.output
            assert not list(own.iterdir()), "this host's folder is another one"
            words = [sys.executable, *TORCHRUN, f"run.dir={tmp_path}", "run.name=a", *RUN]
            subprocess.run(words, check=True, timeout=600, cwd=tmp_path)
            assert final(f"{uri}/a") == final_state(tmp_path / "a")
            assert [row["images"] for row in rows(f"{uri}/a")] == [24000, 48000, 72000, 96000]
