"""The file that a download grows in: `.NAME.CID.part` beside its target, kept across tries.

It is locked while a command writes it, hashed as it grows and when it is resumed, and takes its
target's name only once all of it is checked, without ever replacing a file that nobody said to.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from molia.base.errors import Busy, WouldOverwrite
from molia.base.hashing import ContentHasher
from molia.cli.fetch import Found

READ_SIZE: Final = 1 << 20
_NO_LINKS: Final = frozenset(
    {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
)


class PartFile:
    """An open, locked part."""

    def __init__(self, handle: int, path: Path) -> None:
        self._handle, self.path = handle, path
        self.size = os.fstat(handle).st_size
        self._hasher = ContentHasher()

    def resume(self, size_max: int) -> int:
        """Hash what is there and return its size; more than `size_max` bytes are no good."""
        if self.size > size_max:
            self.restart()
        os.lseek(self._handle, 0, os.SEEK_SET)
        while piece := os.read(self._handle, READ_SIZE):
            self._hasher.update(piece)
        return self.size

    def restart(self) -> None:
        """Drop what is there."""
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        self.size = 0
        self._hasher = ContentHasher()

    def append(self, chunk: bytes) -> None:
        """Write the next bytes."""
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._handle, rest) :]
        self._hasher.update(chunk)
        self.size += len(chunk)

    def digest(self) -> bytes:
        """Return the BLAKE3 of what is there."""
        return self._hasher.digest()

    def finish(self, target: Path, *, force: bool) -> None:
        """Make it durable and give it its name. Raises WouldOverwrite."""
        os.fsync(self._handle)
        self._give_name(target, force=force)
        with suppress(OSError):  # not every file system syncs names; the file is there
            _sync_names(target.parent)

    def _give_name(self, target: Path, *, force: bool) -> None:
        if force:
            self.path.replace(target)
            self.drop()  # of two links to one file, rename leaves both
            return
        try:
            os.link(self.path, target, follow_symlinks=False)
        except FileExistsError:
            raise would_overwrite(target) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _take_name(self.path, target)
        self.path.unlink(missing_ok=True)

    def drop(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)


@contextmanager
def opened_part(found: Found, target: Path) -> Iterator[PartFile]:
    """Give the part of this blob for `target`, locked. Raises Busy when another command has it."""
    path = part_path(found, target)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    handle = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(path) from None
        if not _is_at(handle, path):  # the other command finished between our two steps
            raise _taken(path)
        yield PartFile(handle, path)
    finally:
        os.close(handle)


def part_path(found: Found, target: Path) -> Path:
    """Return where the part of this blob for `target` lies; another blob's has another name."""
    ending = f".{found.cid.short}.part"
    name = os.fsencode(target.name)[: 254 - len(ending)]
    return target.with_name("." + name.decode("utf-8", "ignore") + ending)


def _sync_names(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def would_overwrite(target: Path) -> WouldOverwrite:
    """Return the refusal to write over a file."""
    return WouldOverwrite(f"{target} exists", hint="name another with -o, or add --force")


def _taken(path: Path) -> Busy:
    return Busy(f"another command is writing {path}")


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _take_name(path: Path, target: Path) -> None:
    """Rename where there are no hard links: hold the name by an empty file, then replace that."""
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except FileExistsError:
        raise would_overwrite(target) from None
    path.replace(target)
