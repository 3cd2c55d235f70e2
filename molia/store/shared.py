"""A shard of another process, to be read: what the delta and the index say, checked the same way.

A look-up takes a snapshot of the delta and then one of the index, so a checkpoint that ends
between the two hides nothing. Then it looks whether the delta's directory is still there: a
writer that starts anew removes it before it acknowledges anything, so what was found beside an
existing one is as new as can be. Else everything is opened anew and looked up again.
Source: docs/explanation/workers.md.
"""

from itertools import count
from threading import Condition
from typing import Final

from molia.base.errors import ShardUnavailable
from molia.base.now import Now
from molia.store.delta import DeltaView, delta_name, epochs
from molia.store.disk import Disk
from molia.store.files import SegmentFiles
from molia.store.frame import store_seed
from molia.store.index import TAGS, TOMBSTONE, Index
from molia.store.keys import Kind
from molia.store.lmdb_env import IndexFailed
from molia.store.log import Home
from molia.store.migrate import shard_name
from molia.store.opening import index_name, index_numbers
from molia.store.ops import Counters, Row, ShardOptions
from molia.store.reader import Items, ValueReader

_RENEWALS_MAX: Final = 3
"""A writer would have to start anew so many times within one look-up."""
_DATA_FILE: Final = "data.mdb"


class View:
    """The delta and the index of one epoch."""

    def __init__(self, home: Home, index: Index, delta: DeltaView, epoch: int) -> None:
        self._disk = home.disk
        self._index, self._delta = index, delta
        self._delta_file = f"{delta_name(home, epoch)}/{_DATA_FILE}"

    def find(self, tagged: bytes) -> bytes | None:
        """Return the packed entry of a key that is there. Raises IndexFailed."""
        packed = self._delta.get(tagged)  # before the index
        if packed is None:
            return self._index.get(tagged)
        return None if packed[-1] & TOMBSTONE else packed

    def pages(
        self, kind: Kind, prefix: bytes, after: bytes, limit: int
    ) -> tuple[list[tuple[Items, bool]], Items]:
        """See `ValueReader.pages`."""
        tag = TAGS[kind]
        newer = self._delta.pages(tag + after, tag + prefix, limit)  # before the index
        with self._index.read() as snapshot:
            return newer, snapshot.page(kind, after, prefix, limit)

    def is_current(self) -> bool:
        """Tell whether no writer had acknowledged anything elsewhere when this was read."""
        return self._disk.exists(self._delta_file)

    def close(self) -> None:
        """Close both; nobody may be reading."""
        self._delta.close()
        self._index.close()


class _Unknown:
    """What is punched by another process is not known here: see `reader.Punched`."""

    def __init__(self) -> None:
        self._numbers = count()

    @property
    def epoch(self) -> int:
        return next(self._numbers)


class SharedReader(ValueReader):
    """Reads by way of the newest view; any thread may ask."""

    def __init__(self, home: Home, options: ShardOptions, counters: Counters) -> None:
        super().__init__(
            files=SegmentFiles(home, options.open_files), counters=counters,
            seed=store_seed(home.store_uuid), punched=_Unknown(),
        )  # fmt: skip
        self._home, self._options = home, options
        self._view: View | None = None
        self._users = 0
        self._renewing = self._closed = False
        self._gate = Condition()

    def find(self, tagged: bytes) -> bytes | None:
        """Return the packed entry of a key that is there, expired or not."""
        for _ in range(_RENEWALS_MAX):
            view = self._enter()
            try:
                packed = view.find(tagged)
                if view.is_current():
                    return packed
            finally:
                self._leave()
            self.renew(view)
        raise _not_ready(self._home)

    def pages(
        self, kind: Kind, prefix: bytes, after: bytes, count: int
    ) -> tuple[list[tuple[Items, bool]], Items]:
        """See `ValueReader.pages`."""
        for _ in range(_RENEWALS_MAX):
            view = self._enter()
            try:
                found = view.pages(kind, prefix, after, count)
                if view.is_current():
                    return found
            finally:
                self._leave()
            self.renew(view)
        raise _not_ready(self._home)

    def renew(self, old: View | None) -> View:
        """Open what the writer has now in place of `old`. Raises ShardUnavailable."""
        with self._gate:
            self._gate.wait_for(lambda: not self._renewing)
            if self._view is not None and self._view is not old:
                return self._view  # another thread was faster
            if self._closed:
                raise _not_ready(self._home)
            self._renewing = True  # keeps others from entering
            self._gate.wait_for(lambda: self._users == 0)
            try:
                if self._view is not None:
                    self._view.close()
                    self._view = None
                self._forget_all()  # a name may stand for another file by now
                self._view = open_view(self._home, self._options)
                return self._view
            finally:
                self._renewing = False
                self._gate.notify_all()

    def close(self) -> None:
        """Let go of everything, once nobody reads."""
        with self._gate:
            self._gate.wait_for(lambda: not self._renewing and self._users == 0)
            self._closed = True
            if self._view is not None:
                self._view.close()
                self._view = None
        self._forget_all()

    def _enter(self) -> View:
        with self._gate:
            if self._renewing:
                self._gate.wait_for(lambda: not self._renewing)
            view = self._view
            if view is not None:
                self._users += 1
                return view
        self.renew(None)
        return self._enter()

    def _leave(self) -> None:
        with self._gate:
            self._users -= 1
            if not self._users:
                self._gate.notify_all()


class SharedShard:
    """A shard that another process writes, with the reading methods of `Shard`."""

    def __init__(self, disk: Disk, index: int, *, store_uuid: bytes, options: ShardOptions) -> None:
        self._home = Home(disk, shard_name(index), index, store_uuid)
        self.counters = Counters()
        self._reader = SharedReader(self._home, options, self.counters)

    def open(self) -> None:
        """Open the shard, as the first look-up would. Raises ShardUnavailable until its writer has.

        Opening it again is fine.
        """
        self._reader.renew(None)

    @property
    def index(self) -> int:
        """The shard's number."""
        return self._home.index

    def get(
        self, kind: Kind, key: bytes, *, now: Now, start: int = 0, stop: int | None = None,
        check: bool = True,
    ) -> bytes | None:  # fmt: skip
        """See `Shard.get`."""
        return self._reader.get(kind, key, now.unix_s, start=start, stop=stop, check=check)

    def size_of(self, kind: Kind, key: bytes, *, now: Now) -> int | None:
        """See `Shard.size_of`."""
        return self._reader.size_of(kind, key, now.unix_s)

    def scan(
        self, kind: Kind, prefix: bytes, *, now: Now, after: bytes = b"", limit: int
    ) -> list[Row]:
        """See `Shard.scan`."""
        return self._reader.scan(kind, prefix, now.unix_s, after=after, limit=limit)

    def close(self) -> None:
        """Let go of everything; nothing may be called afterwards."""
        self._reader.close()


def open_view(home: Home, options: ShardOptions) -> View:
    """Return the newest whole view of a shard. Raises ShardUnavailable."""
    for number in reversed(index_numbers(home)):  # one that is being built has no epoch yet
        try:
            index = Index(
                home.disk.path_of(index_name(home, number)), map_bytes=options.map_bytes,
                writable=False,
            )  # fmt: skip
        except IndexFailed:
            continue
        try:
            epoch = index.number(b"epoch")
            if epoch in epochs(home.disk, home.name):
                delta = DeltaView.open(home, epoch, map_bytes=options.delta_map_bytes)
                return View(home, index, delta, epoch)
        except IndexFailed:
            pass
        index.close()
    raise _not_ready(home)


def _not_ready(home: Home) -> ShardUnavailable:
    return ShardUnavailable(
        f"{home.name} is not open in the process that writes it", hint="try again in a moment"
    )
