"""What the DHT keeps for others, as rows of the store: RECORD and PROVIDER keys are locations.

Reading is immediate and from any shard, whichever worker writes it. Writing goes through the
shard's writer, guarded by the row that the decision was made on.
Source: docs/reference/store-format.md, "Keys".
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import structlog

from molia.base import limits
from molia.base.errors import Damaged, MoliaError, ShardUnavailable
from molia.dht import held
from molia.dht.effects import Store
from molia.node.context import Context
from molia.node.shards import ReadShard, rows_of
from molia.store.keys import Kind
from molia.store.ops import Delete, Guard, Put, Reply, Transaction

log = structlog.get_logger(__name__)

KINDS: Final = {held.RECORD: Kind.RECORD, held.PROVIDERS: Kind.PROVIDER}
"""The store's kinds, by the DHT's."""
_PLACE_SIZE: Final = 32


@dataclass(slots=True)
class RowCounters:
    """What became of the rows of the DHT."""

    written: int = 0
    raced: int = 0
    """Writes whose row had changed meanwhile."""
    failed: int = 0
    """Writes that the store did not take."""
    unreadable: int = 0
    """Reads of a row that is damaged, or of a shard that cannot be read now."""


class Rows:
    """The DHT's `Shelf` in the store of this node."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.counters = RowCounters()
        self.held = dict.fromkeys(KINDS.values(), 0)
        """Records of each kind on the shards of this worker, as counted last and changed since.

        A location's row has one record, or up to 64 provider records: how many, its size tells.
        """
        self._writing = 0

    # ------------------------------------------------------------------ reading

    def read(self, kind: int, loc: bytes) -> bytes | None:
        """Return the row at a location; None when there is none that can be read."""
        named = KINDS[kind]
        try:
            shard = self._context.shards.shard_of(named, loc)
            return shard.get(named, loc, now=self._context.now())
        except (Damaged, ShardUnavailable):
            self.counters.unreadable += 1
            return None

    def locations(self, kind: int, start: bytes, limit: int) -> Iterable[bytes]:
        """Return up to `limit` locations with a row, in order, from `start` on, of all shards."""
        named, after = KINDS[kind], _before(start)
        pages = [self._page(shard, named, after, limit) for shard in self._context.shards.shards]
        return list(islice(heapq.merge(*pages), limit))

    def _page(self, shard: ReadShard, kind: Kind, after: bytes, limit: int) -> list[bytes]:
        try:
            rows = shard.scan(kind, b"", now=self._context.now(), after=after, limit=limit)
        except (Damaged, ShardUnavailable):
            self.counters.unreadable += 1
            return []
        return [row.key for row in rows]

    def count(self) -> None:
        """Count the records on the shards of this worker; to be run in a thread.

        Of a kind that cannot be read now the last count stays.
        """
        for kind, named in KINDS.items():
            try:
                self.held[named] = sum(
                    self._count_in(writer.shard, kind) for writer in self._context.shards.own
                )
            except (Damaged, ShardUnavailable):
                self.counters.unreadable += 1

    def _count_in(self, shard: ReadShard, kind: int) -> int:
        rows = rows_of(shard, KINDS[kind], b"", self._context.now())
        return sum(held.held_in(kind, row.size) for row in rows)

    # ------------------------------------------------------------------ writing

    async def write(self, wanted: Store) -> bool:
        """Return whether the row was written; False when another one was there, or it failed."""
        if self._writing >= limits.DHT_WRITES_MAX:
            self.counters.failed += 1
            return False
        self._writing += 1
        try:
            reply = await self._context.shards.writer_of(KINDS[wanted.kind], wanted.loc).write(
                _transaction(wanted)
            )
        except MoliaError as error:
            self.counters.failed += 1
            log.debug("dht_row_not_written", reason=str(error))
            return False
        finally:
            self._writing -= 1
        if reply is not Reply.APPLIED:
            self.counters.raced += 1
            return False
        self.counters.written += 1
        self._count_change(wanted)
        return True

    def _count_change(self, wanted: Store) -> None:
        change = _count(wanted.kind, wanted.row) - _count(wanted.kind, wanted.expected)
        if change:
            kind = KINDS[wanted.kind]
            self.held[kind] = max(0, self.held[kind] + change)


def _count(kind: int, row: bytes | None) -> int:
    return 0 if row is None else held.held_in(kind, len(row))


def _transaction(wanted: Store) -> Transaction:
    kind = KINDS[wanted.kind]
    op = (
        Delete(kind, wanted.loc)
        if wanted.row is None
        else Put(kind, wanted.loc, wanted.row, wanted.expires_unix_s)
    )
    return Transaction((op,), Guard(kind, wanted.loc, wanted.expected))


def _before(start: bytes) -> bytes:
    """Return the key after which a scan begins with `start`."""
    number = int.from_bytes(start, "big")
    return (number - 1).to_bytes(_PLACE_SIZE, "big") if number else b""
