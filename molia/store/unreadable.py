"""Files of which the disk cannot read a few places, read all the same: a bad sector is damage.

Recovery reads through `PatchedFile`, so that one bad sector in a header, a footer or the open end
does not keep a whole shard from opening. Zeros stand for what cannot be read: they are no sound
header, frame or footer, so whatever they hit is found damaged and nothing wrong is ever taken in.
Where much cannot be read the disk itself fails, perhaps for a while only, and then nothing may be
concluded from what it says: the error goes on, and the shard stays closed and as it is.
Source: docs/explanation/store.md, "Recovery".
"""

import errno
from dataclasses import dataclass
from typing import Final

from molia.base.limits import UNREADABLE_PAGES_MAX
from molia.store.disk import File

_PAGE: Final = 4096


@dataclass(slots=True)
class Patience:
    """How many pages of a shard could not be read, so far."""

    pages: int = 0

    def take(self, error: OSError) -> None:
        """Take one more. Raises the error when there are too many."""
        self.pages += 1
        if self.pages > UNREADABLE_PAGES_MAX:
            raise error


class PatchedFile:
    """A file for reading in which pages that cannot be read are zeros."""

    def __init__(self, file: File, patience: Patience) -> None:
        self._file, self._patience = file, patience
        self.unreadable: dict[int, None] = {}
        """Where pages start that could not be read."""

    def is_unreadable(self, start: int, stop: int) -> bool:
        """Tell whether some of [start, stop) could not be read."""
        return any(page < stop and start < page + _PAGE for page in self.unreadable)

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`. Raises OSError when too much cannot be read."""
        if not self.is_unreadable(offset, offset + size):
            try:
                return self._file.read(offset, size)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
        stop = min(offset + size, self._file.size())
        parts = []
        while offset < stop:
            page = offset - offset % _PAGE
            part = min(stop, page + _PAGE) - offset
            parts.append(self._read_page(page)[offset - page :][:part])
            offset += part
        return b"".join(parts)

    def _read_page(self, page: int) -> bytes:
        """Return a page; one that could not be read once stays zeros, so that all reads agree."""
        if page not in self.unreadable:
            try:
                return self._file.read(page, _PAGE)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                self._patience.take(error)
                self.unreadable[page] = None
        return bytes(_PAGE)

    def size(self) -> int:
        """See `File.size`."""
        return self._file.size()

    def holes(self) -> list[tuple[int, int]]:
        """See `File.holes`."""
        return self._file.holes()
