"""A real disk with a place that it cannot read."""

import errno
from pathlib import Path
from typing import cast

from molia.store.disk import File
from molia.store.os_disk import OsDisk


class BadSector(OsDisk):
    """The real disk, which cannot read some bytes of the files of a name."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.make_dir("")
        self.name, self.low, self.high = "", 0, 0

    def open(self, name: str, *, create: bool = False, writable: bool = True) -> File:
        """Open a file."""
        inner = super().open(name, create=create, writable=writable)
        return cast("File", _BadFile(inner, self)) if name == self.name else inner


class _BadFile:
    def __init__(self, inner: File, disk: BadSector) -> None:
        self._inner, self._disk = inner, disk

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def read(self, offset: int, size: int) -> bytes:
        if offset < self._disk.high and self._disk.low < offset + size:
            raise OSError(errno.EIO, "Input/output error")
        return self._inner.read(offset, size)
