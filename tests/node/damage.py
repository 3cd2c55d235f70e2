"""Flips bits of a stopped node's store, at chosen places or anywhere."""

import random
from dataclasses import dataclass
from pathlib import Path

from molia.store.frame import store_seed
from molia.store.keys import Kind, Space
from molia.store.os_disk import OsDisk
from molia.store.segment import HEADER_SIZE, Found, Walker
from molia.store.superblock import read_superblock
from tests.node.process import Node


@dataclass(frozen=True)
class Place:
    """The newest frame of a key."""

    path: Path
    offset: int
    head_size: int
    size: int
    lsn: int

    def flip_value(self, rng: random.Random) -> None:
        flip(self.path, rng.randrange(self.offset + self.head_size, self.offset + self.size), rng)

    def flip_head(self, rng: random.Random) -> None:
        flip(self.path, rng.randrange(self.offset, self.offset + self.head_size), rng)

    def flip_any(self, rng: random.Random) -> None:
        flip(self.path, rng.randrange(self.offset, self.offset + self.size), rng)


def flip(path: Path, at: int, rng: random.Random) -> None:
    """Flip one bit of the byte at `at`."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 1 << rng.randrange(8),)))


def places(node: Node) -> dict[tuple[Kind, bytes], Place]:
    """Return where each key's newest value lies."""
    data = node.home / "data"
    disk = OsDisk(str(data))
    seed = store_seed(read_superblock(disk).uuid)
    newest: dict[tuple[Kind, bytes], Place] = {}
    for path in node.segments():
        file = disk.open(str(path.relative_to(data)), writable=False)
        for found in Walker(file, file.size(), seed=seed, values=False).walk(HEADER_SIZE, 0):
            if not isinstance(found, Found) or found.head.kind in (Kind.SEAL, Kind.MARK):
                continue
            head, name = found.head, (Kind(found.head.target), found.head.key)
            if found.head.kind is Kind.DELETE or found.head.kind == Kind.DELETE:
                newest.pop(name, None)
            else:
                newest[name] = Place(path, found.offset, head.head_size, head.size, head.lsn)
        file.close()
    return newest


def rows(found: dict[tuple[Kind, bytes], Place], space: Space, part: bytes) -> list[Place]:
    """Return the rows of a namespace whose key holds `part`."""
    return [
        place
        for (kind, key), place in found.items()
        if kind is Kind.META and key[0] == space and part in key
    ]
