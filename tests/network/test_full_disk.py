"""The disk of a holder fills up in the middle of a share: others get it, and the node goes on."""

import contextlib
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.network.crowd import PLACE_S, Crowd, Member, crowd_of, got
from tests.node.process import MIB, body_of, until
from tests.node.scan import assert_no_orphans

NODES, FULL = 8, 4
SIZE = 16 * MIB
SETTINGS = {
    "MOLIA_STORE__QUOTA_BYTES": "256MiB", "MOLIA_STORE__OFFER_BYTES": "200MiB",
    "MOLIA_STORE__RESERVE_BYTES": "0",
}  # fmt: skip
DISK = 96 * MIB
SEEN = 512 * 1024
"""So much of a share has come when the disk fills up."""
TRIES = 4


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """Give a directory on a disk of its own; skip where that needs rights that we do not have."""
    place.mkdir(mode=0o700)
    options = f"size={DISK},mode=0700"
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("a disk of its own needs the right to mount one")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def free(disk: Path) -> int:
    """Return what is free on a disk."""
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill_within_a_share(disk: Path) -> Path:
    """Take all that is free as soon as something of a share has come; return who has it."""
    ballast, before = disk / "ballast", free(disk)
    until(lambda: free(disk) < before - SEEN, "no share comes", within_s=PLACE_S)
    with ballast.open("wb") as file:
        for step in (MIB, 4_096):
            with contextlib.suppress(OSError):  # the node takes of it as well
                while True:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), step)
    return ballast


def counted(node: Member, event: str) -> int:
    """Return how often something happened to shares that others brought."""
    text = node.client()("GET", "/metrics").body.decode()
    return sum(int(float(n)) for n in re.findall(rf'="{event}"[^}}]*\}} (\S+)', text))


def test_a_disk_that_fills_up_within_a_share_costs_no_blob_and_no_node(tmp_path: Path) -> None:
    home = tmp_path / f"{FULL:02d}"
    with small_disk(home), crowd_of(tmp_path, NODES, SETTINGS) as crowd:
        full, publisher = crowd.nodes[FULL], crowd.nodes[0]
        for number in range(TRIES):
            body = body_of(number, SIZE)
            cid = _put_and_fill(publisher, full, body)
            until(partial(_is_safe, publisher, cid), "it survives nothing", within_s=PLACE_S)
            for node in (full, crowd.nodes[1]):
                assert got(cid, node) == body
            publisher.client().delete(cid)
            if counted(full, "share_no_room"):
                break
        assert counted(full, "share_no_room"), "no share was under way when the disk filled up"
        _is_used_again(crowd, full)
        full.stop()
        assert_no_orphans(home)


def _is_safe(node: Member, cid: str) -> bool:
    return node.survives(cid) >= 1


def _put_and_fill(publisher: Member, full: Member, body: bytes) -> str:
    """Put a blob while a disk fills up; return its CID, with room on the disk again."""
    cids: list[str] = []
    putting = threading.Thread(target=lambda: cids.append(publisher.client().put(body)))
    putting.start()
    ballast = fill_within_a_share(full.home)
    putting.join()
    ballast.unlink()
    return cids[0]


def _is_used_again(crowd: Crowd, full: Member) -> None:
    before, numbers = full.shares(), iter(range(1_000))

    def put() -> bool:
        crowd.nodes[1].client().put(body_of(100 + next(numbers), 1_300_000))
        return full.shares() > before

    until(put, "with room again it gets nothing", within_s=PLACE_S)
