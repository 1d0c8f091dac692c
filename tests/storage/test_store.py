"""Stores: the same promises by a local folder and by two servers that speak S3, also when requests fail."""

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ganscale.config import ConfigError
from ganscale.storage import store as stores
from ganscale.storage.store import (
    PART,
    BucketStore,
    ChangedError,
    LocalStore,
    StorageAccessError,
    Store,
    StorePath,
    folders,
    open_place,
    remove,
)
from tests.buckets import BUCKET, Proxy, Server, ceph, moto

SERVERS = {"moto": lambda folder: moto(), "ceph": ceph}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with SERVERS[request.param](tmp_path_factory.mktemp("ceph")) as started:
        yield started


@pytest.fixture(scope="module", params=["local", *SERVERS])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | None]:
    if request.param == "local":
        yield None
        return
    with SERVERS[request.param](tmp_path_factory.mktemp("ceph")) as started:
        yield started


@pytest.fixture
def store(kind: Server | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return BucketStore(kind.use(monkeypatch)) if kind else LocalStore(tmp_path / "store")


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    made = Proxy(server)
    yield made
    made.close()


def together(number: int, action: Callable[[int], bool]) -> list[int]:
    """Call it in threads that start at one moment; return those that succeeded."""
    barrier = threading.Barrier(number)

    def run(index: int) -> bool:
        barrier.wait()
        return action(index)

    with ThreadPoolExecutor(number) as pool:
        return [index for index, won in enumerate(pool.map(run, range(number))) if won]


def succeeds(refusal: type[Exception], action: Callable[[], Any]) -> bool:
    try:
        action()
    except refusal:
        return False
    return True


def test_what_is_put_is_there_until_it_is_deleted(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.get("a/b.txt")
    assert store.list() == []
    store.delete("a/b.txt")
    store.put("a/b.txt", b"one")
    etag = store.put("a/b.txt", b"two!")
    store.put("a/c", b"")
    store.put("ab", memoryview(b"three"))
    assert store.get("a/b.txt") == (b"two!", etag)
    assert store.get("a/c")[0] == b""
    assert [(entry.key, entry.size) for entry in store.list()] == [("a/b.txt", 4), ("a/c", 0), ("ab", 5)]
    assert [entry.key for entry in store.list("a")] == ["a/b.txt", "a/c"], "a prefix is whole parts of a key"
    assert store.stat("a/b.txt").etag == etag == store.list("a")[0].etag
    store.delete("a/b.txt")
    assert [entry.key for entry in store.list()] == ["a/c", "ab"]
    with pytest.raises(FileNotFoundError):
        store.stat("a/b.txt")


def test_of_50_that_create_an_object_one_succeeds(store: Store) -> None:
    won = together(50, lambda i: succeeds(FileExistsError, lambda: store.create("race", b"writer %d" % i)))
    assert len(won) == 1
    assert store.get("race")[0] == b"writer %d" % won[0]
    with pytest.raises(FileExistsError):
        store.create("race", b"late")
    assert store.get("race")[0] == b"writer %d" % won[0]


def test_a_stale_version_is_not_replaced(store: Store) -> None:
    first = store.create("lease", b"one")
    second = store.replace("lease", b"two", first)
    with pytest.raises(ChangedError):
        store.replace("lease", b"stale", first)
    assert store.get("lease") == (b"two", second)
    won = together(20, lambda i: succeeds(ChangedError, lambda: store.replace("lease", b"writer %d" % i, second)))
    assert len(won) == 1
    assert store.get("lease")[0] == b"writer %d" % won[0]
    store.delete("lease")
    with pytest.raises(ChangedError):
        store.replace("lease", b"gone", second)
    with pytest.raises(FileNotFoundError):
        store.get("lease")


def test_no_increment_of_a_counter_is_lost(store: Store) -> None:
    store.create("counter", b"0 start")

    def increment(text: str) -> bool:
        content, etag = store.get("counter")
        return succeeds(
            ChangedError, lambda: store.replace("counter", f"{int(content.split()[0]) + 1} {text}".encode(), etag)
        )

    def count(writer: int) -> bool:
        for number in range(3):
            while not increment(f"{writer}-{number}"):
                pass
        return True

    together(4, count)
    assert store.get("counter")[0].split()[0] == b"12"


def test_lists_of_more_keys_than_a_page_are_whole(store: Store) -> None:
    keys = [f"many/{number:04d}" for number in range(1010)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.put(key, b"x"), keys))
    assert [entry.key for entry in store.list("many")] == keys


def test_large_objects_travel_in_parts(store: Store) -> None:
    content = os.urandom(2 * PART + 5)
    etag = store.put("large", content)
    assert store.get("large")[0] == content
    assert store.stat("large").size == len(content)
    if isinstance(store, BucketStore):
        assert store.list()[0].etag.strip('"').endswith("-3"), "three parts"
    else:
        assert etag == store.stat("large").etag


def test_paths_of_a_store_are_like_those_of_a_folder(store: Store) -> None:
    root = StorePath(store)
    (root / "run" / "a.json").write_text("größe")
    (root / "run" / "b" / "c").write_text("2")
    assert (root / "run/a.json").read_text() == "größe"
    assert sorted(path.name for path in (root / "run").iterdir()) == ["a.json", "b"]
    there = {"run/a.json": True, "run/b": True, "run/b/c": True, "run/x": False, "ru": False}
    assert {name: (root / name).exists() for name in there} == there
    assert (root / "run/b").is_dir()
    assert not (root / "run/a.json").is_dir()
    assert str(root / "run" / "b") == f"{store.place}/run/b"
    assert (root / "run" / "b").parent == root / "run"
    assert root.parent.name == store.place.rpartition("/")[0].rpartition("/")[2]
    remove(root / "run")
    assert store.list() == []


DISTURBANCES = [500, 503, "reset", "lost", 0.2]


@pytest.mark.parametrize("how", DISTURBANCES)
def test_disturbed_requests_are_repeated(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, how: object) -> None:
    store = BucketStore(proxy.server.use(monkeypatch))
    left = [0]

    def disturb(method: str, path: str) -> object:
        left[0] -= 1
        return how if left[0] >= 0 else None

    proxy.disturb = disturb

    def disturbed(action: Callable[[], Any]) -> Any:
        left[0] = 2
        result = action()
        assert left[0] < 2, "requests were disturbed"
        return result

    etag = disturbed(lambda: store.create("a", b"first"))
    assert disturbed(lambda: store.get("a")) == (b"first", etag)
    etag = disturbed(lambda: store.replace("a", b"second", etag))
    assert disturbed(lambda: store.stat("a")).etag == etag
    disturbed(lambda: store.put("b", b"third"))
    content = os.urandom(PART + 1)
    disturbed(lambda: store.put("large", content))
    assert disturbed(lambda: store.get("large"))[0] == content
    assert [entry.key for entry in disturbed(store.list)] == ["a", "b", "large"]
    disturbed(lambda: store.delete("a"))
    assert [entry.key for entry in store.list()] == ["b", "large"]
    with pytest.raises(FileExistsError):
        disturbed(lambda: store.create("b", b"other"))


def test_requests_that_keep_failing_end_at_the_deadline(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = proxy.server.use(monkeypatch)
    proxy.disturb = lambda method, path: 503
    with pytest.raises(OSError, match=r"503 Service Unavailable SlowDown.*s3://") as caught:
        BucketStore(uri, deadline=1.0).put("a", b"1")
    assert not isinstance(caught.value, PermissionError)
    assert len(proxy.requests) > 2
    proxy.requests.clear()
    with pytest.raises(OSError, match="503"):
        BucketStore(uri).quick.put("a", b"1")
    assert len(proxy.requests) == 1, "what is repeated soon anyway is tried once"


def test_an_expired_token_is_said_at_once(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BucketStore(proxy.server.use(monkeypatch))
    store.put("a", b"1")
    proxy.requests.clear()
    proxy.disturb = lambda method, path: "expired"
    actions: list[Callable[[], Any]] = [
        lambda: store.put("a", b"2"),
        lambda: store.get("a"),
        lambda: store.create("b", b"2"),
        store.list,
    ]
    for action in actions:
        with pytest.raises(StorageAccessError, match=r"ExpiredToken.*renew the credentials.*AWS_ACCESS_KEY_ID"):
            action()
    assert len(proxy.requests) == len(actions), "no request is repeated"
    proxy.disturb = lambda method, path: None
    assert store.get("a")[0] == b"1"


def test_a_bucket_is_checked_before_work_starts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = server.use(monkeypatch)
    BucketStore(uri).check("run.dir")
    assert BucketStore(uri).list() == [], "the check leaves nothing"
    with pytest.raises(ConfigError, match=r"run.dir = s3://no-such-bucket/x: there is no such bucket\n  remedy: "):
        BucketStore("s3://no-such-bucket/x").check("run.dir")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"run.dir = s3://.*cannot be used.*\n  remedy: check the network"):
        BucketStore(uri, deadline=0.0).check("run.dir")


def test_refused_access_is_said_before_work_starts(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = proxy.server.use(monkeypatch)
    proxy.disturb = lambda method, path: 403
    with pytest.raises(ConfigError, match=r"run.dir = s3://.*access is refused \(403 .*\n  remedy: renew the cred"):
        BucketStore(uri).check("run.dir")


def test_storage_that_ignores_conditions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As some servers do, among them rclone's: two writers could not be kept apart."""
    with moto() as started:
        proxy = Proxy(started)
        uri = proxy.server.use(monkeypatch)
        proxy.disturb = lambda method, path: "unconditional"
        with pytest.raises(ConfigError, match="ignores conditional writes"):
            BucketStore(uri).check("run.dir")
        proxy.close()


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("s3://key:secret@bucket/runs", "has credentials or options in it"),
        ("s3://bucket/runs?endpoint=http://x", "has credentials or options in it"),
        ("ftp://host/runs", "its scheme is unknown"),
        ("s3:///runs", "names no bucket"),
        ("file://host/runs", "names another machine's file"),
    ],
)
def test_uris_that_name_no_place_are_refused(uri: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=f"run.dir = .*{problem}\n  remedy: ") as caught:
        open_place(uri, key="run.dir")
    assert "secret" not in str(caught.value)


def test_a_path_and_a_file_uri_name_local_folders(tmp_path: Path) -> None:
    assert open_place(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert open_place("runs/a") == Path("runs/a")
    assert open_place("~/runs") == Path.home() / "runs"
    place = open_place(f"s3://{BUCKET}/a/")
    assert str(place / "b") == f"s3://{BUCKET}/a/b"
    for scheme in stores.CREDENTIALS:
        assert str(open_place(f"{scheme}://bucket")) == f"{scheme}://bucket"


def test_what_is_being_written_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)

    def stop(*_: object) -> None:
        assert [entry.key for entry in store.list()] == []
        raise OSError("full")

    monkeypatch.setattr(stores, "sync_folder", stop)
    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(OSError, match="full"):
        store.put("a", b"1")
    assert os.listdir(tmp_path) == []


def test_folders_are_one_level_below(store: Store) -> None:
    for key in ("a/b/c", "a/b/d", "a/e", "f/g", "h"):
        store.put(key, b"1")
    assert [list(store.folders(prefix)) for prefix in ("", "a", "none")] == [["a", "f"], ["b"], []]
    assert list(folders(StorePath(store, "a"))) == ["b"]
    if isinstance(store, LocalStore):
        assert list(folders(store.path / "a")) == ["b"]


def test_a_pickled_store_knows_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Tune keeps what it pickles, in the bucket."""
    store = BucketStore(Server("http://127.0.0.1:9", "the-key", "the-secret").use(monkeypatch), deadline=1.0)
    assert store._client is not None
    text = pickle.dumps(StorePath(store, "a"))
    assert b"the-key" not in text
    assert b"the-secret" not in text
    found = pickle.loads(text)
    assert (found.key, found.store.place, found.store.deadline) == ("a", store.place, 1.0)
