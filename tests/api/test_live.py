"""A real server on real sockets: curl, clients that misbehave, shutting down."""

import asyncio
import http.client
import json
import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from blake3 import blake3

from molia.api.listeners import bind
from molia.base import limits
from molia.base.cid import Ref
from molia.base.config import ApiConfig
from molia.base.errors import BadConfig, CannotListen, NoSpace
from molia.base.views import BlobInfo
from molia.node.service import BlobReader
from tests.api.asgi import TOKEN
from tests.api.fake_node import CHUNK
from tests.api.live import WAIT_S, LiveServer, running

DATA = os.urandom(1_000_003)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with running(tmp_path_factory.mktemp("home")) as live:
        yield live


@pytest.fixture
def live(server: LiveServer, caplog: pytest.LogCaptureFixture) -> Iterator[LiveServer]:
    """The server with an empty node; whatever a client does is no error in the log."""
    node = server.node
    node.kept.clear()
    node.admit_error = node.read_fails_at = None
    node.chunks_read = node.chunks_taken = node.puts_failed = 0
    yield server
    assert [record.getMessage() for record in caplog.get_records("call")] == []


def connect(live: LiveServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", live.port), timeout=WAIT_S)


def read_all(sock: socket.socket) -> bytes:
    found = b""
    while chunk := sock.recv(65536):
        found += chunk
    return found


def wait_for(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


# ---------------------------------------------------------------------------- curl

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(*arguments: str, stdin: bytes = b"") -> tuple[str, dict[str, str]]:
    """Run curl; return what it printed and its own figures."""
    figures = "\n%{http_code} %{size_upload} %{exitcode}"
    command = ["curl", "-sS", "--max-time", "60", "-w", figures, *arguments]
    output = subprocess.run(command, input=stdin, capture_output=True, check=False).stdout
    body, _, line = output.decode("latin-1").rpartition("\n")
    code, uploaded, status = line.split()
    return body, {"code": code, "uploaded": uploaded, "exit": status}


@needs_curl
def test_every_way_of_curl_stores_the_same_blob(live: LiveServer, tmp_path: Path) -> None:
    path = tmp_path / "f.bin"
    path.write_bytes(DATA)
    name, url = str(path), live.url
    answers = [
        curl("-T", name, f"{url}/blob"),
        curl("-T", name, f"{url}/blob/"),
        curl("-T", "-", f"{url}/blob", stdin=DATA),
        curl("-T", "-", f"{url}/blob/", stdin=DATA),
        curl("--data-binary", f"@{name}", f"{url}/blob"),
        curl("-F", f"file=@{name}", f"{url}/blob"),
        curl("-F", f"file=@{name}", "-F", "name=f.bin", f"{url}/blob"),
        curl("-X", "PUT", "--http1.0", "-T", name, f"{url}/blob"),
        curl("--unix-socket", str(live.socket_path), "-T", name, "http://molia/blob"),
        curl("-H", "Expect: 100-continue", "-T", name, f"{url}/blob"),
    ]
    assert len({body for body, _ in answers}) == 1
    assert [figures["code"] for _, figures in answers] == ["201"] + ["200"] * 9
    assert [options.name for options in live.node.puts[-10:]] == [
        *("", "f.bin", "", "", "", "f.bin", "f.bin", "", "", ""),
    ]
    cid = answers[0][0].strip()
    out = tmp_path / "out"
    curl("-o", str(out), f"{url}/blob/{cid}")
    assert out.read_bytes() == DATA
    out.write_bytes(DATA[:700_000])
    curl("-C", "-", "-o", str(out), f"{url}/blob/{cid}")
    assert out.read_bytes() == DATA, "curl resumes"
    curl("-O", "-J", "--output-dir", str(tmp_path), f"{url}/blob/{cid}")
    assert (tmp_path / cid).read_bytes() == DATA


@needs_curl
def test_a_refused_upload_sends_nothing_and_its_answer_is_read(
    live: LiveServer, tmp_path: Path
) -> None:
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    live.node.admit_error = NoSpace("the store is full")
    body, figures = curl("-H", "Expect: 100-continue", "-T", str(path), f"{live.url}/blob")
    assert (figures["code"], figures["uploaded"]) == ("507", "0")
    assert json.loads(body)["code"] == "no-space"
    body, figures = curl("-H", "Expect:", "-T", str(path), f"{live.url}/blob")
    assert figures["code"] == "507", "without Expect the answer is readable too"
    assert json.loads(body)["code"] == "no-space"
    live.node.admit_error = None
    wrong = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
    body, figures = curl("-H", f"Content-Digest: {wrong}", "-T", str(path), f"{live.url}/blob")
    assert (figures["code"], live.node.kept) == ("422", {})


@needs_curl
def test_a_blob_that_breaks_off_is_an_error_for_curl(live: LiveServer) -> None:
    body, _ = curl("-T", "-", f"{live.url}/blob", stdin=DATA)
    live.node.read_fails_at = 2 * CHUNK
    _, figures = curl("-o", os.devnull, f"{live.url}/blob/{body.strip()}")
    assert figures["exit"] == "18", "transfer closed with bytes outstanding"
    live.node.read_fails_at = 0
    _, figures = curl(f"{live.url}/blob/{body.strip()}")
    assert (figures["code"], figures["exit"]) == ("502", "0")


# ---------------------------------------------------------------------------- sockets


def put_head(size: int) -> bytes:
    return b"PUT /blob HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size


def test_a_client_that_leaves_after_its_body_cancels_nothing(live: LiveServer) -> None:
    for data in (b"small", DATA[:60_000], DATA[:200_000]):
        with connect(live) as sock:
            sock.sendall(put_head(len(data)) + data)
        wait_for(partial(_is_kept, live, blake3(data).digest()))
    assert live.node.puts_failed == 0


def _is_kept(live: LiveServer, content: bytes) -> bool:
    return any(kept.info.content == content for kept in list(live.node.kept.values()))


def test_an_upload_cut_off_in_the_middle_leaves_nothing(live: LiveServer) -> None:
    with connect(live) as sock:
        sock.sendall(put_head(100_000) + bytes(50_000))
    with connect(live) as sock:
        sock.sendall(b"PUT /blob HTTP/1.1\r\nHost: x\r\nHost: localhost\r\n\r\n")
        assert b" 421 " in sock.recv(100)
    with connect(live) as sock:
        chunked = b"PUT /blob HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        sock.sendall(chunked + b"5\r\nhello\r\nZZ\r\n")
        read_all(sock)
    wait_for(lambda: live.node.puts_failed == 2)
    assert not live.node.kept


def test_a_client_that_leaves_a_download_stops_the_reading(live: LiveServer) -> None:
    class Endless:
        """Far more bytes than any socket buffers, without the memory."""

        def __getitem__(self, part: slice) -> bytes:
            return bytes(part.stop - part.start)

    body, _ = curl("-T", "-", f"{live.url}/blob", stdin=DATA)
    kept = next(iter(live.node.kept.values()))
    kept.info = replace(kept.info, size=1 << 40)
    kept.data = Endless()  # type: ignore[assignment]
    with connect(live) as sock:
        sock.sendall(f"GET /blob/{body.strip()} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        sock.recv(1000)
        wait_for(lambda: live.node.chunks_read > 1)
        read = live.node.chunks_read
    wait_for(lambda: len(_tasks(live)) == 0)
    assert live.node.chunks_read < read + 400, "back pressure holds"


@pytest.mark.parametrize("waits_for", ["opening", "the first chunk", "a later chunk"])
def test_a_client_that_leaves_while_others_are_waited_for_ends_the_read(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch, waits_for: str
) -> None:
    """As a blob is read whose holders say nothing: of any size, and before its head is out."""
    began, ended = threading.Event(), threading.Event()

    async def wait_long() -> None:
        began.set()
        try:
            await asyncio.sleep(60.0)
        finally:
            ended.set()

    @dataclass
    class Silent:
        info: BlobInfo

        async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
            if waits_for == "a later chunk":
                yield bytes(10)
            await wait_long()
            yield bytes(stop - start)

    body, _ = curl("-T", "-", f"{live.url}/blob", stdin=DATA)
    info = next(iter(live.node.kept.values())).info

    async def open_blob(_ref: Ref, *, local_only: bool = False) -> BlobReader:
        del local_only
        if waits_for == "opening":
            await wait_long()
        return Silent(info)

    monkeypatch.setattr(live.node, "open_blob", open_blob)
    with connect(live) as sock:
        sock.sendall(f"GET /blob/{body.strip()} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert began.wait(10)
    assert ended.wait(5), "it is read on for nobody"
    wait_for(lambda: len(_tasks(live)) == 0)


def _tasks(live: LiveServer) -> list[object]:
    async def names() -> list[object]:
        tasks = asyncio.all_tasks()
        return [task for task in tasks if "run_asgi" in repr(task.get_coro())]

    return live.call(names)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PUT /blob HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"PUT /blob HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * limits.REQUEST_HEAD_MAX * 5,
        b"GET /" + b"a" * limits.REQUEST_HEAD_MAX * 5,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100_000,
    ],
)
def test_what_is_no_http_gets_a_problem_and_no_more(live: LiveServer, request_bytes: bytes) -> None:
    with connect(live) as sock:
        try:
            sock.sendall(request_bytes)
            answer = read_all(sock)
        except (ConnectionResetError, BrokenPipeError):
            return  # it sent on after the answer; that it was cut off is what counts
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "bad-request"


def test_a_slow_head_is_cut_off(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUEST_HEAD_WAIT_S", 0.05)
    with connect(live) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        assert read_all(sock) == b""


@pytest.mark.parametrize(
    "lines", [b"a: b\r\n" * 10_000, b"a" * 60_000], ids=["fields", "one field"]
)
def test_what_follows_a_body_does_not_go_on_for_ever(live: LiveServer, lines: bytes) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(live) as sock:
        sock.sendall(head + b"4\r\nbody\r\n0\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            sock.sendall(lines * 500)


@pytest.mark.parametrize("more", [b"\r\n", b"4\r\nbody\r\n"], ids=["nothing", "a body"])
def test_a_connection_on_which_nothing_is_asked_ends_whatever_else_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    monkeypatch.setattr(limits, "KEEP_ALIVE_S", 1)
    fields = b"Transfer-Encoding: chunked\r\n" if len(more) > 2 else b""
    with running(tmp_path) as live, connect(live) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n")
        assert b" 200 " in sock.recv(1000)
        with suppress(ConnectionResetError, BrokenPipeError):  # it may have ended before that came
            sock.sendall(more)
            assert b"HTTP" not in read_all(sock)


def test_too_many_connections_get_a_503(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(live) as first:
        first.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in first.recv(1000)
        monkeypatch.setattr(limits, "CONNECTIONS_MAX", 1)
        with connect(live) as second:
            answer = read_all(second)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after" in answer


def test_one_connection_serves_many_requests_and_offers_of_http2(live: LiveServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=WAIT_S)
    upgrade = {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAM"}
    for number in range(20):
        connection.request("PUT", "/blob", body=b"%d" % number)
        assert connection.getresponse().read().startswith(b"bafkr4i")
        connection.request("HEAD", "/node")
        assert connection.getresponse().read() == b""
    connection.request("GET", "/healthz", headers=upgrade)
    with closing(connection), connection.getresponse() as answer:
        assert answer.status == 200


def test_a_bug_is_a_500_problem_over_the_wire_and_the_server_stays(
    live: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    live.node.admit_error = ZeroDivisionError("our mistake")
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=WAIT_S)
    connection.request("PUT", "/blob", body=b"x")
    with closing(connection), connection.getresponse() as answer:
        assert (answer.status, json.loads(answer.read())["code"]) == (500, "failed")
    live.node.admit_error = None
    assert curl("-T", "-", f"{live.url}/blob", stdin=b"x")[1]["code"] == "201"
    wait_for(lambda: any(record.exc_info for record in caplog.records))
    caplog.clear()


def test_events_arrive_as_they_happen(live: LiveServer) -> None:
    view = live.call(lambda: live.node.start_verify([]))
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=WAIT_S)
    connection.request("GET", f"/jobs/{view.id}/events")
    answer = connection.getresponse()
    for number in (1, 2):
        live.loop.call_soon_threadsafe(live.node.tell, view.id, "progress")
        lines = [answer.readline() for _ in range(4)]
        assert lines[:2] == [b"id: %d\n" % number, b"event: progress\n"]
    answer.close()
    connection.close()
    wait_for(lambda: len(_tasks(live)) == 0)


# ---------------------------------------------------------------------------- binding, stopping


def test_stopping_ends_event_streams_and_removes_the_socket(tmp_path: Path) -> None:
    with running(tmp_path) as live:
        view = live.call(lambda: live.node.start_verify([]))
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=WAIT_S)
        connection.request("GET", f"/jobs/{view.id}/events")
        answer = connection.getresponse()
        began = time.monotonic()
    assert time.monotonic() - began < limits.SHUTDOWN_S / 2
    with closing(connection), answer:
        assert answer.read() == b""
    assert not (tmp_path / "api.sock").exists()


def test_an_upload_under_way_may_end_while_the_server_stops(tmp_path: Path) -> None:
    with running(tmp_path) as live:
        sock = connect(live)
        sock.sendall(put_head(10) + b"01234")
        wait_for(lambda: live.node.chunks_taken == 1)
        live.loop.call_soon_threadsafe(live.stop.set)
        wait_for(lambda: not _accepts(live))
        sock.sendall(b"56789")
        assert b" 201 " in read_all(sock)
        sock.close()


def _accepts(live: LiveServer) -> bool:
    try:
        connect(live).close()
    except OSError:
        return False
    return True


def test_the_unix_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    listeners = bind(ApiConfig(listen=("127.0.0.1:0",)), home / "run" / "api.sock")
    try:
        assert stat.S_IMODE((home / "run").stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "run" / "api.sock").stat().st_mode) == 0o600
        with pytest.raises(CannotListen, match="another program"):
            bind(ApiConfig(listen=()), home / "run" / "api.sock")
    finally:
        for sock in listeners.sockets:
            sock.close()
    again = bind(ApiConfig(listen=()), home / "run" / "api.sock")  # what a kill -9 left behind
    again.close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(CannotListen, match="no socket"):
        bind(ApiConfig(listen=()), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(BadConfig, match="at most 100 bytes"):
        bind(ApiConfig(listen=()), tmp_path / ("long" * 30))


@pytest.mark.parametrize(
    "address", ["0.0.0.0:7070", "[::]:7070", "192.0.2.1:80", "example.com:80", "127.0.0.1", "x", ""]
)
def test_what_is_not_loopback_or_no_address_is_refused(address: str) -> None:
    with pytest.raises(BadConfig) as caught:
        bind(ApiConfig(listen=(address,)), None)
    assert caught.value.setting == "api.listen"


def test_required_auth_may_listen_anywhere() -> None:
    config = ApiConfig(listen=("0.0.0.0:0", "localhost:0"), auth="required")
    listeners = bind(config, None)
    assert [url.rpartition(":")[0] for url in listeners.urls] == [
        "http://0.0.0.0",
        "http://127.0.0.1",
    ]
    listeners.close()


def test_a_taken_port_is_named() -> None:
    first = bind(ApiConfig(listen=("127.0.0.1:0",)), None)
    port = first.urls[0].rpartition(":")[2]
    with pytest.raises(CannotListen, match=port):
        bind(ApiConfig(listen=(f"127.0.0.1:{port}",)), None)
    first.close()


def test_the_token_works_over_the_wire(live: LiveServer) -> None:
    body, _ = curl("-T", "-", f"{live.url}/blob", stdin=b"x")
    target = f"{live.url}/blob/{body.strip()}"
    assert curl("-X", "DELETE", target)[1]["code"] == "401"
    bearer = f"Authorization: Bearer {TOKEN}"
    assert curl("-X", "DELETE", "-H", bearer, target)[1]["code"] == "204"
