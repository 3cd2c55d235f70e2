"""What happened to a simulated disk, in order: enough to build every state a power cut may leave.

Files and directories are named by node numbers, so that a name that is used twice, or a file
without one, is no special case. Node 0 is the root directory.
"""

from dataclasses import dataclass

from molia.sim.content import Content

ROOT = 0


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes were written; they survive a power cut whole once the file was synced."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file got a new length."""

    node: int
    size: int


@dataclass(frozen=True, slots=True)
class Punch:
    """Whole pages of a file were given back."""

    node: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Allocate:
    """Pages were reserved for a file."""

    node: int
    size: int


@dataclass(frozen=True, slots=True)
class SyncFile:
    """A file was synced. failed: it said EIO, so nothing written before ever counts as safe."""

    node: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Reload:
    """A file's page cache was dropped after a failed sync: this is what the disk really has."""

    node: int
    content: Content


@dataclass(frozen=True, slots=True)
class Link:
    """A name appeared in a directory, for a new file or a new directory."""

    directory: int
    name: str
    node: int
    is_directory: bool


@dataclass(frozen=True, slots=True)
class Unlink:
    """A name left a directory."""

    directory: int
    name: str


@dataclass(frozen=True, slots=True)
class Rename:
    """A name of a directory was changed, replacing what had the new one."""

    directory: int
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class SyncDir:
    """The names in a directory were made durable."""

    directory: int


@dataclass(frozen=True, slots=True)
class IndexCommit:
    """An LMDB environment in a directory committed; `data` is the whole of its data file.

    LMDB syncs by itself before its commit returns, so this is durable at once.
    """

    directory: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """A note of whoever drives the disk: from here on, `value` is what holds.

    cut: what must be true has become stricter, so the states here are worth trying once more.
    """

    value: object
    cut: bool = False


FileEvent = Write | Truncate | Punch | Allocate
NameEvent = Link | Unlink | Rename
Event = FileEvent | NameEvent | SyncFile | Reload | SyncDir | IndexCommit | Mark
