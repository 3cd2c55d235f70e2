"""What the index does not know yet, for the other processes of a node: a throw-away LMDB.

The writer puts every entry here before it acknowledges; two named databases `d0` and `d1` take
turns as the memtable's generations do. Nothing is synced: the directory `delta-<epoch>` is new at
each start of the writer, and what a power cut leaves of it is never opened.
Source: docs/reference/index-format.md, "Delta".
"""

import re
from collections.abc import Iterable
from typing import Final

from molia.store.disk import Disk
from molia.store.lmdb_env import Env, IndexFailed, Reader, Writer
from molia.store.log import Home

_NAME: Final = re.compile(r"^delta-([0-9]{1,19})$")
_NAMES: Final = ("d0", "d1", "m")
_CURRENT: Final = b"current"
_ORDERS: Final[dict[bytes | None, tuple[str, ...]]] = {
    b"0": ("d0", "d1"),
    b"1": ("d1", "d0"),
}
"""By the value of `m/current`: the databases, the one being filled first."""


def delta_name(home: Home, epoch: int) -> str:
    """Return the name of the directory of an epoch."""
    return f"{home.name}/delta-{epoch}"


def epochs(disk: Disk, shard: str) -> list[int]:
    """Return the epochs of all deltas in a shard's directory, in order."""
    matches = map(_NAME.match, disk.list_dir(shard))
    return sorted(int(match[1]) for match in matches if match is not None)


def forget_deltas(disk: Disk, shard: str, *, but: int | None = None) -> None:
    """Remove the deltas of a shard, except one that is in use."""
    for epoch in epochs(disk, shard):
        if epoch != but:
            disk.remove_tree(f"{shard}/delta-{epoch}")


class Delta:
    """The writer's side: made new, and empty."""

    def __init__(self, home: Home, epoch: int, *, map_bytes: int) -> None:
        """Raises IndexFailed, OSError."""
        name = delta_name(home, epoch)
        home.disk.make_dir(name)
        self.epoch = epoch
        self._env = Env(home.disk.path_of(name), map_bytes=map_bytes, names=_NAMES, durable=False)
        self._current = 0
        try:
            self._env.write(lambda writer: writer.put("m", _CURRENT, b"0"))
        except BaseException:
            self._env.close()
            raise

    def add(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Show entries to the other processes; the last one of a key counts.

        Raises IndexFull, IndexFailed, and shows nothing of them.
        """
        items = sorted(dict(entries).items())
        name = _NAMES[self._current]
        self._env.write(lambda writer: writer.put_many(name, items))

    def flip(self) -> None:
        """Let the other database take what is added from now on. Raises IndexFull, IndexFailed."""
        other = 1 - self._current

        def fill(writer: Writer) -> None:
            assert writer.count(_NAMES[other]) == 0, "a checkpoint has cleared it"
            writer.put("m", _CURRENT, b"%d" % other)

        self._env.write(fill)
        self._current = other

    def clear_old(self) -> None:
        """Drop what was there before the flip: the index has it. Raises IndexFull, IndexFailed."""
        self._env.write(lambda writer: writer.clear(_NAMES[1 - self._current]))

    def forget_dead_readers(self) -> int:
        """Free what readers that died would hold; return how many there were."""
        return self._env.forget_dead_readers()

    def view(self) -> "DeltaView":
        """Return what other processes see, for tests in this one."""
        return DeltaView(self._env)

    def close(self) -> None:
        """Close it; the directory stays until the next writer has its own."""
        self._env.close()


class DeltaView:
    """The reading side."""

    def __init__(self, env: Env) -> None:
        self._env = env

    @classmethod
    def open(cls, home: Home, epoch: int, *, map_bytes: int) -> "DeltaView":
        """Return the delta of another process's shard. Raises IndexFailed."""
        path = home.disk.path_of(delta_name(home, epoch))
        return cls(Env(path, map_bytes=map_bytes, names=_NAMES, durable=False, writable=False))

    def get(self, tagged: bytes) -> bytes | None:
        """Return the newest entry of a key, be it a tombstone, or None when none is here."""
        return self._env.get_first(("m", _CURRENT), _ORDERS, tagged)

    def pages(
        self, after: bytes, prefix: bytes, count: int
    ) -> list[tuple[list[tuple[bytes, bytes]], bool]]:
        """Return of each database, the newer first, some first entries and whether they are all.

        Of those with `prefix` and above `after`, both tagged.
        """
        with self._env.read() as reader:
            current = reader.get("m", _CURRENT)
            if current not in _ORDERS:
                raise IndexFailed("the delta does not say which database is current")
            return [_page(reader, name, after, prefix, count) for name in _ORDERS[current]]

    def close(self) -> None:
        """Close it; nobody may be reading."""
        self._env.close()


def _page(
    reader: Reader, name: str, after: bytes, prefix: bytes, count: int
) -> tuple[list[tuple[bytes, bytes]], bool]:
    found: list[tuple[bytes, bytes]] = []
    for tagged, packed in reader.items(name, max(prefix, after)):
        if not tagged.startswith(prefix):
            break
        if len(found) == count:
            return found, False
        if tagged > after:
            found.append((tagged, packed))
    return found, True
