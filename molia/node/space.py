"""How much more the store may take, looked up now and then: a small put costs no system call."""

import shutil
from pathlib import Path
from typing import Final, NamedTuple

from molia.node.context import Context
from molia.store.quota import QuotaMarks

LOOK_INTERVAL_S: Final = 0.25


class Found(NamedTuple):
    """What was found at the last look."""

    free_bytes: int
    """What the disk can give above the reserve."""
    used_bytes: int
    """What the store takes on the disk, index and ballast included, once holes are punched."""


class Space:
    """The free space of the store's file system, at most a quarter of a second old."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked_s = float("-inf")
        self._found = Found(0, 0)

    def look(self, context: Context) -> Found:
        """Return what is free and used; let the shards know when it is nearly all."""
        now_s = context.now().mono_s
        if now_s - self._looked_s >= LOOK_INTERVAL_S:
            free = self._free_bytes() - context.config.store.reserve_bytes
            used = sum(writer.settled_bytes for writer in context.shards.writers)
            self._found, self._looked_s = Found(max(0, free), used), now_s
            is_pressed = used > QuotaMarks(context.quota_bytes).press
            for writer in context.shards.own:
                writer.shard.press(pressed=is_pressed)
        return self._found

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self._path).free
        except OSError:  # a disk that does not even say that takes nothing
            return 0
