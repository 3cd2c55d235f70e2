"""The operating system's file calls, and nothing else of the store makes one.

`Disk` is a small file system of relative names below one root. The real one is `os_disk.OsDisk`,
the power-cut simulator's is `molia.sim.disk.SimDisk`. Whatever must survive a power cut goes
through these calls (LMDB's own files excepted: they lie below `path_of` and LMDB syncs them).

Names are relative, with `/` between parts, such as `shard-00/seg/0000000000000001.log`.
Rules that a caller may count on after a power cut, and no others:
- bytes of a file are there once `sync_file` of that file returned;
- a file's name (made, renamed or unlinked) is there once `sync_dir` of its directory returned;
- everything else may be there whole, in part, as zeros or as garbage.
"""

import errno
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

Buffer = bytes | bytearray | memoryview
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Readable(Protocol):
    """A file for reading. Errors are OSError as the system gives them; callers decide on them."""

    def size(self) -> int:
        """Return the file's length."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`; fewer only at the file's end. Thread-safe."""
        ...


class File(Readable, Protocol):
    """An open file."""

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write all `buffers` back to back at `offset` (short writes are continued)."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file to `size`, or extend it with a hole."""
        ...

    def sync(self) -> None:
        """Return once all bytes and the length written so far would survive a power cut."""
        ...

    def punch(self, offset: int, size: int) -> bool:
        """Give the blocks of [offset, offset + size) back to the file system; they read as zeros.

        Only whole file-system pages inside the range go. False where the system cannot punch.
        """
        ...

    def allocate(self, size: int) -> None:
        """Really allocate `size` bytes from offset 0, so that writing them cannot fill the disk."""
        ...

    def holes(self) -> list[tuple[int, int]]:
        """Return the holes as half-open ranges, in order; [] where the system cannot tell."""
        ...

    def drop_cache(self) -> None:
        """Ask the system to forget cached pages, so that the next read comes from the disk."""
        ...

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        ...


class Lock(Protocol):
    """An exclusive lock held on a file until released or until the process dies."""

    def release(self) -> None:
        """Release the lock; twice is fine."""
        ...


class Disk(Protocol):
    """Files below one root."""

    def open(self, name: str, *, create: bool = False, writable: bool = True) -> File:
        """Open a file. create: it must not exist yet (FileExistsError)."""
        ...

    def exists(self, name: str) -> bool:
        """Tell whether a file or directory has this name."""
        ...

    def list_dir(self, name: str) -> list[str]:
        """Return the sorted names in a directory; [] if it does not exist."""
        ...

    def make_dir(self, name: str) -> None:
        """Make a directory and its parents, 0700; one that exists is fine. Not synced."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Rename a file, replacing `new`."""
        ...

    def link(self, old: str, new: str) -> bool:
        """Give a file that nobody writes a second name. False where the system cannot.

        Its bytes must be synced. The second name must not exist yet (FileExistsError).
        """
        ...

    def unlink(self, name: str) -> None:
        """Remove a file's name."""
        ...

    def remove_tree(self, name: str) -> None:
        """Remove a directory and all in it; one that does not exist is fine."""
        ...

    def sync_dir(self, name: str) -> None:
        """Return once the names in a directory would survive a power cut."""
        ...

    def lock(self, name: str) -> Lock:
        """Take the lock on a file (made if need be). Raises BlockingIOError if another holds it."""
        ...

    def free_bytes(self) -> int:
        """Return the bytes that this process may still write on the file system."""
        ...

    def disk_bytes(self, name: str) -> int:
        """Return what a file, or the files of a directory, take on the disk; 0 if not there."""
        ...

    def path_of(self, name: str) -> str:
        """Return the operating system's path of a name, for LMDB."""
        ...


def is_full(error: OSError) -> bool:
    """Tell whether an error means that there is no space."""
    return error.errno in _FULL


def write_atomic(disk: Disk, name: str, parts: Iterable[Buffer]) -> None:
    """Replace a small file so that a power cut leaves the old one or the new one, never both."""
    directory, _, _ = name.rpartition("/")
    temporary = name + ".tmp"
    if disk.exists(temporary):
        disk.unlink(temporary)
    file = disk.open(temporary, create=True)
    try:
        file.write(0, list(parts))
        file.sync()
    finally:
        file.close()
    disk.rename(temporary, name)
    disk.sync_dir(directory)
