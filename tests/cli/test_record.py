"""`molia record`: values go in and out as they are, conditions are sent, strangers' bytes tamed."""

import base64
import json
from pathlib import Path

import pytest

from molia.base.limits import RECORD_VALUE_MAX
from tests.cli.conftest import Run
from tests.cli.fake_node import PEER, FakeNode
from tests.cli.test_terminal import on_terminal


def test_put_takes_a_file_or_stdin_and_prints_the_address(node: FakeNode, molia: Run) -> None:
    Path("file").write_bytes(b"from a file")
    assert molia("record", "put", "news", "file").out == f"{PEER}/news\n"
    for words in ((), ("-",)):
        assert molia("record", "put", "a/b", *words, stdin=b"from stdin").out == f"{PEER}/a/b\n"
    assert node.world.records == {"news": (1, b"from a file"), "a/b": (2, b"from stdin")}
    receipt = json.loads(molia("record", "put", "news", "file", "--json").out)
    assert (receipt["type"], receipt["seq"], receipt["acks"]) == ("record", 2, 20)


def test_get_gives_the_bytes_exactly(node: FakeNode, molia: Run) -> None:
    value = bytes(range(256))
    node.world.records["a b/\u00fc"] = 5, value
    for address in ("a b/\u00fc", f"{PEER}/a b/\u00fc"):
        assert molia("record", "get", address).stdout == value
    shown = json.loads(molia("record", "get", "a b/\u00fc", "--json").out)
    assert (shown["type"], shown["seq"]) == ("record", 5)
    assert base64.b64decode(shown["value"]) == value


def test_consistent_is_asked_for(node: FakeNode, molia: Run) -> None:
    node.world.records["n"] = 1, b"x"
    assert molia("record", "get", "n", "--consistent").stdout == b"x"
    assert node.world.requests[-1][1] == "/record/n?consistent=true"


def test_what_a_stranger_signed_does_not_drive_the_terminal(node: FakeNode) -> None:
    node.world.records["n"] = 1, b"a\x1b]0;evil\x07\xff"
    code, screen = on_terminal("record", "get", "n")
    assert code == 0
    assert screen.strip() == "a\\x1b]0;evil\\x07\\xff"


def test_if_seq_binds_a_put(node: FakeNode, molia: Run) -> None:
    node.world.records["n"] = 7, b"x"
    assert molia("record", "put", "n", "--if-seq", "6", stdin=b"y").code == 1
    assert molia("record", "put", "n", "--if-seq", "0", stdin=b"y").code == 1
    assert node.world.records["n"] == (7, b"x")
    assert molia("record", "put", "n", "--if-seq", "7", stdin=b"y").code == 0
    assert molia("record", "put", "new", "--if-seq", "0", stdin=b"y").code == 0
    assert node.world.records == {"n": (8, b"y"), "new": (1, b"y")}
    assert molia("record", "put", "n", "--if-seq", "-1", stdin=b"y").code == 2


def test_what_cannot_work_is_refused_before_the_node_is_asked(node: FakeNode, molia: Run) -> None:
    Path("big").write_bytes(bytes(RECORD_VALUE_MAX + 1))
    large = molia("record", "put", "n", "big")
    assert (large.code, large.out) == (2, "")
    assert "at most 1000 bytes" in large.stderr
    for name in ("", "x" * 65, "molia/addr", PEER, f"{PEER}/n", "a\tb"):
        assert molia("record", "put", name, stdin=b"x").code == 2
    assert molia("record", "put", "n", "no such file").code == 2
    for address in ("", f"{PEER}/", PEER[:-1] + "b"):
        assert molia("record", "get", address).code == 2
    assert node.world.requests == []


def test_a_missing_record_is_exit_4(node: FakeNode, molia: Run) -> None:
    ran = molia("record", "get", "none")
    assert (ran.code, ran.out) == (4, "")
    assert ran.stderr.startswith("error: no record at none")


def test_ls_is_a_line_a_table_or_items(node: FakeNode, molia: Run) -> None:
    node.world.records |= {"a": (1, b"x" * 900), "b": (2, b"y")}
    assert molia("record", "ls").out.split() == [f"{PEER}/a", f"{PEER}/b"]
    *items, summary = map(json.loads, molia("record", "ls", "--json").out.splitlines())
    assert [item["seq"] for item in items] == [1, 2]
    assert summary["count"] == 2
    code, screen = on_terminal("record", "ls")
    assert code == 0
    assert f"{PEER}/a" in screen
    assert "900 B" in screen
    assert "23h" in screen


@pytest.mark.parametrize(
    "words", [("record", "put", "n"), ("record", "get", "n"), ("record", "ls")]
)
def test_without_a_node_it_is_exit_13(molia: Run, words: tuple[str, ...]) -> None:
    assert molia(*words).code == 13
