"""A small honest node for the command's tests: the contract's routes over TCP and a Unix socket.

It keeps blobs in memory, hashes them really, answers ranges, and can be told to misbehave: to cut
an answer off, to refuse an upload before it is read, to give wrong bytes, to name files badly.
"""

import base64
import json
import os
import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import cbor2

from molia.base.cid import Cid, Codec
from molia.base.errors import (
    OUTCOMES,
    BlobNotFound,
    MoliaError,
    NoSpace,
    PreconditionFailed,
    RecordNotFound,
    TooFewShares,
    outcome_of,
)
from molia.base.hashing import blake3_digest
from molia.base.ids import PeerKey
from molia.base.limits import RAW_SIZE_STOP

PEER = str(PeerKey(bytes(31) + b"\x01"))
ADDRESS = f"molia://{PEER}@198.51.100.7:7071"
PEER_ROW = {"peer": PEER, "address": ADDRESS, "state": "verified", "rtt_ms": 12.5, "age_s": 3700.0,
            "has_session": True, "bucket": 0}  # fmt: skip
PONG = {"address": ADDRESS, "rtt_ms": 12.5, "serves": True, "seen_address": "203.0.113.9:1",
        "clock_offset_s": -0.25}  # fmt: skip
RESULT = {"closest": [{"peer": PEER, "address": "198.51.100.7:7071"}], "rpcs": 3, "took_ms": 38.0,
          "why": "the closest answered"}  # fmt: skip
REPAIR = {"cid": str(Cid(Codec.MANIFEST, bytes(32))), "state": "waiting", "reachable": 13,
          "needed": 10, "missing": 1, "due_s": 3_600.5}  # fmt: skip
UNWANTED = {"blobs": 2, "blob_bytes": 3_000, "trashed": 0, "trashed_bytes": 0, "held": 1,
            "held_bytes": 70, "doubt": ""}  # fmt: skip
TOKEN = "token-of-the-home"
JOB = "j" * 26


@dataclass
class Kept:
    """One blob."""

    cid: str
    body: bytes
    manifest: bytes
    name: str
    pinned: bool
    created_unix_ms: int
    expires_unix_s: int | None

    def row(self) -> dict[str, object]:
        """Return its line of the index."""
        return {
            "cid": self.cid, "size": len(self.body), "content": blake3_digest(self.body).hex(),
            "name": self.name, "created_unix_ms": self.created_unix_ms, "pinned": self.pinned,
            "expires_unix_s": self.expires_unix_s, "k": 10 if self.manifest else 1,
            "n": 14 if self.manifest else 1,
        }  # fmt: skip

    def trash_row(self) -> dict[str, object]:
        """Return what is said of it once it is removed."""
        return {"cid": self.cid, "size": len(self.body), "name": self.name, "pinned": self.pinned,
                "until_unix_s": 2_000_000_000}  # fmt: skip


@dataclass
class World:
    """What the node keeps, saw, and is told to do wrong."""

    blobs: dict[str, Kept] = field(default_factory=dict)
    removed: list[Kept] = field(default_factory=list)
    node: dict[str, object] = field(default_factory=dict)
    """More of what `GET /node` says."""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    """Each GET of a body takes one: the bytes after which the connection is cut."""
    down_for: int = 0
    """Connections to drop unanswered."""
    down_after_cut: int = 0
    full: bool = False
    """Answer 507 to a put after `read_before_full` bytes of its body, and close."""
    read_before_full: int = 0
    lie: bytes = b""
    """These bytes stand at the start of every body that is sent."""
    disposition: str | None = None
    state: str = "healthy"
    lost: bool = False
    ignore_ranges: bool = False
    silent_s: float = 0.0
    hold_s: float = 0.0
    """How long a body that is cut before its first byte, and a job's events, stay open."""
    garbage: bytes = b""
    events: list[dict[str, object]] = field(default_factory=list)
    progress: dict[str, object] = field(default_factory=dict)
    job_state: str = "done"
    elsewhere: str = ""
    """A blob that others have: a pin of it is a job."""
    cut_events_after: int = 0
    records: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    unwanted: dict[str, object] = field(default_factory=lambda: dict(UNWANTED))
    """Seq and value by name."""
    steps: list[dict[str, object]] = field(default_factory=list)
    """What a traced lookup streams; `kind` names each."""
    dht: dict[str, object] | None = None

    def add(self, body: bytes, *, name: str = "", pinned: bool = True) -> Kept:
        """Keep a blob as the node does; a large one's manifest is short of its real roots."""
        content = blake3_digest(body)
        manifest = b""
        cid = Cid(Codec.RAW, content)
        if len(body) >= RAW_SIZE_STOP:
            fields = {"k": 10, "n": 14, "v": 1, "size": len(body), "content": content}
            manifest = cbor2.dumps(fields, canonical=True)
            cid = Cid(Codec.MANIFEST, blake3_digest(manifest))
        created = int(time.time() * 1000) - len(self.blobs)
        kept = Kept(str(cid), body, manifest, name, pinned, created, None)
        self.blobs[str(cid)] = kept
        return kept

    def find(self, ref: str) -> Kept | None:
        """Return what a CID or a content hash names."""
        for kept in self.blobs.values():
            content = blake3_digest(kept.body)
            if ref in (kept.cid, content.hex(), str(Cid(Codec.RAW, content))):
                return kept
        return None


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    @property
    def world(self) -> World:
        return self.server.world

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def address_string(self) -> str:
        return "client"

    def handle_one_request(self) -> None:
        if self.world.down_for > 0:
            self.world.down_for -= 1
            self.close_connection = True
            return
        if self.world.garbage:
            self.wfile.write(self.world.garbage)
            self.close_connection = True
            return
        super().handle_one_request()

    def _route(self) -> None:
        self.close_connection = True
        self.world.requests.append((self.command, self.path, dict(self.headers.items())))
        time.sleep(self.world.silent_s)
        parts = urlsplit(self.path)
        segments = [unquote(part) for part in parts.path.strip("/").split("/")]
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        try:
            self._dispatch(segments, query)
        except MoliaError as error:
            self._problem(error)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _route  # noqa: N815

    def _dispatch(self, segments: list[str], query: dict[str, str]) -> None:
        match (self.command, *segments):
            case ("PUT" | "POST", "blob"):
                self._put(query)
            case ("GET", "blob" | "pin"):
                self._list(segments[0], query)
            case ("GET" | "HEAD", "blob", ref):
                self._get(self._find(ref))
            case ("GET", "blob", ref, "health"):
                self._json(200, self._health(self._find(ref)))
            case ("GET", "blob", ref, "manifest"):
                self._manifest(self._find(ref))
            case ("DELETE", "blob", ref):
                self._controls()
                self.world.removed.append(self.world.blobs.pop(self._find(ref).cid))
                self._send(204, b"", {})
            case ("PUT", "pin", ref) if ref == self.world.elsewhere:
                self._controls()
                row = {"cid": ref, "size": 100, "pinned": True}
                self._send(202, json.dumps(row).encode(), {"X-Molia-Job": JOB})
            case ("GET" | "PUT" | "DELETE", "pin", ref):
                kept = self._find(ref)
                if self.command != "GET":
                    self._controls()
                    kept.pinned = self.command == "PUT"
                self._json(200, kept.row())
            case (_, "trash" | "clock", *_):
                self._operate(segments)
            case ("GET", "node"):
                self._json(200, {"peer": PEER, "version": "0.1.0", "network": "molia", "api": [],
                                 "dht": self.world.dht, **self.world.node})  # fmt: skip
            case _:
                self._dispatch_network(segments, query)

    def _dispatch_network(self, segments: list[str], query: dict[str, str]) -> None:
        match (self.command, *segments):
            case ("GET", "record"):
                rows = [self._record(name) for name in self.world.records]
                self._json(200, {"records": rows})
            case ("PUT", "record", *name):
                self._put_record("/".join(name))
            case ("GET", "record", *name):
                self._get_record("/".join(name))
            case ("GET", "peers"):
                self._json(200, {"peers": [PEER_ROW]})
            case ("POST", "peers", peer, "ping"):
                self._controls()
                self._json(200, {"peer": peer, **PONG})
            case ("POST", "gc"):
                self._controls()
                self._json(200, self.world.unwanted | {"asked": json.loads(self._body())})
            case ("GET", "repair"):
                self._json(200, {"enabled": True, "repairs": [REPAIR], "repaired": 2,
                                 "shares_made": 5, "failed": 0})  # fmt: skip
            case ("POST", "repair"):
                self._controls()
                asked = json.loads(self._body())
                begun = "waiting" if asked["dry_run"] else "running"
                self._json(202, {**REPAIR, **asked, "state": begun, "due_s": None})
            case ("GET", "lookup", _) if query.get("trace") == "true":
                self.world.events = self.world.steps
                self._events()
            case ("GET", "lookup", key):
                self._json(200, {"key": key, **RESULT})
            case ("POST", "jobs"):
                self._controls()
                self.world.requests.append(("BODY", self._body().decode(), {}))
                self._json(202, {"id": JOB, "state": "queued", "progress": {}})
            case ("GET", "jobs", _):
                state = self.world.job_state
                self._json(200, {"id": JOB, "state": state, "error": "disk",
                                 "progress": self.world.progress})  # fmt: skip
            case ("DELETE", "jobs", _):
                self._json(200, {"id": JOB, "state": "cancelled", "progress": {}})
            case ("GET", "jobs", _, "events"):
                self._events()
            case _:
                raise BlobNotFound(self.path)

    def _operate(self, segments: list[str]) -> None:
        """Do what an operator of the store asks."""
        match (self.command, *segments):
            case ("GET", "trash"):
                self._json(200, {"blobs": [kept.trash_row() for kept in self.world.removed]})
            case ("POST", "trash", ref):
                self._controls()
                self._undelete(ref)
            case _:
                self._controls()
                self._send(204, b"", {})

    def _undelete(self, ref: str) -> None:
        found = [kept for kept in self.world.removed if kept.cid == ref]
        if not found:
            raise BlobNotFound(ref)
        self.world.removed.remove(found[0])
        self.world.blobs[ref] = found[0]
        self._json(200, found[0].row())

    def _record(self, name: str) -> dict[str, object]:
        seq, value = self.world.records[name]
        return {"address": f"{PEER}/{name}", "seq": seq, "expires": int(time.time()) + 86_000,
                "size": len(value)}  # fmt: skip

    def _put_record(self, name: str) -> None:
        self._controls()
        held = self.world.records[name][0] if name in self.world.records else 0
        condition, value = self.headers.get("If-Match"), self._body()
        fails = condition is not None and condition != f'"{held}"'
        if fails or (held and self.headers.get("If-None-Match") == "*"):
            raise PreconditionFailed("the record has another seq", hint="read it")
        self.world.records[name] = held + 1, value
        self._json(201, {**self._record(name), "acks": 20})

    def _get_record(self, name: str) -> None:
        name = name.removeprefix(f"{PEER}/")
        if name not in self.world.records:
            raise RecordNotFound(name)
        seq, value = self.world.records[name]
        if "json" in self.headers.get("Accept", ""):
            encoded = base64.b64encode(value).decode()
            self._json(200, {**self._record(name), "value": encoded})
        else:
            self._send(200, value, {"ETag": f'"{seq}"'})

    def _find(self, ref: str) -> Kept:
        kept = self.world.find(ref)
        if kept is None:
            raise BlobNotFound(ref)
        return kept

    def _controls(self) -> None:
        """Refuse control over TCP without the token."""
        over_tcp = self.server.address_family != socket.AF_UNIX
        if over_tcp and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, json.dumps({"code": "unauthorized", "detail": "a token is needed"})
                       .encode(), {"Content-Type": "application/problem+json"})  # fmt: skip
            raise ConnectionAbortedError

    def _put(self, query: dict[str, str]) -> None:
        if self.world.full:
            self.rfile.read(self.world.read_before_full)
            raise NoSpace("the disk is full", hint="delete something")
        body = self._body()
        if self.headers.get("Content-Length") and len(body) < int(self.headers["Content-Length"]):
            return  # cut off: nothing is kept
        known = self.world.find(blake3_digest(body).hex())
        pinned = query.get("pin") != "false"
        kept = known or self.world.add(body, name=query.get("name", ""), pinned=pinned)
        if "expires" in query:
            kept.expires_unix_s = int(query["expires"])
        row = kept.row()
        result = {key: row[key] for key in ("cid", "size", "content", "k", "n")}
        result |= {"holders": 1, "survives": 0, "state": self.world.state}
        self._json(200 if known else 201, result)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _get(self, kept: Kept) -> None:
        if self.world.lost:
            raise TooFewShares(kept.cid, stripe_index=0, sound_count=9, needed=10)
        body = self.world.lie + kept.body[len(self.world.lie) :]
        headers = {"ETag": f'"{kept.cid}"', "Content-Type": "application/octet-stream"}
        name = f"attachment; filename=\"x\"; filename*=UTF-8''{quote(kept.name)}"
        headers["Content-Disposition"] = self.world.disposition or (
            name if kept.name else "attachment"
        )
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status = 200
        if match and not self.world.ignore_ranges and self._same(kept):
            start, stop = int(match[1]), int(match[2] or len(body) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{min(stop, len(body)) - 1}/{len(body)}"
            status, body = 206, body[start:stop]
        headers["Content-Length"] = str(len(body))
        if self.command == "GET" and self.world.cut_after:
            self._cut(status, headers, body[: self.world.cut_after.pop(0)])
            return
        self._send(status, body, headers)

    def _same(self, kept: Kept) -> bool:
        return self.headers.get("If-Range", f'"{kept.cid}"') == f'"{kept.cid}"'

    def _cut(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()
        if not body:
            time.sleep(self.world.hold_s)
        self.world.down_for = self.world.down_after_cut
        if self.server.address_family != socket.AF_UNIX:
            linger = struct.pack("ii", 1, 0)  # closing sends a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _health(self, kept: Kept) -> dict[str, object]:
        return {"cid": kept.cid, "state": self.world.state, "survives": 0, "spare_shares": 4,
                "estimate_loss_per_year": None, "shares": []}  # fmt: skip

    def _manifest(self, kept: Kept) -> None:
        if not kept.manifest:
            raise BlobNotFound(kept.cid)
        if "cbor" in self.headers.get("Accept", ""):
            self._send(200, kept.manifest, {"Content-Type": "application/vnd.ipld.dag-cbor"})
        else:
            self._json(200, {"cid": kept.cid, "size": len(kept.body), "k": 10, "n": 14})

    def _list(self, kind: str, query: dict[str, str]) -> None:
        """Give pages of two, whatever the limit, so that every test pages."""
        rows = [kept for kept in self.world.blobs.values() if kind == "blob" or kept.pinned]
        if query.get("state") == "at-risk" and self.world.state == "healthy":
            rows = []
        start = int(query.get("cursor", 0))
        more = str(start + 2) if start + 2 < len(rows) else None
        self._json(200, {"blobs": [kept.row() for kept in rows[start : start + 2]], "next": more})

    def _events(self) -> None:
        after = int(self.headers.get("Last-Event-ID", 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = 0
        for index, event in enumerate(self.world.events, start=1):
            if index <= after:
                continue
            if sent == self.world.cut_events_after > 0:
                return
            data = json.dumps({key: value for key, value in event.items() if key != "kind"})
            frame = f":\n\nid: {index}\nevent: {event['kind']}\ndata: {data}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(frame), frame))
            sent += 1
        self.wfile.flush()
        time.sleep(self.world.hold_s)
        self.wfile.write(b"0\r\n\r\n")

    def _problem(self, error: MoliaError) -> None:
        outcome = outcome_of(error)
        body = {"type": f"/docs/errors#{outcome.code}", "title": outcome.title,
                "status": outcome.status, "detail": error.message, "code": outcome.code,
                "hint": error.hint}  # fmt: skip
        self._send(outcome.status, json.dumps(body).encode(),
                   {"Content-Type": "application/problem+json"})  # fmt: skip

    def _json(self, status: int, body: object) -> None:
        self._send(status, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    world: World

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left is no news."""


class _UnixServer(_Server):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)


@dataclass
class FakeNode:
    """A running fake."""

    world: World
    home: Path
    url: str
    socket: str


@contextmanager
def running(home: Path, *, unix: bool = True, tcp: bool = True) -> Iterator[FakeNode]:
    """Give a node that answers in `home`, with its node.json and token."""
    home.mkdir(mode=0o700, exist_ok=True)
    world = World()
    servers: list[_Server] = [_Server(("127.0.0.1", 0), Handler)] if tcp else []
    url = f"http://127.0.0.1:{servers[0].server_address[1]}" if tcp else ""
    path = str(home / "api.sock")
    if unix:
        servers.append(_UnixServer(path, Handler))  # type: ignore[arg-type]
    for server in servers:
        server.world = world
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    write_private(home / "api.token", TOKEN + "\n")
    known = {"v": 1, "pid": os.getpid(), "socket": path, "urls": [url] if tcp else [],
             "token_file": str(home / "api.token"), "peer": PEER}  # fmt: skip
    write_private(home / "node.json", json.dumps(known))
    try:
        yield FakeNode(world, home, url, path)
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.write_text(text)
    path.chmod(0o600)


assert all(outcome.exit_code for outcome in OUTCOMES.values())
