"""LMDB: the one importer. An environment with default flags, so every commit is synced.

`durable=False` leaves the syncs out: for what is thrown away with its process's machine. LMDB's own
answer to a failed sync is to go on as if nothing had happened; here any failed commit that is not a
full disk is `IndexFailed`, and the shard stops writing.
Source: LMDB's documentation, "Restrictions/Caveats"; docs/explanation/store.md.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import lmdb

from molia.base.limits import KIB, LMDB_READERS_MAX
from molia.store.disk import is_full
from molia.store.os_disk import allocate_file

_ENGINE: Final = 0
"""LMDB's 0.9 format, whichever engines the binding brings along."""
_NAMES_MAX: Final = 16
Result = TypeVar("Result")


@dataclass(slots=True)
class _Forks:
    """How many forks lie between this process and the one that imported this module.

    Asking the system for the process's id with each look-up costs a quarter of the look-up.
    """

    count: int = 0

    def note(self) -> None:
        self.count += 1


_FORKS: Final = _Forks()
os.register_at_fork(after_in_child=_FORKS.note)


class IndexFull(Exception):
    """A commit did not fit on the disk or in the map; nothing of it was kept."""


class IndexFailed(Exception):
    """The environment cannot be opened, read or written."""


_SHORT_BYTES: Final = 256 * KIB
"""With less than this left on the disk, a commit that failed with EIO was one that did not fit."""
_LOCK_BYTES: Final = 64 * (LMDB_READERS_MAX + 64)
"""What LMDB maps of its lock file: 64 bytes for each reader, and what it knows of itself."""


def _allocate_lock(path: str) -> None:
    """Give LMDB's lock file its bytes on the disk: touching a hole of it on a full disk kills.

    Raises OSError, for want of space too.
    """
    allocate_file(f"{path}/lock.mdb", _LOCK_BYTES)


class Env:
    """One LMDB environment; a path may be open once per process, and never across a fork.

    Opening raises IndexFull, IndexFailed.

    durable: a commit is synced before it counts. writable: False in a process that only reads what
    another one writes; the environment and all `names` must exist then.
    """

    def __init__(
        self, path: str, *, map_bytes: int, names: Iterable[str], durable: bool = True,
        writable: bool = True,
    ) -> None:  # fmt: skip
        self._forks, self._path = _FORKS.count, path
        self.version = 0
        """Grows after each commit of this process."""
        try:
            if writable:
                _allocate_lock(path)
            self._env = lmdb.open(
                path, map_size=map_bytes, max_dbs=_NAMES_MAX, max_readers=LMDB_READERS_MAX,
                mode=0o600, lib_version=_ENGINE, readahead=False, sync=durable, metasync=durable,
                readonly=not writable, create=writable,
            )  # fmt: skip
            try:
                self._dbs: dict[str, Any] = {
                    name: self._env.open_db(name.encode(), create=writable) for name in names
                }
            except BaseException:
                self._env.close()
                raise
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise IndexFull(f"{path}: {error}") from None
        except (lmdb.Error, OSError) as error:
            kind = IndexFull if isinstance(error, OSError) and is_full(error) else IndexFailed
            raise kind(f"{path}: {error}") from None

    def get(self, name: str, key: bytes) -> bytes | None:
        """Return one value, in a read transaction of its own."""
        assert _FORKS.count == self._forks, "an environment does not cross a fork"
        try:
            txn = lmdb.Transaction(self._env, self._dbs[name])  # `with` takes as long as the rest
            try:
                found: bytes | None = txn.get(key)
                return found
            finally:
                txn.abort()
        except lmdb.Error as error:
            raise IndexFailed(str(error)) from None

    def get_first(
        self, switch: tuple[str, bytes], orders: dict[bytes | None, tuple[str, ...]], key: bytes
    ) -> bytes | None:
        """Return the first value of a key in the databases that the value of `switch` stands for.

        Raises IndexFailed, also for a value that is not in `orders`.
        """
        assert _FORKS.count == self._forks, "an environment does not cross a fork"
        try:
            txn = lmdb.Transaction(self._env, self._dbs[switch[0]])
            try:
                names = orders.get(txn.get(switch[1]))
                if names is None:
                    raise IndexFailed("the environment does not say which database is current")
                for name in names:
                    found: bytes | None = txn.get(key, db=self._dbs[name])
                    if found is not None:
                        return found
                return None
            finally:
                txn.abort()
        except lmdb.Error as error:
            raise IndexFailed(str(error)) from None

    @contextmanager
    def read(self) -> Iterator["Reader"]:
        """Give a snapshot; keep it for less than a second."""
        assert _FORKS.count == self._forks, "an environment does not cross a fork"
        try:
            with self._env.begin() as txn:
                yield Reader(txn, self._dbs)
        except lmdb.Error as error:
            raise IndexFailed(str(error)) from None

    def write(self, fill: Callable[["Writer"], Result]) -> Result:
        """Return what `fill` returns, once all that it wrote is durable.

        Raises IndexFull or IndexFailed, and nothing is kept.
        """
        assert _FORKS.count == self._forks, "an environment does not cross a fork"
        try:
            with self._env.begin(write=True) as txn:
                filled = fill(Writer(txn, self._dbs))
            self.version += 1
            return filled
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise IndexFull(str(error)) from None
        except lmdb.Error as error:
            kind = IndexFull if self._was_cut_short(error) else IndexFailed
            raise kind(str(error)) from None

    def _was_cut_short(self, error: lmdb.Error) -> bool:
        """Tell whether a commit failed because a write ended where the disk did.

        LMDB calls that EIO too (`mdb_page_flush`, "short write, filesystem full?"). It writes no
        meta page then, so the environment is as it was.
        """
        if os.strerror(errno.EIO) not in str(error):
            return False
        try:
            return shutil.disk_usage(self._path).free < _SHORT_BYTES
        except OSError:
            return False

    def forget_dead_readers(self) -> int:
        """Free the slots of readers whose process is gone, and return how many there were.

        They would hold old pages, and the file would grow with each commit.
        """
        try:
            return int(self._env.reader_check())
        except lmdb.Error as error:
            raise IndexFailed(str(error)) from None

    def reader_lag(self) -> int:
        """Return how many commits the oldest snapshot that is held is behind; 0 without any."""
        try:
            last, table = int(self._env.info()["last_txnid"]), str(self._env.readers())
        except lmdb.Error as error:
            raise IndexFailed(str(error)) from None
        # a line for each reader: process, thread, transaction or `-`
        held = [line.split()[-1] for line in table.splitlines()[1:] if line.split()]
        return max((last - int(number) for number in held if number.isdigit()), default=0)

    def close(self) -> None:
        """Close the environment; nobody may be reading."""
        self._env.close()


class Reader:
    """A snapshot of an environment."""

    def __init__(self, txn: "lmdb.Transaction[bytes]", dbs: dict[str, Any]) -> None:
        self._txn, self._dbs = txn, dbs

    def get(self, name: str, key: bytes) -> bytes | None:
        """Return one value."""
        found: bytes | None = self._txn.get(key, db=self._dbs[name])
        return found

    def getter(self, name: str) -> Callable[[bytes], bytes | None]:
        """Return a look-up of keys in one database."""
        return partial(self._txn.get, db=self._dbs[name])

    def finder(self, names: dict[int, str]) -> Callable[[bytes], bytes | None]:
        """Return a look-up by keys whose first byte chooses among `names`."""
        get = self._txn.get
        dbs = {tag: self._dbs[name] for tag, name in names.items()}

        def find(tagged: bytes) -> bytes | None:
            return get(tagged[1:], None, dbs[tagged[0]])

        return find

    def get_many(self, name: str, keys: list[bytes]) -> dict[bytes, bytes]:
        """Return the values of those keys that are there."""
        return dict(self._txn.cursor(db=self._dbs[name]).getmulti(keys))

    def items(self, name: str, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values in order from the first key that is not below `start`."""
        cursor = self._txn.cursor(db=self._dbs[name])
        if cursor.set_range(start) if start else cursor.first():
            yield from cursor.iternext()

    def count(self, name: str) -> int:
        """Return the number of keys."""
        return int(self._txn.stat(self._dbs[name])["entries"])


class Writer(Reader):
    """A write transaction."""

    def put(self, name: str, key: bytes, value: bytes) -> None:
        """Set one value."""
        self._txn.put(key, value, db=self._dbs[name])

    def put_many(self, name: str, items: list[tuple[bytes, bytes]]) -> None:
        """Set many values; sorted keys are quickest."""
        self._txn.cursor(db=self._dbs[name]).putmulti(items)

    def delete(self, name: str, key: bytes) -> None:
        """Remove a key; one that is not there is fine."""
        self._txn.delete(key, db=self._dbs[name])

    def clear(self, name: str) -> None:
        """Remove all keys of a database."""
        self._txn.drop(self._dbs[name], delete=False)
