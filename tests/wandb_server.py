"""A W&B server that keeps what it is sent in memory: as much of the protocol as a run, its resumption and a sync need.

It answers GraphQL, takes the lines of `file_stream` at their offsets, and takes files by PUT, those of artifacts too.
Nothing is checked but that the request carries an API key.
"""

import base64
import gzip
import json
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from tests.processes import free_port

ENTITY = "tester"
HISTORY, EVENTS, OUTPUT = "wandb-history.jsonl", "wandb-events.jsonl", "output.log"
KEY = "0123456789abcdef" * 2 + "01234567"
"""An API key of the right form; nobody's."""


@dataclass
class Artifact:
    """What has arrived of a version of an artifact.

    Attributes:
        name: of its collection.
        kind: its type.
        metadata: as JSON has it.
        aliases: of the version.
        maker: id of the run that logged it; empty for one that is only used.
        users: ids of the runs that use it.
        files: by name, the manifest among them.
        committed: whether all of it is here.
    """

    name: str
    kind: str
    metadata: dict[str, Any]
    aliases: list[str]
    maker: str
    users: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


@dataclass
class Run:
    """What has arrived of a run.

    Attributes:
        fields: the newest value of each field of `upsertBucket` (config and the like), as it was sent.
        lines: of each streamed file, by offset.
        rewritten: offsets of rows that arrived again with another content.
        files: uploaded files by name.
        alerts: title and text of each.
        exit_code: None while the run is in progress.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    rewritten: list[int] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    alerts: list[tuple[str, str]] = field(default_factory=list)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows in the order of their offsets."""
        return [json.loads(line) for _, line in sorted(self.lines.get(HISTORY, {}).items())]

    @property
    def config(self) -> dict[str, Any]:
        """The run's config without W&B's own part."""
        config = json.loads(self.fields["config"])
        return {key: entry["value"] for key, entry in config.items() if key != "_wandb"}

    def count(self, name: str) -> int:
        """How many lines a streamed file has."""
        return max(self.lines.get(name, {}), default=-1) + 1

    def tail(self, name: str) -> str:
        """The last line of a streamed file, as W&B wraps it."""
        return json.dumps([line for _, line in sorted(self.lines.get(name, {}).items())][-1:])

    def take(self, body: dict[str, Any]) -> None:
        """Take a request of `file_stream`."""
        for name, part in body.get("files", {}).items():
            lines = self.lines.setdefault(name, {})
            for offset, line in enumerate(part["content"], part["offset"]):
                if name == HISTORY and lines.get(offset, line) != line:
                    self.rewritten.append(offset)
                lines[offset] = line
        if body.get("complete"):
            self.exit_code = body.get("exitcode")


class WandbServer:
    """The server, at one port across restarts; what it has received outlives them.

    Attributes:
        runs: by id.
        artifacts: versions in the order in which they were made; an id is a position from 1 on.
        unknown: operations that were requested and that it does not know.
        requests: number of requests across restarts.
        delay: seconds before each answer.
        refuses: whether it refuses the key.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: list[Artifact] = []
        self.unknown: list[str] = []
        self.requests = 0
        self.delay = 0.0
        self.refuses = False
        self.lock = threading.Lock()
        self._port = free_port()
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to report here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def start(self) -> None:
        """Listen."""
        self._server = _Server(self, self._port)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def kill(self) -> None:
        """Drop all connections in the middle of what they are doing, and listen no more."""
        server, self._server = self._server, None
        if server is not None:
            server.cut()

    def __enter__(self) -> "WandbServer":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.kill()

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL operation."""
        run = str(given.get("name") or given.get("run") or given.get("runName") or "")
        if operation == "Viewer":
            return {
                "viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": {}}
            }
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if operation == "OrganizationCoreWeaveOrganizationID":
            return {"entity": {"organization": None}}
        if operation == "UpsertBucket":
            return {"upsertBucket": self._upsert(str(given.get("name") or given.get("id")), given)}
        if operation == "RunResumeStatus":
            return {"model": self._resumption(str(given.get("project")), run)}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/put/{run}/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}
        if operation == "NotifyScriptableRunAlert":
            self.runs[run].alerts.append((given["title"], given["text"]))
            return {"notifyScriptableRunAlert": {"success": True}}
        answered = self._answer_of_artifacts(operation, given)
        if answered is not None:
            return answered
        self.unknown.append(operation)
        return {}

    def _answer_of_artifacts(self, operation: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """The data of an operation on artifacts; None for other operations."""
        given = given.get("input") or given
        number = str(given.get("artifactID") or "")
        if operation == "CreateArtifact":
            made = Artifact(
                given["artifactCollectionName"],
                given["artifactTypeName"],
                json.loads(given.get("metadata") or "{}"),
                [each["alias"] for each in given.get("aliases") or []],
                given.get("runName") or "",
            )
            self.artifacts.append(made)
            number = str(len(self.artifacts))
            sequence = {"id": f"sequence-{made.name}", "latestArtifact": None}
            return {"createArtifact": {"artifact": {"id": number, "state": "PENDING", "artifactSequence": sequence}}}
        if operation in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            number = number or str(given.get("artifactManifestID") or "").removeprefix("manifest-")
            file = self._upload(number, "wandb_manifest.json")
            kind = operation[0].lower() + operation[1:]
            return {kind: {"artifactManifest": {"id": f"manifest-{number}", "file": file}}}
        if operation == "CreateArtifactFiles":
            files = [self._upload(str(each["artifactID"]), each["name"]) for each in given["artifactFiles"]]
            return {"createArtifactFiles": {"files": {"edges": [{"node": file} for file in files]}}}
        if operation == "CommitArtifact":
            self.artifacts[int(number) - 1].committed = True
            return {"commitArtifact": {"artifact": {"id": number, "digest": ""}}}
        if operation == "UseArtifact":
            self.artifacts[int(number) - 1].users.append(given["runName"])
            return {"useArtifact": {"artifact": {"id": number}}}
        return None

    def _upload(self, number: str, name: str) -> dict[str, Any]:
        """Where a file of an artifact goes."""
        url = f"{self.url}/artifacts/{number}/{name}"
        known = {"id": name, "name": name, "displayName": name, "uploadHeaders": [], "storagePath": None}
        return known | {"uploadUrl": url, "uploadMultipartUrls": None, "artifact": {"id": number}}

    def _upsert(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run())
        run.fields |= {key: value for key, value in given.items() if value is not None}
        return {"bucket": self._bucket(name, run), "inserted": inserted}

    def _bucket(self, name: str, run: Run) -> dict[str, Any]:
        project = run.fields.get("project") or "uncategorized"
        return {
            "id": name,
            "name": name,
            "displayName": run.fields.get("displayName") or name,
            "description": "",
            "config": run.fields.get("config") or "{}",
            "sweepName": "",
            "project": {"id": project, "name": project, "entity": {"id": ENTITY, "name": ENTITY}},
            "historyLineCount": run.count(HISTORY),
        }

    def _resumption(self, project: str, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None:
            return None
        summary = [line for _, line in sorted(run.lines.get("wandb-summary.json", {}).items())]
        bucket = self._bucket(name, run) | {
            "summaryMetrics": summary[-1] if summary else "{}",
            "logLineCount": run.count(OUTPUT),
            "eventsLineCount": run.count(EVENTS),
            "historyTail": run.tail(HISTORY),
            "eventsTail": run.tail(EVENTS),
            "tags": run.fields.get("tags") or [],
            "notes": run.fields.get("notes"),
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"id": project, "name": project, "entity": {"id": ENTITY, "name": ENTITY}, "bucket": bucket}


class _Server(ThreadingHTTPServer):
    """The server between a start and a kill."""

    daemon_threads, block_on_close, request_queue_size = True, False, 64

    def __init__(self, owner: WandbServer, port: int) -> None:
        self.owner = owner
        self.connections: set[socket.socket] = set()
        self.dead = False
        super().__init__(("127.0.0.1", port), _Handler)

    def cut(self) -> None:
        """Close everything at once."""
        self.dead = True
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing of a connection that was cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        assert isinstance(self.server, _Server)
        self.listener, self.owner = self.server, self.server.owner
        self.listener.connections.add(self.connection)

    def finish(self) -> None:
        self.listener.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._reply(404, {})

    def do_POST(self) -> None:
        """GraphQL and streams of lines."""
        content = self._body()
        if self.path.startswith("/sdk/otel/"):  # W&B's telemetry of itself
            return self._reply(404, {})
        body = json.loads(content)
        stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if not self._may_write():
            return self._reply(401, {"errors": [{"message": "invalid API key"}]})
        with self.owner.lock:
            if stream:
                self.owner.runs[stream.group(1)].take(body)
                answer: dict[str, Any] = {"exitcode": None, "limits": {}}
            else:
                found = re.search(r"\b(?:query|mutation)\s+(\w+)", body["query"])
                assert found, body["query"]
                answer = {"data": self.owner.answer(found.group(1), body.get("variables") or {})}
        return self._reply(200, answer)

    def do_PUT(self) -> None:
        """A file of a run, or of an artifact."""
        _, kind, owner, name = self.path.split("/", 3)
        content = self._body()
        with self.owner.lock:
            if kind == "artifacts":
                self.owner.artifacts[int(owner) - 1].files[name] = content
            else:
                self.owner.runs[owner].files[name] = content
        self._reply(200, {})

    def _may_write(self) -> bool:
        """Whether the key is there: as W&B sends it, by basic authentication."""
        kind, _, code = self.headers.get("Authorization", "").partition(" ")
        given = base64.b64decode(code).decode() if kind == "Basic" else ""
        return given == f"api:{KEY}" and not self.owner.refuses

    def _body(self) -> bytes:
        self.owner.requests += 1
        time.sleep(self.owner.delay)
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.listener.dead:
            raise ConnectionAbortedError
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def _reply(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
