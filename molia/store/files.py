"""Segment files that are open for reading: at most so many, the recently used ones stay."""

from threading import Lock

from molia.store.disk import File
from molia.store.log import Home


class SegmentFiles:
    """Read-only files by segment; any thread may ask.

    A file that is let go of closes itself when its last reader is done with it.
    """

    def __init__(self, home: Home, count_max: int) -> None:
        self._home, self._count_max = home, count_max
        self._files: dict[int, File] = {}
        self._used: set[int] = set()
        self._lock = Lock()

    def get(self, segment_id: int) -> File:
        """Return the open file of a segment. Raises FileNotFoundError and other OSErrors."""
        file = self._files.get(segment_id)
        if file is None:
            return self._open(segment_id)
        self._used.add(segment_id)
        return file

    def forget(self, segment_id: int) -> None:
        """Let go of a file that is to be unlinked."""
        with self._lock:
            self._files.pop(segment_id, None)
            self._used.discard(segment_id)

    def forget_all(self) -> None:
        """Let go of all files."""
        with self._lock:
            self._files = {}

    def __len__(self) -> int:
        return len(self._files)

    def _open(self, segment_id: int) -> File:
        with self._lock:
            file = self._files.get(segment_id)
            if file is not None:
                return file
            file = self._home.disk.open(self._home.segment(segment_id), writable=False)
            while len(self._files) >= self._count_max:
                self._let_one_go()
            self._files[segment_id] = file
            return file

    def _let_one_go(self) -> None:
        """Drop the oldest file that was not used since it was last looked at."""
        oldest = next(iter(self._files))
        file = self._files.pop(oldest)
        if oldest in self._used:
            self._used.discard(oldest)
            self._files[oldest] = file
