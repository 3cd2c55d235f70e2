"""How the command finds its node, what it shows of a broken one, and which code it ends with."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from molia.base.errors import OUTCOMES
from molia.cli.client import Answer, refusal
from molia.cli.output import exit_code_of
from tests.cli.conftest import Run
from tests.cli.fake_node import TOKEN, FakeNode, running, write_private


def authorization(node: FakeNode) -> str | None:
    return node.world.requests[-1][2].get("Authorization")


def test_no_node_is_exit_13_and_names_molia_run(molia: Run, tmp_path: Path) -> None:
    ran = molia("ls")
    assert (ran.code, ran.out) == (13, "")
    assert ran.stderr == f"error: no node runs in {tmp_path / 'home'}. molia run starts it\n"


def test_a_node_that_was_killed_is_exit_13(molia: Run, tmp_path: Path) -> None:
    """Its node.json stays; its process is gone, so its ports may be another program's."""
    with running(tmp_path / "home") as node:
        pass
    known = json.loads((node.home / "node.json").read_text())
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)
    with running(tmp_path / "other", unix=False) as stranger:
        write_private(
            node.home / "node.json",
            json.dumps({**known, "pid": process, "urls": [stranger.url]}),
        )
        assert molia("ls").code == 13
        assert not stranger.world.requests


def test_the_unix_socket_is_preferred_and_needs_no_token(node: FakeNode, molia: Run) -> None:
    assert molia("ls").code == 0
    assert authorization(node) is None


def test_without_the_socket_tcp_is_asked_with_the_homes_token(molia: Run, tmp_path: Path) -> None:
    with running(tmp_path / "home", unix=False) as node:
        kept = node.world.add(b"x")
        assert molia("rm", kept.cid).code == 0
        assert authorization(node) == f"Bearer {TOKEN}"


def test_a_node_may_be_named_by_flag_and_variable(
    molia: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path / "elsewhere") as node:
        node.world.add(b"x")
        for name in (node.url, node.url + "/", f"unix:{node.socket}", f"unix://{node.socket}",
                     node.url.removeprefix("http://")):  # fmt: skip
            assert molia("ls", "--node", name).code == 0
            assert molia("--node", name, "ls").code == 0
        monkeypatch.setenv("MOLIA_NODE", node.url)
        assert molia("ls").code == 0
        assert molia("ls", "--node", "unix:/nowhere").code == 13


@pytest.mark.parametrize(
    "name",
    [
        "ftp://x",
        "http://",
        "http://h:99999",
        "http://h/path",
        "http://u:p@h",
        "http://[::1",
        "http://h\u00e9",
    ],
)
def test_what_is_no_address_is_exit_2(molia: Run, name: str) -> None:
    ran = molia("ls", "--node", name)
    assert ran.code == 2
    assert ran.stderr.endswith("Write http://HOST:PORT or unix:PATH\n")


def test_the_homes_token_is_not_shown_to_a_stranger(
    node: FakeNode, molia: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not loopback's is somebody else, unless node.json lists it."""
    real = socket.create_connection

    def connect(address: tuple[str, int], *rest: object, **named: object) -> socket.socket:
        return real(("127.0.0.1", address[1]), *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "create_connection", connect)
    port = node.url.rpartition(":")[2]
    assert molia("ls", "--node", f"http://stranger.example:{port}").code == 0
    assert authorization(node) is None
    assert molia("ls", "--node", node.url).code == 0
    assert authorization(node) == f"Bearer {TOKEN}"
    monkeypatch.setenv("MOLIA_TOKEN", "mine")
    assert molia("ls", "--node", f"http://stranger.example:{port}").code == 0
    assert authorization(node) == "Bearer mine"


def test_control_without_the_token_is_exit_8(molia: Run, tmp_path: Path) -> None:
    with running(tmp_path / "home", unix=False) as node:
        kept = node.world.add(b"x")
        (node.home / "api.token").unlink()
        assert molia("rm", kept.cid).code == 8
        assert kept.cid in node.world.blobs


def test_a_node_file_that_others_can_write_is_exit_8(node: FakeNode, molia: Run) -> None:
    (node.home / "node.json").chmod(0o666)
    ran = molia("ls")
    assert ran.code == 8
    assert f"chmod 700 {node.home}" in ran.stderr


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"socket": 5, "urls": {"a": 1}, "pid": "x"}', "[" * 5000,
             '{"urls": ["http://h:x", "ftp://y", 7]}', '{"socket": "/a/b", "pid": -1}'],
)  # fmt: skip
def test_a_broken_node_file_is_exit_13(node: FakeNode, molia: Run, text: str) -> None:
    write_private(node.home / "node.json", text)
    ran = molia("ls")
    assert ran.code == 13
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("where", ["ls", "put", "get", "stat", "rm"])
@pytest.mark.parametrize(
    ("garbage", "code"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", 5),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnot", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", 5),
        (b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 9999999999999999999\r\n\r\n", 5),
        (b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n", 2),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", 1),
        (b"HTTP/1.1 503 Busy\r\nContent-Type: a/json\r\nContent-Length: 3\r\n\r\n\xff{]", 5),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", 5),
        (b"", 5),
    ],
)  # fmt: skip
def test_whatever_answers_gives_one_line_and_a_code(
    node: FakeNode, molia: Run, where: str, garbage: bytes, code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("molia.cli.fetch.RETRY_AFTER_S", ())
    Path("f").write_bytes(b"x")
    cid = node.world.add(b"x").cid
    node.world.garbage = garbage
    if not garbage:
        node.world.down_for = 1000
    arguments = {"ls": ["ls"], "put": ["put", "f"], "get": ["get", cid], "stat": ["stat", cid],
                 "rm": ["rm", cid]}[where]  # fmt: skip
    ran = molia(*arguments)
    assert len(ran.stderr.splitlines()) <= 1
    assert "Traceback" not in ran.stderr
    if where == "rm" and garbage.startswith(b"HTTP/1.1 200") and code == 1:
        code = 0  # a removal needs no words of the node
    if where == "get" and b"Content-Length: 9" in garbage:
        code = 1  # asked by HEAD: it is the ETag that is missing
    early = where == "put" and code == 1  # 200 before the end of the body is no answer either
    assert ran.code in ((1, 5) if early else (code,))


@contextmanager
def deaf_server() -> Iterator[str]:
    """Give the URL of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


@pytest.mark.parametrize("verb", ["ls", "put"])
def test_silence_is_exit_5_after_the_timeout(molia: Run, verb: str) -> None:
    with Path("f").open("wb") as file:
        file.truncate(64 << 20)
    with deaf_server() as url:
        ran = molia(*([verb, "f"] if verb == "put" else [verb]), "--timeout", "1s", "--node", url)
    assert ran.code == 5
    assert "sent nothing for 1 s" in ran.stderr


@pytest.mark.parametrize("kind", list(OUTCOMES), ids=lambda kind: kind.__name__)
def test_every_problem_code_has_the_exit_code_of_its_row(kind: type) -> None:
    outcome = OUTCOMES[kind]
    body = {"code": outcome.code, "detail": "d", "title": outcome.title, "hint": "h"}
    headers = {"content-type": "application/problem+json"}
    error = refusal(Answer(outcome.status, headers, json.dumps(body).encode()))
    assert exit_code_of(error) == outcome.exit_code
    assert (error.message, error.hint) == ("d", "h")


@pytest.mark.parametrize(("status", "code"), [(404, 4), (401, 8), (507, 9), (504, 5), (418, 2)])
def test_an_unknown_problem_code_falls_back_to_its_status(status: int, code: int) -> None:
    body = json.dumps({"code": "of-a-later-version"}).encode()
    headers = {"content-type": "application/problem+json"}
    assert exit_code_of(refusal(Answer(status, headers, body))) == code
    assert exit_code_of(refusal(Answer(status, {}, b"<html>"))) == code
