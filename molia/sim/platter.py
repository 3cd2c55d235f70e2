"""What of a simulated disk is safe after a prefix of its journal, and what a cut makes of the rest.

The rules are those of `molia.store.disk`: bytes are there once their file was synced, names once
their directory was, and anything else may be there whole, in part, as zeros or as garbage.
Directory changes reach the disk in order within one directory, and in no order between two.
"""

import random
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from molia.sim.content import PAGE, SECTOR, Content, page_count
from molia.sim.disk import Node, SimDisk
from molia.sim.entropy import SeededEntropy
from molia.sim.journal import (
    ROOT,
    Allocate,
    Event,
    FileEvent,
    IndexCommit,
    Link,
    NameEvent,
    Punch,
    Reload,
    Rename,
    SyncDir,
    SyncFile,
    Truncate,
    Unlink,
    Write,
)

DATA_FILE = "data.mdb"


class Fate(Enum):
    """What a power cut makes of one piece that was not yet safe."""

    KEPT = "kept"
    ABSENT = "absent"
    ZEROS = "zeros"
    GARBAGE = "garbage"
    SECTORS = "sectors"
    """Some of its 512-byte sectors came through."""


class IndexFate(Enum):
    """What a power cut, or a disk fault before it, makes of the index."""

    INTACT = "intact"
    FILE_GONE = "file gone"
    EMPTY = "empty"
    ZEROS = "zeros"
    DIRECTORY_GONE = "directory gone"


@dataclass(slots=True)
class Piece:
    """At most one page of a write, or one other change of a file, that is not yet safe."""

    change: FileEvent
    orphan: bool = False
    """A sync failed after it: no later sync makes it safe."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One outcome of a cut: a fate per pending piece, and how many changes each directory kept."""

    fates: tuple[Fate, ...] = ()
    names: tuple[tuple[int, int], ...] = ()
    index: IndexFate = IndexFate.INTACT
    salt: int = field(default=0, compare=False)
    """Seeds the garbage."""


class Platter:
    """The safe part of a disk and the changes still on their way, while a journal is replayed."""

    def __init__(self) -> None:
        self.contents: dict[int, Content] = {}
        self.names: dict[int, dict[str, int]] = {ROOT: {}}
        self.pieces: list[Piece] = []
        self.name_changes: dict[int, list[NameEvent]] = {}
        self.indexes: dict[int, bytes] = {}
        self.next_node = 1
        self._owned: set[int] = set()

    @classmethod
    def of(cls, disk: SimDisk) -> "Platter":
        """Return a platter on which all that `disk` holds now is safe."""
        platter = cls()
        for number, node in disk.nodes.items():
            if node.names is None:
                platter.contents[number], node.shared = node.content, True
            else:
                platter.names[number] = dict(node.names)
            platter.next_node = max(platter.next_node, number + 1)
        for name, number in disk.real.items():
            data_file = disk.root / name / DATA_FILE
            if data_file.exists():
                platter.indexes[number] = data_file.read_bytes()
        return platter

    def fork(self) -> "Platter":
        """Return a platter in the same state that goes its own way; what is pending stays so."""
        other = Platter()
        other.contents = dict(self.contents)
        other.names = {number: dict(names) for number, names in self.names.items()}
        other.pieces = [Piece(piece.change, piece.orphan) for piece in self.pieces]
        other.name_changes = {number: list(all_) for number, all_ in self.name_changes.items()}
        other.indexes = dict(self.indexes)
        other.next_node = self.next_node
        return other

    def has_orphans(self) -> bool:
        """Tell whether a sync has failed and left something unsafe for good."""
        return any(piece.orphan for piece in self.pieces)

    # ------------------------------------------------------------------------ replay

    def feed(self, event: Event) -> bool:
        """Take the next event. Return whether it changed what a power cut could leave."""
        if isinstance(event, Write):
            self.pieces.extend(Piece(part) for part in split(event))
        elif isinstance(event, Truncate | Punch | Allocate):
            self.pieces.append(Piece(event))
        elif isinstance(event, Link | Unlink | Rename):
            self._change_names(event)
        elif isinstance(event, SyncFile):
            return self._sync(event)
        elif isinstance(event, SyncDir):
            changes = self.name_changes.pop(event.directory, [])
            apply_names(self.names[event.directory], changes)
            if self.pieces and not all(isinstance(change, Link) for change in changes):
                self._forget_nameless()
            return bool(changes)
        elif isinstance(event, IndexCommit):
            self.indexes[event.directory] = event.data
        elif isinstance(event, Reload):
            self.contents[event.node] = event.content.copy()
            self._owned.add(event.node)
            self.pieces = [piece for piece in self.pieces if piece.change.node != event.node]
        else:
            return False
        return True

    def _change_names(self, event: NameEvent) -> None:
        self.name_changes.setdefault(event.directory, []).append(event)
        if isinstance(event, Link):
            self.next_node = max(self.next_node, event.node + 1)
            if event.is_directory:
                self.names[event.node] = {}
            else:
                self.contents[event.node] = Content()
                self._owned.add(event.node)

    def _forget_nameless(self) -> None:
        """Drop what is pending for files that no name can lead to any more."""
        named = {node for names in self.names.values() for node in names.values()}
        for changes in self.name_changes.values():
            named.update(change.node for change in changes if isinstance(change, Link))
        self.pieces = [piece for piece in self.pieces if piece.change.node in named]

    def _sync(self, event: SyncFile) -> bool:
        mine = [piece for piece in self.pieces if piece.change.node == event.node]
        if event.failed:
            for piece in mine:
                piece.orphan = True
            return False
        safe = [piece.change for piece in mine if not piece.orphan]
        if not safe:
            return False
        if event.node not in self._owned:
            self.contents[event.node] = self.contents[event.node].copy()
            self._owned.add(event.node)
        for change in safe:
            apply(self.contents[event.node], change)
        self.pieces = [
            piece for piece in self.pieces if piece.orphan or piece.change.node != event.node
        ]
        return True

    # ------------------------------------------------------------------------ states

    def image(self, plan: Plan, root: Path) -> SimDisk:
        """Return a disk as the power cut of `plan` leaves it, LMDB's files below `root` included.

        It shares what it does not change with this platter: use it before feeding another event.
        """
        names = self._names_after(plan)
        contents = self._contents_after(plan)
        disk = SimDisk(root, SeededEntropy(plan.salt))
        nodes: dict[int, Node] = {}
        indexes: list[tuple[str, int]] = []
        todo = [("", ROOT)]
        while todo:
            path, number = todo.pop()
            if number not in names:
                content = contents.get(number) or self.contents[number]
                nodes[number] = Node(number, content, shared=True)
                continue
            nodes[number] = Node(number, names=dict(names[number]))
            todo.extend((f"{path}/{leaf}", child) for leaf, child in names[number].items())
            if number in self.indexes:
                indexes.append((path.lstrip("/"), number))
        disk.adopt(nodes, self.next_node)
        self._write_indexes(disk, indexes, plan.index)
        return disk

    def _names_after(self, plan: Plan) -> dict[int, dict[str, int]]:
        names = dict(self.names)
        for directory, count in plan.names:
            names[directory] = dict(names[directory])
            apply_names(names[directory], self.name_changes[directory][:count])
        if plan.index is IndexFate.DIRECTORY_GONE:
            for directory, entries in names.items():
                kept = {leaf: node for leaf, node in entries.items() if node not in self.indexes}
                names[directory] = kept
        return names

    def _contents_after(self, plan: Plan) -> dict[int, Content]:
        rng = random.Random(plan.salt)
        changed: dict[int, Content] = {}
        for piece, fate in zip(self.pieces, plan.fates, strict=True):
            if fate is Fate.ABSENT:
                continue
            node = piece.change.node
            if node not in changed:
                changed[node] = self.contents[node].copy()
            if isinstance(piece.change, Write):
                write_damaged(changed[node], piece.change, fate, rng)
            else:
                apply(changed[node], piece.change)
        return changed

    def _write_indexes(
        self, disk: SimDisk, indexes: Iterable[tuple[str, int]], fate: IndexFate
    ) -> None:
        shutil.rmtree(disk.root, ignore_errors=True)
        disk.root.mkdir(parents=True)
        for path, number in indexes:
            directory = Path(disk.path_of(path))
            data = self.indexes[number]
            if fate is IndexFate.EMPTY:
                data = b""
            elif fate is IndexFate.ZEROS:
                data = bytes(len(data))
            if fate is not IndexFate.FILE_GONE:
                (directory / DATA_FILE).write_bytes(data)


def split(event: Write) -> Iterable[Write]:
    """Yield a write cut at the page borders of its file."""
    position, stop = event.offset, event.offset + len(event.data)
    while position < stop:
        end = min(stop, (position // PAGE + 1) * PAGE)
        yield Write(event.node, position, event.data[position - event.offset : end - event.offset])
        position = end


def apply(content: Content, change: FileEvent) -> None:
    """Make a change of a file whole."""
    if isinstance(change, Write):
        content.write(change.offset, change.data)
    elif isinstance(change, Truncate):
        content.truncate(change.size)
    elif isinstance(change, Punch):
        content.punch(change.offset, change.size)
    else:
        content.allocate(change.size)


def apply_names(names: dict[str, int], changes: Iterable[NameEvent]) -> None:
    """Make changes of a directory, in order."""
    for change in changes:
        if isinstance(change, Link):
            names[change.name] = change.node
        elif isinstance(change, Unlink):
            del names[change.name]
        else:
            names[change.new] = names.pop(change.old)


def write_damaged(content: Content, write: Write, fate: Fate, rng: random.Random) -> None:
    """Make a write as far as its fate lets it come."""
    if fate is Fate.KEPT:
        content.write(write.offset, write.data)
    elif fate is Fate.ZEROS:
        content.write(write.offset, bytes(len(write.data)))
    elif fate is Fate.GARBAGE:
        content.write(write.offset, rng.randbytes(len(write.data)))
    else:
        _write_sectors(content, write, rng)


def _write_sectors(content: Content, write: Write, rng: random.Random) -> None:
    position, stop = write.offset, write.offset + len(write.data)
    while position < stop:
        end = min(stop, (position // SECTOR + 1) * SECTOR)
        if rng.random() < 0.5:
            content.write(position, write.data[position - write.offset : end - write.offset])
        position = end


def describe(plan: Plan, pieces: Iterable[Piece], names: Mapping[int, list[NameEvent]]) -> str:
    """Return what a plan does, in a line per pending change."""
    lines = [f"index: {plan.index.value}"]
    for piece, fate in zip(pieces, plan.fates, strict=True):
        change = piece.change
        what = type(change).__name__.lower()
        if isinstance(change, Write):
            what += f" {change.offset}+{len(change.data)} (page {page_count(change.offset)})"
        lines.append(f"file {change.node}: {what}: {fate.value}")
    kept = dict(plan.names)
    for directory, changes in names.items():
        lines.append(f"directory {directory}: {kept.get(directory, 0)} of {len(changes)} changes")
    return "\n".join(lines)
