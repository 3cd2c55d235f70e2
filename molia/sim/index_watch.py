"""Notices each commit of an LMDB environment that lies in a simulated disk.

LMDB writes its own files, past `SimDisk`. Its full-sync commit is durable when it returns, so it is
enough to take a copy of the data file whenever its meta pages show a new transaction.
Source: LMDB, mdb.c, `MDB_meta`: two pages at the file's start, taken in turn, each with mm_txnid.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from molia.sim.disk import SimDisk
from molia.sim.journal import IndexCommit
from molia.sim.platter import DATA_FILE
from molia.store.lmdb_env import Env, IndexFull, Writer

META_SIZE = 2 * 4096
Result = TypeVar("Result")


class IndexWatch:
    """Puts an `IndexCommit` into a disk's journal for each commit below the disk's root."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        self._metas: dict[int, bytes] = {
            number: read_metas(disk.root / name) for name, number in disk.real.items()
        }
        disk.after_call = self.look

    def look(self) -> None:
        """Compare the meta pages of all environments with those seen last."""
        for name, number in list(self._disk.real.items()):
            if _is_delta(name):
                continue  # never synced and never read after a cut: anything may be left of it
            metas = read_metas(self._disk.root / name)
            if metas and metas != self._metas.get(number):
                self._metas[number] = metas
                assert self._disk.journal is not None, "a watched disk has a journal"
                data = (self._disk.root / name / DATA_FILE).read_bytes()
                self._disk.journal.append(IndexCommit(number, data))


@contextmanager
def around_commits(
    *, after: Callable[[], None] = lambda: None, is_full: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Call `after` behind every commit of the store, also of those without a disk call between.

    Only while this lasts: the shard that is shipped knows nothing of it. is_full: asked before
    each commit whether it is to fail as on a full disk.
    """
    write = Env.write

    def write_watched(env: Env, fill: Callable[[Writer], Result]) -> Result:
        if is_full():
            raise IndexFull("no space left")
        result = write(env, fill)
        after()
        return result

    Env.write = write_watched  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Env.write = write  # type: ignore[method-assign]


def _is_delta(name: str) -> bool:
    return name.rpartition("/")[2].startswith("delta-")


def read_metas(directory: Path) -> bytes:
    """Return the two meta pages of an environment, empty if it has none."""
    try:
        with (directory / DATA_FILE).open("rb") as file:
            return file.read(META_SIZE)
    except FileNotFoundError:
        return b""
