"""The real disk: the only place of the store that makes the operating system's file calls.

Linux first; where a call is missing (hole punching, cache advice) a plain fallback stands in.
Source: fallocate(2), pwritev(2), fdatasync(2), lseek(2) (SEEK_HOLE), flock(2).
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from molia.store.disk import Buffer, File, Lock

_IOV_MAX: Final = 1024
_WRITE_BYTES: Final = 1 << 20
"""What one call writes at most, but for a larger buffer: with more Linux takes huge pages, which
are fresh in no cache and, in a virtual machine, often the host's to find first: five times the
time."""
_BLOCK: Final = 512
_FILE_MODE: Final = 0o600
_DIR_MODE: Final = 0o700
_PUNCH_KEEP_SIZE: Final = 0x03
_CANNOT: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
_SYNC_ALL: Final = getattr(fcntl, "F_FULLFSYNC", None)

Punch = Callable[[int, int, int], bool]


class OsFile:
    """A file of the operating system; it closes itself when nobody holds it any more.

    So a cache may let go of a file while another thread still reads it.
    """

    __slots__ = ("_descriptor", "_punch")

    def __init__(self, descriptor: int, punch: Punch) -> None:
        self._descriptor, self._punch = descriptor, punch

    def size(self) -> int:
        """Return the file's length."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`; fewer only at the file's end."""
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size:
            return data
        parts = [data]
        while data and (size := size - len(data)):
            offset += len(data)
            data = os.pread(self._descriptor, size, offset)
            parts.append(data)
        return b"".join(parts)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write all `buffers` back to back at `offset`."""
        for some in _calls(buffers):
            offset = self._write_some(offset, some)

    def _write_some(self, offset: int, buffers: Sequence[Buffer]) -> int:
        left, size = buffers, sum(map(len, buffers))
        while size:
            written = os.pwritev(self._descriptor, left, offset)
            offset, size = offset + written, size - written
            if size:
                left = _rest(left, written)
        return offset

    def truncate(self, size: int) -> None:
        """Cut the file to `size`, or extend it with a hole."""
        os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        """Return once bytes and length would survive a power cut."""
        if _SYNC_ALL is not None:
            fcntl.fcntl(self._descriptor, _SYNC_ALL)
        else:
            os.fdatasync(self._descriptor)

    def punch(self, offset: int, size: int) -> bool:
        """Give blocks back to the file system. False where it cannot."""
        return self._punch(self._descriptor, offset, size)

    def allocate(self, size: int) -> None:
        """Really allocate `size` bytes from offset 0."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._descriptor, 0, size)
            return
        zeros = bytes(1 << 20)
        for offset in range(self.size(), size, len(zeros)):
            self.write(offset, [zeros[: size - offset]])

    def holes(self) -> list[tuple[int, int]]:
        """Return the holes as half-open ranges, in order."""
        if not hasattr(os, "SEEK_HOLE"):
            return []
        size, found, at = self.size(), [], 0
        while at < size:
            try:
                start = os.lseek(self._descriptor, at, os.SEEK_HOLE)
                if start >= size:
                    break
                at = self._data_after(start, size)
            except OSError as error:
                if error.errno in _CANNOT:
                    return []
                raise
            found.append((start, at))
        return found

    def _data_after(self, offset: int, size: int) -> int:
        try:
            return os.lseek(self._descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return size
            raise

    def drop_cache(self) -> None:
        """Ask the system to forget cached pages."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.close()


def allocate_file(path: str, size: int) -> None:
    """Give a file at least `size` bytes that are really there; made when there is none.

    Raises OSError.
    """
    file = OsFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), _no_punch)
    try:
        file.allocate(size)
    finally:
        file.close()


class OsLock:
    """A flock; it goes with the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock; twice is fine."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class OsDisk:
    """Files below the directory `root`; files are made 0600, directories 0700.

    plain: use none of the calls that not every system has, as tests do once.
    """

    def __init__(self, root: str, *, plain: bool = False) -> None:
        self._root = os.path.abspath(root)
        self._is_plain = plain
        self._punch = _no_punch if plain else _punch_call()

    def open(self, name: str, *, create: bool = False, writable: bool = True) -> File:
        """Open a file. create: it must not exist yet."""
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return OsFile(os.open(self.path_of(name), flags, _FILE_MODE), self._punch)

    def exists(self, name: str) -> bool:
        """Tell whether a file or directory has this name."""
        return os.path.exists(self.path_of(name))

    def list_dir(self, name: str) -> list[str]:
        """Return the sorted names in a directory; [] if it does not exist."""
        try:
            return sorted(os.listdir(self.path_of(name)))
        except FileNotFoundError:
            return []

    def make_dir(self, name: str) -> None:
        """Make a directory and its parents; one that exists is fine."""
        path = self.path_of(name)
        if os.path.isdir(path):
            return
        if name:
            self.make_dir(name.rpartition("/")[0])
        else:
            os.makedirs(os.path.dirname(path), mode=_DIR_MODE, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, _DIR_MODE)

    def rename(self, old: str, new: str) -> None:
        """Rename a file, replacing `new`."""
        os.replace(self.path_of(old), self.path_of(new))

    def link(self, old: str, new: str) -> bool:
        """Give a file a second name. False where the system cannot."""
        if self._is_plain:
            return False
        try:
            os.link(self.path_of(old), self.path_of(new))
        except OSError as error:
            if error.errno in (*_CANNOT, errno.EPERM, errno.EMLINK):
                return False
            raise
        return True

    def unlink(self, name: str) -> None:
        """Remove a file's name."""
        os.unlink(self.path_of(name))

    def remove_tree(self, name: str) -> None:
        """Remove a directory and all in it; one that does not exist is fine."""
        assert name, "the root stays"
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.path_of(name))

    def sync_dir(self, name: str) -> None:
        """Return once the names in a directory would survive a power cut."""
        descriptor = os.open(self.path_of(name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def lock(self, name: str) -> Lock:
        """Take the lock on a file. Raises BlockingIOError if another holds it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.path_of(name), flags, _FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return OsLock(descriptor)

    def free_bytes(self) -> int:
        """Return the bytes that this process may still write on the file system."""
        found = os.statvfs(self._root)
        return found.f_bavail * found.f_frsize

    def disk_bytes(self, name: str) -> int:
        """Return what a file, or the files of a directory, take on the disk; 0 if not there."""
        try:
            found = os.stat(self.path_of(name))
        except FileNotFoundError:
            return 0
        if stat.S_ISDIR(found.st_mode):
            return sum(self.disk_bytes(f"{name}/{child}") for child in self.list_dir(name))
        return found.st_blocks * _BLOCK if hasattr(found, "st_blocks") else found.st_size

    def path_of(self, name: str) -> str:
        """Return the operating system's path of a name."""
        return f"{self._root}/{name}" if name else self._root


def _calls(buffers: Sequence[Buffer]) -> Iterator[Sequence[Buffer]]:
    """Yield the buffers in runs, each for one call."""
    if len(buffers) <= _IOV_MAX and sum(map(len, buffers)) <= _WRITE_BYTES:
        yield buffers
        return
    first = size = 0
    for at, buffer in enumerate(buffers):
        size += len(buffer)
        if at > first and (size > _WRITE_BYTES or at - first == _IOV_MAX):
            yield buffers[first:at]
            first, size = at, len(buffer)
    yield buffers[first:]


def _rest(buffers: Sequence[Buffer], written: int) -> list[Buffer]:
    """Return what is left of `buffers` after `written` bytes."""
    for index, buffer in enumerate(buffers):
        if written < len(buffer):
            return [memoryview(buffer)[written:], *buffers[index + 1 :]]
        written -= len(buffer)
    return []


def _no_punch(descriptor: int, offset: int, size: int) -> bool:  # noqa: ARG001
    return False


def _punch_call() -> Punch:
    if not sys.platform.startswith("linux"):
        return _no_punch
    library = ctypes.CDLL(None, use_errno=True)
    call = library.fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

    def punch(descriptor: int, offset: int, size: int) -> bool:
        if call(descriptor, _PUNCH_KEEP_SIZE, offset, size) == 0:
            return True
        code = ctypes.get_errno()
        if code in _CANNOT:
            return False
        raise OSError(code, os.strerror(code))

    return punch
