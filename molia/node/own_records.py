"""The mutable records that this node signs: kept in the store, put again before they expire.

A record's row lies on one shard, and the worker that writes this shard puts it: one put of a name
at a time. The highest seq that was ever used is on disk before a record is sent, so that no crash
makes the node sign two values under one seq.
Source: docs/reference/dht-node.md, "Own records".
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import structlog

from molia.base import limits
from molia.base.crypto import Identity
from molia.base.errors import (
    Busy,
    Damaged,
    LookupTimedOut,
    MoliaError,
    NotJoined,
    PreconditionFailed,
    RecordNotFound,
    RecordStale,
)
from molia.base.ids import network_label
from molia.base.now import Now
from molia.base.views import RecordPut, RecordView
from molia.dht.blinding import locations, period_offset_s
from molia.dht.records import RecordAddress, publish
from molia.dht.republish import Republisher
from molia.dht.results import Stored
from molia.node.context import Context
from molia.node.dht import Dht
from molia.node.finding import Finder
from molia.node.loading import Loading
from molia.node.shards import ReadShard, keys_of
from molia.store import keys
from molia.store.keys import Kind, Space
from molia.store.ops import Guard, Put, Reply, Transaction
from molia.store.rows import OwnRecordRow

log = structlog.get_logger(__name__)

PUT_S: Final = 30.0
LIFE_S: Final = limits.RECORD_AHEAD_S
IDLE_S: Final = 60.0
TRIES: Final = 3
"""How often a put goes on from a later record that others hold, when no seq was asked for."""
_NEW: Final = OwnRecordRow(used_seq=0, seq=0, value=b"", expires_unix_s=0)


class OwnRecords:
    """The records of one node, as one of its workers keeps them."""

    def __init__(self, context: Context, dht: Dht, identity: Identity) -> None:
        self._context, self._dht, self._identity = context, dht, identity
        self._finder = Finder(context, dht)
        self._label = bytes.fromhex(network_label(context.network))
        self._schedule = Republisher(entropy=context.entropy)
        self._turns: dict[bytes, asyncio.Lock] = {}
        """One put of a name at a time; kept while somebody waits."""
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loading = Loading(context, "own records", self._rows, self._take)

    # ------------------------------------------------------------------ asked

    async def put(self, salt: bytes, value: bytes, *, if_seq: int | None = None) -> RecordPut:
        """Sign a value under a name, publish it, keep it alive; on whichever worker has its row.

        Raises as `NodeService.put_record`.
        """
        owner = self._owner(salt)
        if owner == self._context.team.seat.index:
            return await self._put_here(salt, value, if_seq)
        told = await self._context.team.ask(owner, "record_put", [salt, value, if_seq])
        return RecordPut(**told)

    async def put_for(self, asked: Any) -> object:  # noqa: ANN401 - as `put` packed it
        """Put what another worker of this node was asked to; return the result as CBOR values."""
        salt, value, if_seq = asked
        return asdict(await self._put_here(bytes(salt), bytes(value), if_seq))

    async def views(self) -> tuple[RecordView, ...]:
        """Return the records that are kept alive, by name."""
        found = await self._context.offload.run(self._all_rows)
        views = [self._view(salt, row) for salt, row in found if row.seq]
        return tuple(sorted(views, key=lambda view: view.address))

    def kept(self, salt: bytes) -> RecordView | None:
        """Return a record that is kept alive and has not run out. Raises Damaged."""
        row = self._read(salt)
        is_live = row.seq and row.expires_unix_s > self._context.now().unix_s
        return self._view(salt, row) if is_live else None

    def _view(self, salt: bytes, row: OwnRecordRow) -> RecordView:
        return RecordView(
            address=str(RecordAddress(self._context.peer, salt)), value=row.value, seq=row.seq,
            expires_unix_s=row.expires_unix_s,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._schedule)

    @property
    def unread(self) -> int:
        """How often a shard gave less than all of them at the start."""
        return self._loading.failed

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """Put again what is due, for as long as the node lives."""
        await self._loading.once()
        rest = asyncio.ensure_future(self._loading.rest())
        self._tasks.add(rest)
        try:
            while True:
                if self._dht.engine.is_joined:
                    for salt in self._schedule.due(self._context.now()):
                        self._spawn(salt)
                await self._wait()
        finally:
            for task in list(self._tasks):
                task.cancel()

    def _take(self, rows: Sequence[tuple[bytes, OwnRecordRow]]) -> None:
        now = self._context.now()
        for salt, row in rows:
            if row.seq:
                self._add(salt, now, is_stored=False)

    async def _wait(self) -> None:
        due_s = self._schedule.next_deadline_s()
        wait_s = IDLE_S if due_s is None else min(IDLE_S, due_s - self._context.now().mono_s)
        if not self._dht.engine.is_joined:
            wait_s = max(wait_s, 1.0)
        self._wake.clear()
        try:
            async with asyncio.timeout(max(0.05, wait_s)):
                await self._wake.wait()
        except TimeoutError:
            return

    def _spawn(self, salt: bytes) -> None:
        task = asyncio.ensure_future(self._republish(salt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _add(self, salt: bytes, now: Now, *, is_stored: bool) -> None:
        offset_s = period_offset_s(self._context.peer)
        self._schedule.add(
            self._name(salt), now, offset_s=offset_s, lifetime_s=LIFE_S, is_stored=is_stored
        )
        self._wake.set()

    async def _republish(self, name: bytes) -> None:
        salt, ok = name[1:], False
        try:
            async with self._turn(salt):
                row = self._read(salt)
                if row.seq:
                    stored = await self._send(salt, row.value, row.seq, None)
                    ok = stored.acks > 0
                    if stored.stale_seq > row.seq:  # somebody else has our key: theirs is newer
                        ok = True
                    if ok:
                        await self._write(salt, row, self._renewed(row))
        except MoliaError as error:
            log.debug("record_not_put_again", reason=str(error))
        self._schedule.on_done(name, self._context.now(), ok=ok)
        self._wake.set()

    # ------------------------------------------------------------------ one put

    async def _put_here(self, salt: bytes, value: bytes, if_seq: int | None) -> RecordPut:
        async with self._turn(salt):
            for _ in range(TRIES):
                row = self._read(salt)
                if if_seq is not None and if_seq != row.seq:
                    held_seq = max(row.seq, await self._held_seq(salt))
                    if held_seq != if_seq:
                        raise _mismatch(held_seq)
                result = await self._try(salt, row, value, if_seq)
                if result is not None:
                    return result
        raise Busy("the record is being put from elsewhere")

    async def _try(
        self, salt: bytes, row: OwnRecordRow, value: bytes, if_seq: int | None
    ) -> RecordPut | None:
        """Put once; None: others hold a later record, which is noted: try again."""
        if not self._dht.engine.is_joined:
            raise NotJoined
        seq = max(row.used_seq, if_seq or 0) + 1
        noted = await self._write(salt, row, replace(row, used_seq=seq))
        stored = await self._send(salt, value, seq, if_seq)
        if stored.is_mismatch:
            raise _mismatch(stored.held_seq)
        if stored.stale_seq > seq or (stored.stale_seq == seq and not stored.acks):
            await self._write(salt, noted, replace(noted, used_seq=stored.stale_seq))
            if if_seq is not None:
                raise RecordStale(stored.stale_seq)
            return None
        if not stored.acks:
            raise LookupTimedOut("no node took the record")
        expires = int(self._context.now().unix_s) + LIFE_S
        done = OwnRecordRow(used_seq=seq, seq=seq, value=value, expires_unix_s=expires)
        await self._write(salt, noted, done)
        self._add(salt, self._context.now(), is_stored=True)
        return RecordPut(
            address=str(RecordAddress(self._context.peer, salt)), seq=seq,
            expires_unix_s=expires, acks=stored.acks,
            created=row.seq == 0 and not stored.held_seq,
        )  # fmt: skip

    async def _held_seq(self, salt: bytes) -> int:
        """Return the seq that the network holds: somebody else may have our key too."""
        try:
            found = await self._finder.record(self._context.peer, salt, consistent=True)
        except RecordNotFound:
            return 0
        return found.seq

    async def _send(self, salt: bytes, value: bytes, seq: int, cas: int | None) -> Stored:
        """Sign for now's places and put; raises LookupTimedOut."""
        context, now = self._context, self._context.now()
        signed = [
            publish(
                self._identity, context.network, salt, value, seq=seq,
                expires=int(now.unix_s) + LIFE_S, period=place.period,
            )
            for place in locations(context.network, context.peer, salt, now.unix_s)
        ]  # fmt: skip

        def begin(then: Now) -> int:
            return self._dht.engine.put_record([each.encoded for each in signed], then, cas=cas)

        stored = await self._dht.run_operation("put", begin, timeout_s=PUT_S)
        assert isinstance(stored, Stored), "a put ends so"
        return stored

    # ------------------------------------------------------------------ rows

    def _name(self, salt: bytes) -> bytes:
        """Return what the schedule knows a record by; no name there is empty."""
        return b"=" + salt

    def _key(self, salt: bytes) -> bytes:
        return keys.own_record_key(self._label, salt)

    def _owner(self, salt: bytes) -> int:
        shard = keys.shard_of(Kind.META, self._key(salt), self._context.shards.count)
        return self._context.team.owner(shard)

    def _turn(self, salt: bytes) -> asyncio.Lock:
        if len(self._turns) > limits.OWN_RECORDS_MAX:
            self._turns = {name: turn for name, turn in self._turns.items() if turn.locked()}
        return self._turns.setdefault(salt, asyncio.Lock())

    def _read(self, salt: bytes) -> OwnRecordRow:
        key = self._key(salt)
        found = self._context.shards.shard_of(Kind.META, key).get(
            Kind.META, key, now=self._context.now()
        )
        return _NEW if found is None else OwnRecordRow.decode(found)

    async def _write(self, salt: bytes, old: OwnRecordRow, new: OwnRecordRow) -> OwnRecordRow:
        """Replace a row; return what is there now. Raises Busy when somebody else wrote it."""
        key = self._key(salt)
        if old == _NEW and new.used_seq and len(self._schedule) >= limits.OWN_RECORDS_MAX:
            raise Busy(f"a node keeps at most {limits.OWN_RECORDS_MAX} records alive")
        guard = Guard(Kind.META, key, None if old == _NEW else old.encode())
        reply = await self._context.shards.writer_of(Kind.META, key).write(
            Transaction((Put(Kind.META, key, new.encode()),), guard)
        )
        if reply is not Reply.APPLIED:
            raise Busy("the record is being put by another worker")
        return new

    def _renewed(self, row: OwnRecordRow) -> OwnRecordRow:
        return replace(row, expires_unix_s=int(self._context.now().unix_s) + LIFE_S)

    def _all_rows(self) -> list[tuple[bytes, OwnRecordRow]]:
        """Return those of all shards; a thread's work. Raises ShardUnavailable."""
        return [row for shard in self._context.shards.shards for row in self._rows(shard)]

    def _rows(self, shard: ReadShard) -> Iterator[tuple[bytes, OwnRecordRow]]:
        """Yield the rows of a shard; one that is damaged is left out. Raises ShardUnavailable."""
        prefix, now = bytes((Space.OWN_RECORD,)) + self._label, self._context.now()
        for key in keys_of(shard, Kind.META, prefix, now):
            try:
                value = shard.get(Kind.META, key, now=now)
                row = None if value is None else OwnRecordRow.decode(value)
            except Damaged:
                log.warning("own_record_unreadable", shard_index=shard.index)
                continue
            if row is not None:
                yield key[len(prefix) :], row


def _mismatch(held_seq: int) -> PreconditionFailed:
    return PreconditionFailed(
        "the record has another seq", hint=f'its ETag is "{held_seq}"' if held_seq else ""
    )
