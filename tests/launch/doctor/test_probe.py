"""What is measured on a node, on this machine: files, connections, W&B, an all-reduce."""

import multiprocessing
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ganscale.launch.doctor import probe
from ganscale.launch.doctor.checks import NodeReport
from tests.processes import free_port


def test_a_description_has_the_fields_of_a_report() -> None:
    report = NodeReport("here", **probe.describe())
    assert {"python", "ray", "torch", "ganscale"} <= report.versions.keys()
    assert report.memory_gb > 0
    assert report.shm_gb > 0


def test_the_hash_is_of_the_code(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.py").write_text("x = 1")
    first = probe.code_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert probe.code_hash(tmp_path) == first
    (tmp_path / "below" / "a.py").write_text("x = 2")
    assert probe.code_hash(tmp_path) != first


def test_nodes_see_each_others_files(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    for name in ("0", "1"):
        fields = probe.write(folder, name)
        assert not fields["problems"]
        assert fields["free_gb"] == pytest.approx(shutil.disk_usage(tmp_path).free / 1e9, rel=0.1)
        assert fields["write_seconds"] > 0
    assert sorted(os.listdir(folder)) == ["0", "0.d", "1", "1.d"]
    assert (folder / "0").stat().st_size == 1 << 20
    assert probe.find_unseen(folder, {"0": "head", "1": "w1"}) == {"unseen": ()}
    assert probe.find_unseen(folder, {"0": "head", "2": "w2"}, timeout=0.1) == {"unseen": ("w2",)}
    probe.clean(folder)
    assert not folder.exists()
    assert probe.find_unseen(folder, {"0": "head"}, timeout=0.0) == {"unseen": ("head",)}


def test_faulty_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    fields = probe.write(tmp_path / "file" / "folder", "0")
    assert len(fields["problems"]) == 1
    assert fields["free_gb"] > 0
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: None if to.exists() else replace(path, to))
    assert len(probe.write(tmp_path, "0")["problems"]) == 1, "storage that loses a rename"


def test_connections_are_measured() -> None:
    targets = [("a", "127.0.0.1", probe.listen()), ("b", "127.0.0.1", probe.listen()), ("c", "127.0.0.1", free_port())]
    fields = probe.connect(targets, "b", timeout=2.0)
    assert fields["latency_ms"].keys() == {"a", "b"}
    assert fields["bandwidth_mb"].keys() == {"b"}
    assert fields["bandwidth_mb"]["b"] > 10
    (problem,) = fields["problems"]
    assert str(targets[2][2]) in problem


class Site(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/") or 404))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def test_any_response_of_wandb_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for status in (200, 403, 404):
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}/{status}")
            assert probe.reach_wandb() == {"problems": []}
        server.shutdown()
    for address in (f"http://127.0.0.1:{free_port()}", "nothing", "https://no-such-host.invalid"):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        assert address in probe.reach_wandb()["problems"][0]


def reduce(rank: int, port: int) -> dict[str, Any]:
    return probe.all_reduce(rank, 2, "127.0.0.1", port, "gloo", 60.0)


@pytest.mark.multiprocess
def test_an_all_reduce_is_measured() -> None:
    port = probe.open_store(2)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.starmap(reduce, [(0, port), (1, port)], chunksize=1)
    for result in results:
        assert result.pop("backend") == "gloo"
        assert result.keys() == {"all_reduce_ms", "all_reduce_mb"}
        assert all(value > 0 for value in result.values())
