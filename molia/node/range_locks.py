"""Locks by number that hold among the processes of a node, and go with the process that holds them.

One file, one byte of it for each number: advisory record locks of the operating system, so that a
worker that is killed lets go of everything. Source: fcntl(2), "Advisory record locking".
"""

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio

_FIRST_WAIT_S: Final = 0.002
_WAIT_MAX_S: Final = 0.05
_NUMBER_BYTES: Final = 7
"""A place in a file has 63 bits."""


class RangeLocks:
    """The locks of one file. Within a process the caller sees to it that one task asks."""

    def __init__(self, path: Path) -> None:
        # closing any descriptor of the file would drop all locks: this is the only one
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @asynccontextmanager
    async def hold(self, name: bytes) -> AsyncIterator[None]:
        """Hold the lock of a name against the other processes until the block ends.

        name: random bytes; the first seven tell names apart.
        """
        place = int.from_bytes(name[:_NUMBER_BYTES], "big")
        wait_s = _FIRST_WAIT_S
        while not self._take(place):
            await anyio.sleep(wait_s)
            wait_s = min(2 * wait_s, _WAIT_MAX_S)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def close(self) -> None:
        """Let go of everything."""
        os.close(self._file)

    def _take(self, place: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            return False
        return True
