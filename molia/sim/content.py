"""What one file holds: its bytes, and which of its pages the file system has really given it."""

from dataclasses import dataclass, field
from typing import Final

PAGE: Final = 4096
SECTOR: Final = 512

HOLE: Final = 0
RESERVED: Final = 1
"""Allocated and never written: it reads as zeros and counts as a hole, but cannot run out."""
WRITTEN: Final = 2


@dataclass(slots=True)
class Content:
    """A file's bytes and the state of each page of 4 KiB. Plain and mutable: `copy` to keep one."""

    data: bytearray = field(default_factory=bytearray)
    pages: bytearray = field(default_factory=bytearray)

    def copy(self) -> "Content":
        """Return the same bytes in new buffers."""
        return Content(bytearray(self.data), bytearray(self.pages))

    def used_pages(self) -> int:
        """Return how many pages the file takes from the file system."""
        return len(self.pages) - self.pages.count(HOLE)

    def pages_needed(self, offset: int, size: int) -> int:
        """Return how many pages writing [offset, offset + size) would take from the free ones."""
        if size == 0:
            return 0
        first, stop = offset // PAGE, page_count(offset + size)
        return stop - first - len(self.pages[first:stop]) + self.pages.count(HOLE, first, stop)

    def write(self, offset: int, piece: bytes | bytearray | memoryview) -> None:
        """Put `piece` at `offset`; a gap before it becomes a hole."""
        if not len(piece):
            return
        stop = offset + len(piece)
        if offset > len(self.data):
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset:stop] = piece
        self._grow_pages()
        first, last = offset // PAGE, page_count(stop)
        self.pages[first:last] = bytes([WRITTEN]) * (last - first)

    def take_page(self, other: "Content", page: int) -> None:
        """Let a page be as it is in another file, a hole where it is one there."""
        start = page * PAGE
        self.write(start, other.data[start : start + PAGE])
        self.pages[page] = other.pages[page]

    def truncate(self, size: int) -> None:
        """Cut the bytes to `size`, or extend them with a hole."""
        if size > len(self.data):
            self.data.extend(bytes(size - len(self.data)))
            self._grow_pages()
        else:
            del self.data[size:]
            del self.pages[page_count(size) :]

    def punch(self, offset: int, size: int) -> None:
        """Make holes of the whole pages within [offset, offset + size)."""
        first, stop = page_count(offset), min((offset + size) // PAGE, len(self.pages))
        if first < stop:
            end = min(stop * PAGE, len(self.data))
            self.data[first * PAGE : end] = bytes(end - first * PAGE)
            self.pages[first:stop] = bytes(stop - first)

    def allocate(self, size: int) -> None:
        """Reserve all pages of [0, size) and make the file at least that long."""
        if size > len(self.data):
            self.truncate(size)
        for page in range(page_count(size)):
            self.pages[page] = max(self.pages[page], RESERVED)

    def holes(self) -> list[tuple[int, int]]:
        """Return the ranges that hold no written page, in order and half-open."""
        found: list[tuple[int, int]] = []
        for page, state in enumerate(self.pages):
            if state == WRITTEN:
                continue
            start, stop = page * PAGE, min((page + 1) * PAGE, len(self.data))
            if found and found[-1][1] == start:
                found[-1] = (found[-1][0], stop)
            else:
                found.append((start, stop))
        return found

    def _grow_pages(self) -> None:
        missing = page_count(len(self.data)) - len(self.pages)
        if missing > 0:
            self.pages.extend(bytes(missing))


def page_count(size: int) -> int:
    """Return how many pages `size` bytes begin."""
    return -(-size // PAGE)
