"""What a node knows of the other holders of its blobs: who has which share, what audits found.

One row for each blob that is kept for others, or that was placed, on the blob's home shard: a node
with 100,000 of them has none of it in memory.
Source: docs/reference/audit-and-repair.md, "Watching".
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import Damaged
from molia.base.hashing import DIGEST_SIZE
from molia.base.now import Now
from molia.blobs.audit import AuditRecord
from molia.blobs.placement import Place
from molia.node.context import Context
from molia.store import keys
from molia.store.keys import Kind, Space
from molia.store.ops import Delete, Put, Transaction
from molia.store.rows import WatchedRow
from molia.wire.addresses import Address

FORGET_S: Final = 2 * 86_400
"""For so long a holder that no look-up finds any more is watched: its record may just be late."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A node that says to have shares of a blob."""

    shares: tuple[int, ...]
    is_whole: bool
    """It has all of the blob, for itself."""
    address: Address
    found_unix_s: int = 0
    """When a look-up found it last."""


@dataclass(slots=True)
class Watched:
    """The others that have a blob."""

    looked_unix_s: int = 0
    holders: dict[bytes, Seen] = field(default_factory=dict)
    audits: dict[Place, AuditRecord] = field(default_factory=dict)
    spares: dict[int, int] = field(default_factory=dict)
    """Shares that are here and at another that answers as well, with the unix second since when."""

    @property
    def lost(self) -> frozenset[Place]:
        """What audits lost."""
        return frozenset(place for place, record in self.audits.items() if record.is_lost)

    def take(self, found: Iterable[tuple[bytes, Seen]], *, unix_s: float) -> None:
        """Take what a look-up gave; who is in it no more is forgotten when it was long ago."""
        self.looked_unix_s = int(unix_s)
        old = {
            key: seen for key, seen in self.holders.items()
            if seen.found_unix_s + FORGET_S > unix_s
        }  # fmt: skip
        new = {key: replace(seen, found_unix_s=self.looked_unix_s) for key, seen in found}
        self.holders = new | {key: seen for key, seen in old.items() if key not in new}
        for key in list(self.holders)[limits.WATCHED_HOLDERS_MAX :]:
            del self.holders[key]
        self.audits = {
            place: record for place, record in self.audits.items() if place.key in self.holders
        }

    def settled(self, *, unix_s: float, after_s: float) -> frozenset[Place]:
        """Return what is here too and has long been at others, as audits of ours found it."""
        return frozenset(
            place for place, record in self.audits.items()
            if place.share in self.spares
            and self.spares[place.share] + after_s <= unix_s
            and record.sound_unix_s >= self.spares[place.share]
            and not record.failures
        )  # fmt: skip

    def add(
        self, placed: Mapping[bytes, tuple[tuple[int, ...], Address]], *, unix_s: float
    ) -> bool:
        """Take what was just placed; False when all of it was known."""
        before = dict(self.holders)
        for key, (shares, address) in placed.items():
            seen = self.holders.get(key)
            if seen is None and len(self.holders) < limits.WATCHED_HOLDERS_MAX:
                self.holders[key] = Seen(
                    shares, is_whole=False, address=address, found_unix_s=int(unix_s)
                )
            elif seen is not None and not set(shares) <= set(seen.shares):
                every = tuple(sorted({*shares, *seen.shares}))
                self.holders[key] = replace(seen, shares=every, found_unix_s=int(unix_s))
        return self.holders != before

    def encode(self) -> bytes:
        """Return the row."""
        holders = [
            [
                key.hex(),
                list(seen.shares),
                seen.address[0],
                seen.address[1],
                seen.is_whole,
                seen.found_unix_s,
            ]
            for key, seen in self.holders.items()
        ]
        audits = [
            [place.key.hex(), place.share, record.encode().hex()]
            for place, record in self.audits.items()
        ]
        seen = {"holders": holders, "audits": audits}
        if self.spares:
            seen["spares"] = [[share, since] for share, since in self.spares.items()]
        return WatchedRow(self.looked_unix_s, {**seen}).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Watched":
        """Return what a row says; nothing of parts that make no sense. Raises Damaged."""
        row = WatchedRow.decode(data)
        made = cls(row.looked_unix_s)
        for each in _list(row.seen.get("holders")):
            match each:
                case [str(key), list(shares), str(host), int(port), bool(is_whole), int(at)]:
                    known = tuple(share for share in shares if isinstance(share, int))
                    if (name := _key(key)) is not None:
                        made.holders[name] = Seen(known, is_whole, (host, port), at)
        for each in _list(row.seen.get("audits")):
            match each:
                case [str(key), int(share), str(record)]:
                    if (name := _key(key)) is not None and (packed := _bytes(record)) is not None:
                        made.audits[Place(share, name)] = AuditRecord.decode(packed)
        for each in _list(row.seen.get("spares")):
            match each:
                case [int(share), int(since)]:
                    made.spares[share] = since
        return made


def _list(value: object) -> list[Any]:
    return value[: 16 * limits.WATCHED_HOLDERS_MAX] if isinstance(value, list) else []


def _bytes(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def _key(text: str) -> bytes | None:
    key = _bytes(text)
    return key if key is not None and len(key) == DIGEST_SIZE else None


class WatchedRows:
    """The rows, read in threads and written on the home shard."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get(self, cid: Cid, now: Now) -> Watched:
        """Return what is known; nothing where the row is missing or damaged."""
        try:
            row = self._context.catalog.home(cid).get(Kind.META, keys.watched_key(cid), now=now)
            return Watched() if row is None else Watched.decode(row)
        except Damaged:
            return Watched()

    async def put(self, cid: Cid, watched: Watched) -> None:
        """Note what is known."""
        put = Put(Kind.META, keys.watched_key(cid), watched.encode())
        await self._context.home_writer(cid).write(Transaction((put,)))

    async def drop(self, cid: Cid) -> None:
        """Forget a blob that is no longer ours to watch."""
        gone = Delete(Kind.META, keys.watched_key(cid))
        await self._context.home_writer(cid).write(Transaction((gone,)))

    def slices(self, space: Space) -> Iterator[list[Cid]]:
        """Yield the blobs that have a row in a space, on the shards that this worker writes.

        As many at a time as are looked at side by side.
        """
        prefix, context = bytes((space,)), self._context
        for writer in context.shards.own:
            after = b""
            while True:
                now = context.now()
                rows = writer.shard.scan(
                    Kind.META, prefix, now=now, after=after, limit=limits.LOOKS_AT_ONCE
                )
                found: list[Cid] = []
                for row in rows:
                    try:
                        found.append(keys.split_blob_key(row.key))
                    except ValueError:
                        continue
                yield found
                if len(rows) < limits.LOOKS_AT_ONCE:
                    break
                after = rows[-1].key
