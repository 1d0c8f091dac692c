"""Servers that speak S3 for tests: moto's, Ceph's gateway where it is installed, and a proxy that disturbs requests."""

import http.client
import json
import logging
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any, ClassVar

import pytest

from tests.processes import free_port

BUCKET = "runs"
CEPH = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph")
CEPH_MISSING = "Ceph's gateway is not installed (apt-get install --no-install-recommends radosgw ceph-mon ceph-osd)"

_CONFIG = """[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon}
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
crash dir = {folder}
mon data = {folder}/mon
mon data avail crit = 0
mon allow pool size one = true
osd data = {folder}/osd
osd objectstore = memstore
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
rgw data = {folder}
rgw frontends = beast endpoint=127.0.0.1:{port}
"""


@dataclass(frozen=True)
class Server:
    """A server with the bucket `BUCKET`."""

    endpoint: str
    key: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
        }

    def use(self, patch: pytest.MonkeyPatch) -> str:
        """Set this process's environment; return the URI of a new place in the bucket."""
        for name, value in self.environment.items():
            patch.setenv(name, value)
        return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"


def _make_bucket(server: Server) -> None:
    import boto3

    boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        region_name="us-east-1",
    ).create_bucket(Bucket=BUCKET)


@contextmanager
def moto(address: str = "127.0.0.1") -> Iterator[Server]:
    """moto's server, in threads of this process, at an address of this machine."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    started = ThreadedMotoServer(address, port=0, verbose=False)
    started.start()
    try:
        host, port = started.get_host_and_port()
        server = Server(f"http://{host}:{port}", "moto-key", "moto-secret")
        _make_bucket(server)
        yield server
    finally:
        started.stop()


@contextmanager
def ceph(folder: Path) -> Iterator[Server]:
    """Ceph's gateway with one monitor and one OSD that keeps objects in memory; skips where Ceph is not installed."""
    if not all(map(shutil.which, CEPH)):
        pytest.skip(CEPH_MISSING)
    port, mon, fsid, osd = free_port(), free_port(), str(uuid.uuid4()), str(uuid.uuid4())
    for name in ("mon", "osd"):
        (folder / name).mkdir(parents=True)
    (folder / "keyring").touch()
    (folder / "ceph.conf").write_text(_CONFIG.format(fsid=fsid, mon=mon, port=port, folder=folder))

    def run(*command: str) -> str:
        done = subprocess.run(
            [command[0], "-c", str(folder / "ceph.conf"), *command[1:]], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    try:
        run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{mon}]", "--fsid", fsid, str(folder / "monmap"))
        run("ceph-mon", "-i", "a", "--mkfs", "--monmap", str(folder / "monmap"))
        run("ceph-mon", "-i", "a")
        run("ceph", "osd", "new", osd)
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        run("ceph-osd", "-i", "0")
        run("radosgw", "-n", "client.admin")
        user = run("radosgw-admin", "-n", "client.admin", "user", "create", "--uid=tests", "--display-name=tests")
        keys = json.loads(user[user.index("{") :])["keys"][0]
        server = Server(f"http://127.0.0.1:{port}", keys["access_key"], keys["secret_key"])
        until = time.monotonic() + 120
        while True:
            try:
                _make_bucket(server)
                break
            except Exception:
                assert time.monotonic() < until, (folder / "client.admin.log").read_text()[-2000:]
                time.sleep(0.2)
        yield server
    finally:
        for path in folder.glob("*.pid"):
            subprocess.run(["kill", "-9", path.read_text().strip()], check=False)


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that were killed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Proxy:
    """Passes requests on to a server, unless `disturb` says otherwise.

    `disturb(method, path)` returns None to pass a request on, a status such as 503 to answer with, "reset" to close
    the connection without passing it on, "lost" to pass it on and close without the answer, "expired" for the answer
    to an expired token, "unconditional" to pass it on without its conditions, seconds (a float) to wait first, or a
    function that gets another one, which passes the request on, and returns whether the client is to hear the answer.
    """

    def __init__(self, server: Server) -> None:
        self.disturb: Callable[[str, str], Any] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self.writing = Lock()  # moto's conditional writes are not atomic
        host = server.endpoint.removeprefix("http://")
        proxy, lock = self, Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            hop: ClassVar = {"connection", "transfer-encoding", "keep-alive"}

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

            def handle_one(self) -> None:
                with lock:
                    proxy.requests.append((self.command, self.path))
                    how = proxy.disturb(self.command, self.path)
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                if len(body) < length:  # the client died meanwhile
                    self.close_connection = True
                    return
                if isinstance(how, float):
                    time.sleep(how)
                    how = None
                if how == "reset":
                    self.hang_up()
                    return
                if isinstance(how, int) or how == "expired":
                    code = "ExpiredToken" if how == "expired" else "SlowDown"
                    self.answer(400 if how == "expired" else how, {}, f"<Error><Code>{code}</Code></Error>".encode())
                    return
                headers = dict(self.headers.items())
                if how == "unconditional":
                    headers = {k: v for k, v in headers.items() if k.lower() not in ("if-match", "if-none-match")}
                answers: list[tuple[int, dict[str, str], bytes]] = []

                def pass_on() -> None:
                    with proxy.writing if self.command != "GET" else nullcontext():
                        send()

                def send() -> None:
                    upstream = http.client.HTTPConnection(host, timeout=60)
                    upstream.request(self.command, self.path, body, headers)
                    answer = upstream.getresponse()
                    answers.append((answer.status, dict(answer.getheaders()), answer.read()))
                    upstream.close()

                heard = how(pass_on) if callable(how) else how != "lost"
                if not answers:
                    pass_on()
                if not heard:
                    self.hang_up()
                    return
                with suppress(OSError):  # the client has died
                    self.answer(*answers[0])

            def hang_up(self) -> None:
                self.close_connection = True
                with suppress(OSError):  # the client has closed it
                    self.connection.shutdown(socket.SHUT_RDWR)

            def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response_only(status)
                length = headers.get("Content-Length", str(len(content)))
                for name, value in headers.items():
                    if name.lower() not in (*self.hop, "content-length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815

        self._server = _QuietServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.server = Server(f"http://127.0.0.1:{self._server.server_address[1]}", server.key, server.secret)
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def proxied_moto() -> Iterator[Proxy]:
    """moto's server behind a proxy."""
    with moto() as server:
        proxy = Proxy(server)
        yield proxy
        proxy.close()
