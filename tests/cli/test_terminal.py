"""What a person at a terminal sees."""

import os
import pty
import re
import select
from pathlib import Path

from tests.cli.conftest import spawn
from tests.cli.fake_node import FakeNode


def on_terminal(*arguments: str) -> tuple[int, str]:
    """Run the command on a terminal of its own; return its code and what the screen shows."""
    leader, follower = pty.openpty()
    process = spawn(*arguments, stdout=follower, stderr=follower)
    os.close(follower)
    text = b""
    while select.select([leader], [], [], 30)[0]:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # Linux says EIO when the last writer has left
            break
        if not piece:
            break
        text += piece
    os.close(leader)
    code = process.wait(timeout=120)
    return code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode())


def test_ls_is_a_table(node: FakeNode) -> None:
    kept = node.world.add(b"x" * 3000, name="film[bold].bin\x1b]0;title\x07")
    code, screen = on_terminal("ls")
    assert code == 0
    assert re.search(r"CID +SIZE +AGE +PIN +NAME", screen)
    assert re.search(
        kept.cid + r" +2\.9 KiB +\d+s +pinned +film\[bold\]\.bin\\x1b\]0;title", screen
    )
    assert "\x07" not in screen


def test_put_says_what_the_blob_survives(node: FakeNode) -> None:
    Path("f").write_bytes(b"x" * 2048)
    code, screen = on_terminal("put", "f")
    assert code == 0
    (cid,) = node.world.blobs
    assert f"{cid}  f  2.0 KiB  kept by 1 node(s), survives the loss of 0" in screen


def test_a_slow_get_draws_a_bar(node: FakeNode) -> None:
    kept = node.world.add(os.urandom(3_000_000), name="film.bin")
    node.world.cut_after = [1_000_000, 500_000, 0]  # two pauses of 0.2 s and one of 0.5 s
    code, screen = on_terminal("get", kept.cid)
    assert code == 0
    assert "film.bin" in screen
    assert re.search(r"/2\.9 MiB", screen)
    assert screen.rstrip().endswith("film.bin  2.9 MiB")


def test_no_progress_draws_none(node: FakeNode) -> None:
    kept = node.world.add(os.urandom(3_000_000), name="film.bin")
    node.world.cut_after = [1_000_000, 500_000, 0]
    code, screen = on_terminal("get", kept.cid, "--no-progress")
    assert (code, screen) == (0, "film.bin  2.9 MiB\r\n")
