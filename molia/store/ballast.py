"""Ballast: allocated space that is given up when the disk is full.

Deletes and checkpoints need a little space before they give any back.
"""

import contextlib
from typing import Final

from molia.base.now import Now
from molia.store.disk import is_full
from molia.store.log import Home

BALLAST_NAME: Final = "ballast"
RETRY_S: Final = 10.0


class Ballast:
    """A file of allocated bytes; `present` tells whether it holds its space."""

    def __init__(self, home: Home, *, size: int, reserve_bytes: int) -> None:
        self._home, self._size, self._reserve_bytes = home, size, reserve_bytes
        self._name = f"{home.name}/{BALLAST_NAME}"
        self._retry_s = 0.0
        self.present = False

    def open(self) -> None:
        """Find or make the file; without the space for it, do without."""
        disk = self._home.disk
        if not self._size:
            self.present = True
            return
        if disk.exists(self._name):
            file = disk.open(self._name, writable=False)
            try:
                self.present = file.size() == self._size
            finally:
                file.close()
            if self.present:
                return
            self._unlink()
        self._make()

    @property
    def wanted(self) -> bool:
        """Whether the space is to be taken again when there is some."""
        return not self.present

    def release(self) -> bool:
        """Give the space up; False when there is none to give."""
        if not self.present or not self._size:
            return False
        self.present = False
        self._unlink()
        return True

    def retry(self, now: Now) -> None:
        """Take the space again if the disk has plenty by now."""
        if now.mono_s < self._retry_s:
            return
        self._retry_s = now.mono_s + RETRY_S
        if self._home.disk.free_bytes() >= 2 * self._size + self._reserve_bytes:
            self._make()

    def due_s(self) -> float | None:
        """Return when `retry` is to be called."""
        return self._retry_s if self.wanted else None

    def _make(self) -> None:
        disk = self._home.disk
        if disk.free_bytes() < self._size + min(self._size, self._reserve_bytes):
            return
        file = disk.open(self._name, create=True)
        try:
            file.allocate(self._size)
            file.sync()
            disk.sync_dir(self._home.name)
            self.present = True
        except OSError as error:
            if not is_full(error):
                raise
        finally:
            file.close()
            if not self.present:
                self._unlink()

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._home.disk.unlink(self._name)
