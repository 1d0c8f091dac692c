"""What the doctor looks at on a node, on this machine: files, connections, W&B, an all-reduce."""

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ganscale.diagnosis import Link, Node, Storage
from ganscale.runtime import probe
from tests.processes import free_port


def test_a_description_has_the_fields_of_a_node() -> None:
    facts = probe.describe()
    node = Node("here", **facts)
    assert node.versions.keys() == {"python", "ray", "torch", "ganscale"}
    assert "missing" not in node.versions.values()
    assert 0 < node.available_gb <= node.memory_gb
    assert node.shm_gb > 0
    assert probe._version("ganscale-no-such-package") == "missing"


def test_the_fingerprint_is_of_the_code(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "below").mkdir(parents=True)
    (package / "below" / "a.py").write_text("x = 1")
    first = probe.state_hash(package)
    (package / "notes.txt").write_text("no code")
    assert probe.state_hash(package) == first
    (package / "below" / "a.py").write_text("x = 2")
    assert probe.state_hash(package) != first


def test_nodes_see_each_others_files(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    for name in ("0", "1"):
        storage = Storage(**probe.write(folder, name))
        assert not storage.problem
        assert storage.free_gb == pytest.approx(shutil.disk_usage(tmp_path).free / 1e9, rel=0.1)
        assert storage.seconds > 0
    assert sorted(os.listdir(folder)) == ["0", "0.d", "1", "1.d"]
    assert (folder / "0").stat().st_size == 1 << 20
    assert probe.look(folder, ["0", "1"]) == []
    assert probe.look(folder, ["0", "2"], patience=0.1) == ["2"]
    probe.clean(folder)
    assert not folder.exists()
    assert probe.look(folder, ["0"], patience=0.0) == ["0"]


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    problem = Storage(**probe.write(tmp_path / "file" / "folder", "0"))
    assert "Not a directory" in problem.problem
    assert problem.free_gb > 0


def test_storage_that_loses_a_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: None if to.exists() else real(path, to))
    assert probe.write(tmp_path, "0")["problem"] == "a renamed file has other content"


def test_connections_are_measured() -> None:
    ports = {name: probe.listen() for name in ("a", "b")}
    targets = [(name, "127.0.0.1", port) for name, port in ports.items()] + [("c", "127.0.0.1", free_port())]
    links = {name: Link(**fields) for name, fields in probe.connect(targets, "b", patience=2.0).items()}
    assert not links["a"].problem + links["b"].problem
    assert "refused" in links["c"].problem
    assert links["a"].megabytes is None
    assert (links["b"].megabytes or 0) > 10
    assert 0 < links["a"].milliseconds < 1000


class Site(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [200, 403, 404])
def test_any_answer_of_wandb_will_do(site: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", f"{site}/{status}")
    assert probe.reach_wandb() == ""


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "nothing", "https://no-such-host.invalid"])
def test_wandb_is_out_of_reach(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", address)
    assert address in probe.reach_wandb()


def reduce(rank: int, port: int) -> dict[str, float]:
    return probe.all_reduce(rank, 2, "127.0.0.1", port, "gloo", 60.0)


@pytest.mark.multiprocess
def test_an_all_reduce_is_measured() -> None:
    import multiprocessing

    store, port = probe.open_store(2)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.starmap(reduce, [(0, port), (1, port)], chunksize=1)
    assert all(result["megabytes"] > 1 and 0 < result["milliseconds"] < 1000 for result in results)
    del store
