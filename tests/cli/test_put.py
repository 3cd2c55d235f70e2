"""`molia put` against a node that really keeps what it is sent."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.cid import Cid, Codec
from molia.base.hashing import blake3_digest
from molia.cli.put import _own_name
from tests.cli.conftest import Run, spawn
from tests.cli.fake_node import FakeNode


def raw_cid(body: bytes) -> str:
    return str(Cid(Codec.RAW, blake3_digest(body)))


def objects(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_a_file_arrives_whole_and_its_cid_is_all_that_is_printed(
    node: FakeNode, molia: Run, size: int
) -> None:
    body = os.urandom(size)
    Path("f.bin").write_bytes(body)
    ran = molia("put", "f.bin")
    (kept,) = node.world.blobs.values()
    assert kept.body == body
    assert kept.name == "f.bin"
    assert kept.pinned
    assert (ran.code, ran.out, ran.stderr) == (0, kept.cid + "\n", "")


def test_a_known_length_is_said_and_stdin_is_chunked(node: FakeNode, molia: Run) -> None:
    Path("f").write_bytes(b"abc")
    molia("put", "f")
    molia("put", "-", stdin=b"x" * 2_500_000)
    (_, _, file_headers), (_, path, stdin_headers) = node.world.requests
    assert file_headers["Content-Length"] == "3"
    assert stdin_headers["Transfer-Encoding"] == "chunked"
    assert "name" not in path
    assert node.world.find(raw_cid(b"x" * 2_500_000))


def test_wishes_become_query_parameters(node: FakeNode, molia: Run) -> None:
    Path("f").write_bytes(b"abc")
    before = int(time.time())
    flags = ("--name", "ä &?/b", "--wait", "local", "--no-pin", "--expires", "30d")
    assert molia("put", "f", *flags).code == 0
    (kept,) = node.world.blobs.values()
    assert (kept.name, kept.pinned) == ("ä &?/b", False)
    assert kept.expires_unix_s is not None
    assert 0 <= kept.expires_unix_s - before - 30 * 86_400 <= 60
    assert "wait=local" in node.world.requests[0][1]
    assert molia("put", "f", "--expires", "2000000000").code == 0
    assert kept.expires_unix_s == 2_000_000_000


def test_several_files_give_a_line_each(node: FakeNode, molia: Run) -> None:
    Path("a").write_bytes(b"a")
    Path("b").write_bytes(b"b")
    assert molia("put", "a", "b").out == f"{raw_cid(b'a')}  a\n{raw_cid(b'b')}  b\n"
    assert molia("put", "-q", "a", "b").out == f"{raw_cid(b'a')}\n{raw_cid(b'b')}\n"


def test_a_directory_is_stored_file_by_file_without_its_links(node: FakeNode, molia: Run) -> None:
    Path("d/inner").mkdir(parents=True)
    Path("d/b").write_bytes(b"b")
    Path("d/inner/a").write_bytes(b"a")
    Path("d/link").symlink_to("b")
    os.mkfifo("d/pipe")
    ran = molia("put", "-r", "d")
    assert ran.code == 0
    assert ran.out == f"{raw_cid(b'b')}  d/b\n{raw_cid(b'a')}  d/inner/a\n"
    assert "skipped: d/link is a symbolic link" in ran.stderr
    assert "skipped: d/pipe is no plain file" in ran.stderr
    assert len(node.world.blobs) == 2


def test_a_directory_without_r_is_refused_with_the_remedy(node: FakeNode, molia: Run) -> None:
    Path("d").mkdir()
    ran = molia("put", "d")
    assert (ran.code, ran.stderr) == (
        2, "error: d: is a directory. Add -r to store the files in it\n",
    )  # fmt: skip


def test_one_file_that_fails_does_not_stop_the_others(node: FakeNode, molia: Run) -> None:
    Path("b").write_bytes(b"b")
    ran = molia("put", "missing", "b", "--json")
    error, item, summary = objects(ran.out)
    assert (error["type"], error["path"], error["code"]) == ("error", "missing", "file-unusable")
    assert (item["type"], item["cid"], item["created"]) == ("item", raw_cid(b"b"), True)
    assert summary["type"] == "summary"
    assert (summary["stored"], summary["failed"], summary["exit_code"]) == (1, 1, 3)
    assert ran.code == 3
    assert molia("put", "missing", "also").code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_file_is_exit_8(node: FakeNode, molia: Run) -> None:
    Path("f").touch(0o000)
    assert molia("put", "f").code == 8


@pytest.mark.parametrize("over", ["unix", "tcp"])
@pytest.mark.parametrize("read_first", [0, 300_000])
def test_an_early_refusal_is_shown_though_the_body_was_not_read(
    node: FakeNode, molia: Run, over: str, read_first: int
) -> None:
    node.world.full, node.world.read_before_full = True, read_first
    with Path("big").open("wb") as file:
        file.truncate(64 << 20)
    where = f"unix:{node.socket}" if over == "unix" else node.url
    ran = molia("put", "big", "--node", where)
    assert (ran.code, ran.stderr) == (9, "error: big: the disk is full. Delete something\n")


def test_a_put_below_the_durability_floor_is_exit_7(node: FakeNode, molia: Run) -> None:
    node.world.state = "degraded"
    ran = molia("put", "-", stdin=b"x")
    assert (ran.code, ran.out) == (7, raw_cid(b"x") + "\n")
    assert "durability.floor" in ran.stderr


def test_a_file_that_shrinks_while_it_is_read_stores_nothing(node: FakeNode, molia: Run) -> None:
    """A sparse file is cut short by a second process while the node takes its first bytes."""
    with Path("f").open("wb") as file:
        file.truncate(512 << 20)
    process = spawn("put", "f")
    while not node.world.requests:
        time.sleep(0.005)
    os.truncate("f", 0)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert stderr == b"error: f: became shorter while it was read. Put f again\n"
    assert not node.world.blobs


def test_ctrl_c_is_one_line_and_exit_130(node: FakeNode) -> None:
    node.world.silent_s = 120
    process = spawn("put", "-", stdin=subprocess.PIPE)
    while not node.world.requests:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (130, b"error: interrupted\n")


def test_a_pipe_is_stored_as_it_flows(node: FakeNode) -> None:
    process = spawn("put", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    for piece in (b"one ", b"two ", b"three"):
        process.stdin.write(piece)
        process.stdin.flush()
        time.sleep(0.01)
    out, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, b"")
    assert out.decode().strip() == raw_cid(b"one two three")


def test_a_name_for_several_files_is_refused(node: FakeNode, molia: Run) -> None:
    assert molia("put", "a", "b", "--name", "x").code == 2
    assert molia("put", "a", "--name", "x" * 1025).code == 2
    assert molia("put", "a", "--expires", "soon").code == 2
    assert not node.world.requests


@pytest.mark.parametrize("name", ["new\nline", "tab\there", "bell\x07", "ünï", "a  b"])
def test_a_path_stays_on_its_line(node: FakeNode, molia: Run, name: str) -> None:
    Path(name).write_bytes(b"x")
    Path("other").write_bytes(b"y")
    ran = molia("put", name, "other")
    assert len(ran.out.splitlines()) == 2
    assert "\x07" not in ran.out
    kept = node.world.find(raw_cid(b"x"))
    assert kept is not None
    assert kept.name == name


def test_a_name_that_is_no_utf8_is_stored_and_printed_as_it_is(node: FakeNode, molia: Run) -> None:
    Path(os.fsdecode(b"n\xff")).write_bytes(b"x")
    ran = molia("put", os.fsdecode(b"n\xff"), "-q", "--json")
    assert ran.code == 0
    assert objects(ran.out)[0]["path"] == "n\udcff"
    plain = molia("put", "-r", ".")
    assert plain.stdout == raw_cid(b"x").encode() + b"  ./n\xff\n"


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=2000))
def test_a_blobs_name_is_utf8_of_a_bounded_size(name: str) -> None:
    own = _own_name(f"d/{name}")
    assert len(own.encode()) <= 1024
    assert name.startswith(own) or name in (".", "..")


class TestOnlyHash:
    """`--only-hash` needs no node and agrees with the golden vectors."""

    @pytest.mark.parametrize(
        ("size", "cid"),
        [
            (1, "bafkr4iaxoyx53wljurjzexlfof5mh3vccmqlm22ugqx54fisrvwk6ijbl4"),
            (1_000_000, "bafyr4ifxglj7722cgjf7y2brywyxbshye2vpsxcxjrsxggla7r2yuzcalq"),
            (2_621_441, "bafyr4ie6n3oakz6txssonexw745zklf2v3rtnyvv6cjoohmcv5fplicjau"),
        ],
    )
    def test_vectors_of_the_letter_a(self, molia: Run, size: int, cid: str) -> None:
        Path("a").write_bytes(b"a" * size)
        assert molia("put", "--only-hash", "a").out == cid + "\n"
        assert molia("put", "--only-hash", "-", stdin=b"a" * size).out == cid + "\n"

    def test_an_empty_file_has_a_cid(self, molia: Run) -> None:
        assert molia("put", "--only-hash", "-").out == raw_cid(b"") + "\n"

    def test_json_says_size_and_content(self, molia: Run) -> None:
        item, summary = objects(molia("put", "--only-hash", "-", "--json", stdin=b"abc").out)
        assert (item["size"], item["content"]) == (3, blake3_digest(b"abc").hex())
        assert summary["ok"] is True
