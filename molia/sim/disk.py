"""A disk in memory that records what is done to it, fills up, and fails when told to.

`SimDisk` passes the same conformance suite as the real `OsDisk`. What it records (`journal`) is
turned into the states after a power cut by `molia.sim.platter`. LMDB's files are real ones below
`root`; an `IndexWatch` notes each of their commits.
"""

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from molia.sim.content import PAGE, Content, page_count
from molia.sim.entropy import SeededEntropy
from molia.sim.journal import (
    ROOT,
    Allocate,
    Event,
    Link,
    Punch,
    Reload,
    Rename,
    SyncDir,
    SyncFile,
    Truncate,
    Unlink,
    Write,
)
from molia.store.disk import Buffer, File, Lock

ENDLESS: Final = 1 << 50
"""What a disk without a capacity says is free."""


@dataclass(slots=True)
class Node:
    """A file or a directory. `shared`: its content belongs to others too; copy it to change it."""

    number: int
    content: Content = field(default_factory=Content)
    shared: bool = False
    names: dict[str, int] | None = None
    """The entries of a directory; None for a file."""
    synced: Content | None = None
    """What the last sync left, kept only while a fault may strike."""
    behind: Content | None = None
    """What the disk really has since a sync failed; the page cache shows `content`."""


@dataclass(slots=True)
class Fault:
    """One planned failure: the `countdown`-th call from now of this kind fails with `error`.

    call: "write", "sync", "truncate", "punch", "allocate", "open", "rename", "unlink", "sync_dir",
    "read", or "change" for any of them that changes something.
    """

    call: str
    countdown: int
    error: int = errno.EIO
    lasting: bool = False
    """All later calls of the kind fail as well."""


class SimDisk:
    """`molia.store.disk.Disk` in memory, deterministic from its entropy.

    root: a real directory for LMDB's files. capacity: bytes that all files may take, None for no
    end. journal: where every change is recorded; None records nothing.
    """

    def __init__(
        self,
        root: Path,
        entropy: SeededEntropy,
        *,
        capacity: int | None = None,
        journal: list[Event] | None = None,
    ) -> None:
        self.root, self.entropy, self.capacity, self.journal = root, entropy, capacity, journal
        self.faults: list[Fault] = []
        self.can_punch = True
        """False: a file system without holes."""
        self.optimism_bytes = 0
        """What `free_bytes` promises too much: others write to the same file system."""
        self.after_call: Callable[[], None] | None = None
        """Called after every call that may change something."""
        self.nodes: dict[int, Node] = {ROOT: Node(ROOT, names={})}
        self.real: dict[str, int] = {}
        """Directories that were asked for with `path_of`, with their node: LMDB's."""
        self._locks: set[str] = set()
        self._next_node = 1

    # ------------------------------------------------------------------------ the Disk protocol

    def open(self, name: str, *, create: bool = False, writable: bool = True) -> File:
        """Open a file. create: it must not exist yet (FileExistsError)."""
        directory, leaf = self._parent(name)
        number = directory.get(leaf)
        if create:
            if number is not None:
                raise FileExistsError(errno.EEXIST, "exists", name)
            self.strike("open", changes=True)
            number = self._add(name, is_directory=False)
        elif number is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        node = self.nodes[number]
        if node.names is not None:
            raise IsADirectoryError(errno.EISDIR, "is a directory", name)
        return SimFile(self, node, writable=writable)

    def exists(self, name: str) -> bool:
        """Tell whether a file or directory has this name."""
        try:
            self._node(name)
        except OSError:
            return self._is_in_real(name) and (self.root / name).exists()
        return True

    def list_dir(self, name: str) -> list[str]:
        """Return the sorted names in a directory; [] if it does not exist."""
        try:
            node = self._node(name)
        except FileNotFoundError:
            return []
        if node.names is None:
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", name)
        found = set(node.names)
        if name in self.real:
            found.update(path.name for path in (self.root / name).iterdir())
        return sorted(found)

    def make_dir(self, name: str) -> None:
        """Make a directory and its parents; one that exists is fine."""
        parts = name.split("/") if name else []
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            directory, leaf = self._parent(path)
            if leaf not in directory:
                self.strike("open", changes=True)
                self._add(path, is_directory=True)
            elif self.nodes[directory[leaf]].names is None:
                raise FileExistsError(errno.EEXIST, "a file has this name", name)

    def rename(self, old: str, new: str) -> None:
        """Rename a file within its directory, replacing `new`."""
        names, leaf = self._parent(old)
        if leaf not in names:
            raise FileNotFoundError(errno.ENOENT, "no such file", old)
        if old.rpartition("/")[0] != new.rpartition("/")[0]:
            raise OSError(errno.EXDEV, "only within one directory", new)
        self.strike("rename", changes=True)
        target = new.rpartition("/")[2]
        replaced = names.get(target)
        names[target] = names.pop(leaf)
        if replaced is not None and replaced != names[target]:
            del self.nodes[replaced]
        self.record(Rename(self._directory(old), leaf, target))

    def link(self, old: str, new: str) -> bool:
        """Give a file a second name: a copy, which cannot be told from it while nobody writes."""
        node = self._node(old)
        if self.exists(new):
            raise FileExistsError(errno.EEXIST, "exists", new)
        self.strike("open", changes=True)
        number = self._add(new, is_directory=False)
        twin = self.nodes[number]
        twin.content, twin.shared = node.content.copy(), False
        self.record(Write(number, 0, bytes(twin.content.data)))
        self.record(SyncFile(number))
        return True

    def unlink(self, name: str) -> None:
        """Remove a file's name."""
        node = self._node(name)
        if node.names is not None:
            raise IsADirectoryError(errno.EISDIR, "is a directory", name)
        self.strike("unlink", changes=True)
        self._remove(name)

    def remove_tree(self, name: str) -> None:
        """Remove a directory and all in it; one that does not exist is fine."""
        try:
            node = self._node(name)
        except FileNotFoundError:
            return
        self.strike("unlink", changes=True)
        for child in sorted(node.names or {}):
            self.remove_tree(f"{name}/{child}")
        if name in self.real:
            del self.real[name]
            shutil.rmtree(self.root / name, ignore_errors=True)
        self._remove(name)

    def sync_dir(self, name: str) -> None:
        """Return once the names in a directory would survive a power cut."""
        node = self._node(name)
        if node.names is None:
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", name)
        self.strike("sync_dir", changes=True)
        self.record(SyncDir(node.number))

    def lock(self, name: str) -> Lock:
        """Take the lock on a file (made if need be). Raises BlockingIOError if another holds it."""
        if name in self._locks:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked", name)
        if not self.exists(name):
            self._add(name, is_directory=False)
        self._locks.add(name)
        return SimLock(self._locks, name)

    def free_bytes(self) -> int:
        """Return the bytes that may still be written."""
        if self.capacity is None:
            return ENDLESS
        return self.room_bytes() + self.optimism_bytes

    def disk_bytes(self, name: str) -> int:
        """Return what a file, or the files of a directory, take on the disk; 0 if not there."""
        try:
            node = self._node(name)
        except FileNotFoundError:
            real = self.root / name
            return real.stat().st_blocks * 512 if self._is_in_real(name) and real.exists() else 0
        if node.names is None:
            return PAGE * node.content.used_pages()
        return sum(self.disk_bytes(f"{name}/{child}") for child in self.list_dir(name))

    def path_of(self, name: str) -> str:
        """Return the real path of a name, for LMDB; its directory is there when the name's is."""
        path = self.root / name
        try:
            node = self._node(name)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return str(path)
        if node.names is not None:
            path.mkdir(parents=True, exist_ok=True)
            self.real[name] = node.number
        return str(path)

    # ------------------------------------------------------------------------ for who drives it

    def room_bytes(self) -> int:
        """Return the bytes that really still fit."""
        if self.capacity is None:
            return ENDLESS
        return max(0, self.capacity - self.used_bytes())

    def used_bytes(self) -> int:
        """Return the bytes of all pages that files take."""
        return PAGE * sum(node.content.used_pages() for node in self.nodes.values())

    def release_locks(self) -> None:
        """Forget all locks, as the death of the process that held them does."""
        self._locks.clear()

    def record(self, event: Event) -> None:
        """Note what was done, and let the watch look for commits of LMDB."""
        if self.journal is not None:
            self.journal.append(event)
        if self.after_call is not None:
            self.after_call()

    def strike(self, call: str, *, changes: bool) -> None:
        """Count a call against the planned faults. Raises OSError when one is due."""
        for fault in self.faults:
            if fault.call == call or (changes and fault.call == "change"):
                fault.countdown -= 1
                if fault.countdown == 0 or (fault.lasting and fault.countdown < 0):
                    raise OSError(fault.error, os.strerror(fault.error))

    def adopt(self, nodes: dict[int, Node], next_node: int) -> None:
        """Take these nodes as the whole of what the disk holds."""
        self.nodes, self._next_node = nodes, next_node

    # ------------------------------------------------------------------------ names

    def _node(self, name: str) -> Node:
        node = self.nodes[ROOT]
        if name:
            for part in name.split("/"):
                if node.names is None:
                    raise NotADirectoryError(errno.ENOTDIR, "not a directory", name)
                if part not in node.names:
                    raise FileNotFoundError(errno.ENOENT, "no such file or directory", name)
                node = self.nodes[node.names[part]]
        return node

    def _parent(self, name: str) -> tuple[dict[str, int], str]:
        directory, _, leaf = name.rpartition("/")
        node = self._node(directory)
        if node.names is None:
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", directory)
        return node.names, leaf

    def _directory(self, name: str) -> int:
        return self._node(name.rpartition("/")[0]).number

    def _is_in_real(self, name: str) -> bool:
        return name.rpartition("/")[0] in self.real

    def _add(self, name: str, *, is_directory: bool) -> int:
        names, leaf = self._parent(name)
        number = self._next_node
        self._next_node += 1
        self.nodes[number] = Node(number, names={} if is_directory else None)
        names[leaf] = number
        self.record(Link(self._directory(name), leaf, number, is_directory))
        return number

    def _remove(self, name: str) -> None:
        names, leaf = self._parent(name)
        del self.nodes[names.pop(leaf)]
        self.record(Unlink(self._directory(name), leaf))


class SimLock:
    """A lock of a `SimDisk`."""

    def __init__(self, held: set[str], name: str) -> None:
        self._held, self._name = held, name

    def release(self) -> None:
        """Release the lock; twice is fine."""
        self._held.discard(self._name)


class SimFile:
    """An open file of a `SimDisk`."""

    def __init__(self, disk: SimDisk, node: Node, *, writable: bool) -> None:
        self._disk, self._node = disk, node
        self._writable, self._open = writable, True

    def size(self) -> int:
        """Return the file's length."""
        return len(self._node.content.data)

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes at `offset`; fewer only at the file's end."""
        if not self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._disk.faults:
            self._disk.strike("read", changes=False)
        with memoryview(self._node.content.data) as view:
            return bytes(view[offset : offset + size])

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write all `buffers` back to back at `offset`; what fits before an error stays written."""
        data = b"".join(buffers)
        content = self._changing()
        try:
            self._disk.strike("write", changes=True)
        except OSError:
            self._put(content, offset, data[: self._disk.entropy.random.randint(0, len(data))])
            raise
        room = self._room(content, offset, len(data))
        self._put(content, offset, data[:room])
        if room < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def truncate(self, size: int) -> None:
        """Cut the file to `size`, or extend it with a hole."""
        content = self._changing()
        self._disk.strike("truncate", changes=True)
        content.truncate(size)
        self._disk.record(Truncate(self._node.number, size))

    def sync(self) -> None:
        """Make bytes and length survive a power cut; after an injected failure nothing does."""
        self._check_open()
        try:
            self._disk.strike("sync", changes=True)
        except OSError:
            self._fall_behind()
            self._disk.record(SyncFile(self._node.number, failed=True))
            raise
        if self._node.behind is None:
            self._node.synced = None
        self._disk.record(SyncFile(self._node.number))

    def punch(self, offset: int, size: int) -> bool:
        """Give the whole pages within the range back; they read as zeros."""
        if not self._disk.can_punch:
            return False
        content = self._changing()
        self._disk.strike("punch", changes=True)
        content.punch(offset, size)
        self._disk.record(Punch(self._node.number, offset, size))
        return True

    def allocate(self, size: int) -> None:
        """Reserve `size` bytes from offset 0. Raises OSError (ENOSPC) and changes nothing."""
        content = self._changing()
        self._disk.strike("allocate", changes=True)
        if content.pages_needed(0, size) * PAGE > self._disk.room_bytes():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        content.allocate(size)
        self._disk.record(Allocate(self._node.number, size))

    def holes(self) -> list[tuple[int, int]]:
        """Return the holes as half-open ranges, in order."""
        return self._node.content.holes()

    def drop_cache(self) -> None:
        """Forget cached pages: after a failed sync, reads now show what the disk really has."""
        node = self._node
        if node.behind is not None:
            node.content, node.shared = node.behind, True
            node.behind = node.synced = None
            self._disk.record(Reload(node.number, node.content))

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._open = False

    def _check_open(self) -> None:
        if not self._open:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _changing(self) -> Content:
        """Return the content, no longer shared with anyone, to be changed."""
        if not (self._open and self._writable):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        node = self._node
        if self._disk.faults and node.synced is None:
            node.synced, node.shared = node.content, True
        if node.shared:
            node.content, node.shared = node.content.copy(), False
        return node.content

    def _put(self, content: Content, offset: int, data: bytes) -> None:
        if data:
            content.write(offset, data)
            self._disk.record(Write(self._node.number, offset, data))

    def _room(self, content: Content, offset: int, size: int) -> int:
        """Return how many of `size` bytes still fit on the disk."""
        if self._disk.capacity is None:
            return size
        free_pages = self._disk.room_bytes() // PAGE
        while size and content.pages_needed(offset, size) > free_pages:
            size = max(0, (offset + size - 1) // PAGE * PAGE - offset)
        return size

    def _fall_behind(self) -> None:
        """Decide what a failed sync left on the disk: of each page the old bytes or the new."""
        node = self._node
        old, new = node.synced or node.content, node.content
        real = old.copy()
        for page in range(page_count(len(new.data))):
            if self._disk.entropy.random.random() < 0.5:
                real.take_page(new, page)
        node.behind, node.synced = real, real.copy()
