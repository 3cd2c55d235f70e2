"""Turning transactions into frames: what is no change is left out, guards are judged in order."""

import struct
from collections.abc import Callable, Sequence
from typing import Final

from molia.base.limits import KEY_SIZE_MAX, VALUE_SIZE_MAX
from molia.store.disk import Buffer
from molia.store.frame import BODY, CHUNK_SIZE, FIXED_SIZE, MAGIC, MORE, encode_head, raw_crc
from molia.store.index import ENTRY, TAGS, TOMBSTONE, Entry, punch_range
from molia.store.keys import Kind
from molia.store.log import Log
from molia.store.ops import Delete, Guard, Put, Reply, Transaction
from molia.store.segment import ENTRY as FOOTER_ENTRY

Find = Callable[[bytes], bytes | None]
"""Tagged key -> packed entry, a tombstone, or None."""
Fetch = Callable[[Kind, bytes], bytes | None]
"""Kind and key -> the live value that is stored."""
_PACK: Final = ENTRY.pack
_BODY_PACK: Final = BODY.pack
_START_PACK: Final = struct.Struct("<4sI").pack
_FOOTER_PACK: Final = FOOTER_ENTRY.pack
_BLOCK: Final = int(Kind.BLOCK)
_DELETE: Final = int(Kind.DELETE)
_APPLIED: Final = Reply.APPLIED


class Batch:
    """The frames of one batch, built for the place where the log ends now."""

    def __init__(self, log: Log, find: Find, fetch: Fetch, unix_s: int) -> None:
        tail = log.tail
        self._find, self._fetch, self._unix_s = find, fetch, unix_s
        self._segment_id, self._offset, self._lsn = tail.segment_id, tail.offset, tail.next_lsn
        self._start, self._durable, self._seed = tail.offset, log.durable_lsn, log.seed
        self._staged: dict[bytes, Put | Delete] = {}
        self.buffers: list[Buffer] = []
        self.footer: list[bytes] = []
        self.keys: list[bytes] = []
        """Tagged, in order; a key may come twice."""
        self.packed: list[bytes] = []
        """The new entries of the keys."""
        self.max_expiry = 0
        self.dying_bytes = 0
        """Bytes of values that the batch makes punchable."""

    @property
    def size(self) -> int:
        """Bytes of all frames."""
        return self._offset - self._start

    @property
    def entries(self) -> list[tuple[bytes, bytes]]:
        """Tagged keys and their new packed entries, in order."""
        return list(zip(self.keys, self.packed, strict=True))

    def add_all(self, batch: Sequence[Transaction]) -> list[Reply]:
        """Stage the transactions of a batch, in order; say what becomes of each.

        Those that put one new block or row are done at once: they come in hundreds.
        """
        find, staged, replies = self._find, self._staged, []
        unix_s, seed, durable = self._unix_s, self._seed, self._durable
        segment_id, offset, lsn = self._segment_id, self._offset, self._lsn
        add_buffer, add_key = self.buffers.append, self.keys.append
        add_packed, add_line = self.packed.append, self.footer.append
        for transaction in batch:
            ops, guard = transaction
            op = ops[0] if len(ops) == 1 else None
            if guard is None and type(op) is Put:
                kind, key, value, expiry, _ = op
                tagged, klen, vlen = TAGS[kind] + key, len(key), len(value)
                if (
                    0 < vlen <= CHUNK_SIZE and klen <= KEY_SIZE_MAX
                    and (kind != _BLOCK or (tagged not in staged and find(tagged) is None))
                ):  # fmt: skip
                    staged[tagged] = op
                    at = offset + FIXED_SIZE + klen
                    body = _BODY_PACK(
                        kind, 0, klen, vlen, lsn, durable, expiry, raw_crc(value), unix_s, 0
                    ) + key  # fmt: skip
                    add_buffer(_START_PACK(MAGIC, raw_crc(body, seed)) + body)
                    add_buffer(value)
                    add_key(tagged)
                    add_packed(_PACK(segment_id, at, vlen, expiry, 0))
                    add_line(_FOOTER_PACK(kind, klen, vlen, expiry, lsn, at) + key)
                    offset, lsn = at + vlen, lsn + 1
                    if expiry > self.max_expiry:
                        self.max_expiry = expiry
                    replies.append(_APPLIED)
                    continue
            self._offset, self._lsn = offset, lsn
            replies.append(self.add(transaction))
            offset, lsn = self._offset, self._lsn
        self._offset, self._lsn = offset, lsn
        return replies

    def add(self, transaction: Transaction) -> Reply:
        """Stage a transaction; REFUSED when its guard does not hold."""
        guard = transaction.guard
        if guard is not None and not self._holds(guard):
            return Reply.REFUSED
        ops = transaction.ops
        if len(ops) == 1:
            op = ops[0]
            tagged = TAGS[op.kind] + op.key
            if self._changes(tagged, op):
                self._staged[tagged] = op
                self._frame(tagged, op, 0)
            return _APPLIED
        changes = []
        for op in ops:
            tagged = TAGS[op.kind] + op.key
            if self._changes(tagged, op):
                self._staged[tagged] = op
                changes.append((tagged, op))
        left = len(changes)
        for tagged, op in changes:
            left -= 1
            self._frame(tagged, op, MORE if left else 0)
        return _APPLIED

    def _holds(self, guard: Guard) -> bool:
        op = self._staged.get(TAGS[guard.kind] + guard.key)
        if op is None:
            return self._fetch(guard.kind, guard.key) == guard.value
        if isinstance(op, Delete) or 0 < op.expiry <= self._unix_s:
            return guard.value is None
        return guard.value is not None and bytes(op.value) == guard.value

    def _changes(self, tagged: bytes, op: Put | Delete) -> bool:
        """Tell whether an operation changes anything."""
        is_put = type(op) is Put
        if is_put and op.kind != _BLOCK:
            return True
        staged = self._staged.get(tagged)
        if staged is not None:
            there = isinstance(staged, Put)
            alive = isinstance(staged, Put) and not 0 < staged.expiry <= self._unix_s
            return there if isinstance(op, Delete) else op.overwrite or not alive
        packed = self._find(tagged)
        if packed is None or packed[-1] & TOMBSTONE:
            return is_put
        entry = Entry.unpack(packed)
        expired = 0 < entry.expiry <= self._unix_s
        if isinstance(op, Put) and not op.overwrite and not expired:
            return False
        place = punch_range(entry.value_offset, entry.vlen)
        if place is not None:
            self.dying_bytes += place[1] - place[0]
        return True

    def _frame(self, tagged: bytes, op: Put | Delete, more: int) -> None:
        key, lsn = op.key, self._lsn
        kind: int
        klen = len(key)
        assert klen <= KEY_SIZE_MAX, "keys stay within their bound"
        if type(op) is Put:
            kind, _, value, expiry, _ = op
            vlen = len(value)
            assert vlen <= VALUE_SIZE_MAX, "values stay within their bound"
            head = encode_head(
                kind, more, key, value, lsn, self._durable, expiry, self._unix_s, self._seed
            )
            at = self._offset + len(head)
            self.buffers.append(head)
            if vlen:
                self.buffers.append(value)
            if expiry > self.max_expiry:
                self.max_expiry = expiry
            entry = _PACK(self._segment_id, at, vlen, expiry, 0)
        else:
            more |= op.kind << 4
            vlen = expiry = 0
            head = encode_head(
                _DELETE, more, key, b"", lsn, self._durable, 0, self._unix_s, self._seed
            )
            at = self._offset + len(head)
            self.buffers.append(head)
            entry, kind = _PACK(self._segment_id, at, 0, 0, TOMBSTONE), _DELETE | op.kind << 4
        self.keys.append(tagged)
        self.packed.append(entry)
        self.footer.append(_FOOTER_PACK(kind, klen, vlen, expiry, lsn, at) + key)
        self._offset, self._lsn = at + vlen, lsn + 1
