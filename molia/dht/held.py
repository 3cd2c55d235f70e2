"""What a node holds for others: rows, and the rules by which they change. All of it is pure.

A rule takes the row that is there, what was offered (verified before), and the time; it gives the
code for the sender and the row to store. Whoever stores it does so only if the row it decided on
is still there (compare and set), and else decides again: so of many writers at one moment one wins.
Source: docs/reference/records.md, "Rows" and "Rules"; docs/reference/provider-records.md, "Rules".
"""

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple

from molia.base.hashing import blake2b_digest
from molia.base.limits import (
    CLOCK_SKEW_S,
    DIGEST_ENTRIES_MAX,
    PROVIDERS_CACHE_MAX,
    PROVIDERS_OLD,
    PROVIDERS_OLDEST_TOLD,
    PROVIDERS_PER_LOC_MAX,
    PROVIDERS_PER_MESSAGE_MAX,
    PROVIDERS_PER_PREFIX_MAX,
    PROVIDERS_RANDOM_TOLD,
    RECORD_AHEAD_S,
)
from molia.dht.providers import Kind, Outline, ProviderRecord, outline
from molia.dht.records import SignedRecord, parse
from molia.wire.dht_messages import DIGEST_ENTRY_SIZE, AddCode, PutCode

RECORD: Final = 1
PROVIDERS: Final = 2
"""The kinds of rows; a location of one has nothing to do with the same location of the other."""

_LIVE, _FLOOR, _MANY = 1, 2, 1
_HEAD: Final = Struct(">BQQ")
"""Of a record's row: form, seq, and until when."""
_ENTRY: Final = Struct(">QH")
"""Of a provider record in its row: since when it is held without a gap, and its size."""
_ENTRY_TYPICAL: Final = 220
"""Bytes of a provider record in its row: 210 to 230 with one hint, of one address family or the
other; 294 at most."""
_DIGEST_ENTRY: Final = Struct(">8s4sB")
_CROWD: Final = b"\xff" * 4
"""The summary of a location with so many providers that holders need not agree on them."""
assert _DIGEST_ENTRY.size == DIGEST_ENTRY_SIZE, "entries have one size"


class Decision(NamedTuple):
    """What follows from an offered record."""

    code: PutCode
    row: bytes | None = None
    """To store in place of the row decided on; None: leave that."""
    expires: int = 0
    """When the row that is stored, or left, has to be looked at again, with `faded`."""
    current: bytes = b""
    """The other record, for the sender: the held one, or in a conflict won the one replaced."""


class AddDecision(NamedTuple):
    """What follows from an offered provider record; as `Decision`."""

    code: AddCode
    row: bytes | None = None
    expires: int = 0
    is_new: bool = False
    """Whether one more is held then: nothing of this signer was, and nobody makes room."""


class Faded(NamedTuple):
    """What is left of a row as time goes by."""

    row: bytes | None
    """None: nothing."""
    expires: int


# ---------------------------------------------------------------------------- mutable records


def decide(
    row: bytes | None, offered: SignedRecord, *, cas: int | None, unix_s: float
) -> Decision:  # fmt: skip
    """Return what becomes of an offered record; `records.check` accepted it before.

    cas: the seq that the held record must have, 0 for none. A record that is held already is fine
    whatever its cas: the sender missed our first answer.
    """
    floor, held = _held(row, unix_s)
    if held is not None and held.signature == offered.signature:
        return Decision(PutCode.OK, expires=held.expires)
    current = b"" if held is None else held.encoded
    if cas is not None and cas != (0 if held is None else held.seq):
        return Decision(PutCode.CAS_MISMATCH, current=current)
    if offered.seq < floor:
        return Decision(PutCode.STALE, current=current)
    if held is None or offered.seq > held.seq:
        return _kept(PutCode.OK, offered)
    if offered.sealed == held.sealed:
        later = offered.expires > held.expires
        return _kept(PutCode.OK, offered) if later else Decision(PutCode.OK, expires=held.expires)
    if offered.value_hash < held.value_hash:
        return _kept(PutCode.CONFLICT, offered, current)
    return Decision(PutCode.CONFLICT, current=current)


def record_in(row: bytes, *, unix_s: float) -> bytes | None:
    """Return the record in a row as it is sent; None when it has expired or is none."""
    if len(row) <= _HEAD.size or row[0] != _LIVE:
        return None
    expires: int = _HEAD.unpack_from(row)[2]
    return row[_HEAD.size :] if expires > unix_s else None


def seq_in(row: bytes) -> int:
    """Return the highest seq that was kept at the location of a row."""
    seq: int = _HEAD.unpack_from(row)[1] if len(row) >= _HEAD.size else 0
    return seq


def _held(row: bytes | None, unix_s: float) -> tuple[int, SignedRecord | None]:
    """Return the lowest seq that is taken, and the record that is held now."""
    if row is None:
        return 0, None
    encoded = record_in(row, unix_s=unix_s)
    record = None if encoded is None else parse(encoded)
    return seq_in(row), record if isinstance(record, SignedRecord) else None


def _kept(code: PutCode, record: SignedRecord, current: bytes = b"") -> Decision:
    row = _HEAD.pack(_LIVE, record.seq, record.expires) + record.encoded
    return Decision(code, row, record.expires, current)


# ---------------------------------------------------------------------------- provider records


class Entry(NamedTuple):
    """One provider record in a row, and since when it is held without a gap."""

    since: int
    record: Outline


def add(row: bytes | None, offered: ProviderRecord, *, unix_s: float) -> AddDecision:
    """Return what becomes of an offered provider record; `providers.check` accepted it before.

    One of a signer is held, the one issued last. At a full location the youngest but 16 makes room:
    who was there for long stays, and a newcomer gets in whatever the flood.
    """
    others = entries(row, unix_s=unix_s)
    before = next((e for e in others if e.record.signer == offered.signer.key), None)
    if before is not None:
        if before.record.encoded == offered.encoded:
            return AddDecision(AddCode.OK, expires=_until(others))
        if before.record.issued >= offered.issued:
            return AddDecision(AddCode.STALE, expires=_until(others))
        others.remove(before)
    same = sum(entry.record.prefix == offered.prefix for entry in others)
    if same >= PROVIDERS_PER_PREFIX_MAX:
        return AddDecision(AddCode.CROWDED)
    caches = sum(entry.record.kind == Kind.CACHE for entry in others)
    if offered.kind is Kind.CACHE and caches >= PROVIDERS_CACHE_MAX:
        return AddDecision(AddCode.FULL)
    since = int(unix_s) if before is None else before.since
    new = outline(offered.encoded)
    assert new is not None, "it was checked"
    kept = _with(others, Entry(since, new))
    is_new = before is None and len(kept) > len(others)
    return AddDecision(AddCode.OK, _packed(kept), _until(kept), is_new=is_new)


def held_in(kind: int, row_size: int) -> int:
    """Return about how many records a row of so many bytes is, without reading it."""
    return 1 if kind == RECORD else max(1, round((row_size - 1) / _ENTRY_TYPICAL))


def entries(row: bytes | None, *, unix_s: float) -> list[Entry]:
    """Return the provider records in a row that have not expired, the longest held first."""
    found = []
    for since, encoded in _split(row):
        record = outline(encoded)
        if record is not None and record.expires > unix_s:
            found.append(Entry(since, record))
    return found


def select(row: bytes, *, salt: bytes, unix_s: float) -> list[bytes]:
    """Return what an asker is told of a row: the 10 longest held, and 10 of the rest by its salt.

    The same salt gives the same selection as long as the row stays as it is, so pages fit.
    """
    alive = entries(row, unix_s=unix_s)
    rest = sorted(
        alive[PROVIDERS_OLDEST_TOLD:],
        key=lambda entry: blake2b_digest(salt + entry.record.signer, size=8),
    )
    told = alive[:PROVIDERS_OLDEST_TOLD] + rest[:PROVIDERS_RANDOM_TOLD]
    return [entry.record.encoded for entry in told]


def page_of(selection: Sequence[bytes], page: int) -> tuple[bytes, ...]:
    """Return the records of one page of a selection, at most 4; none after the last."""
    start = page * PROVIDERS_PER_MESSAGE_MAX
    return tuple(selection[start : start + PROVIDERS_PER_MESSAGE_MAX])


def _split(row: bytes | None) -> Iterator[tuple[int, bytes]]:
    """Yield since when, and the bytes of each provider record of a row; less of a damaged one."""
    if not row or row[0] != _MANY:
        return
    at = 1
    while at + _ENTRY.size <= len(row):
        since, size = _ENTRY.unpack_from(row, at)
        at += _ENTRY.size + size
        if at <= len(row):
            yield since, row[at - size : at]


def _with(others: list[Entry], new: Entry) -> list[Entry]:
    """Return the entries with a new one, the longest held first, at most 64."""
    kept = sorted([*others, new], key=lambda entry: entry.since)  # stable: as they came
    if len(kept) > PROVIDERS_PER_LOC_MAX:
        del kept[PROVIDERS_OLD]
    return kept


def _packed(kept: list[Entry]) -> bytes:
    parts = [bytes((_MANY,))]
    for since, record in kept:
        parts += (_ENTRY.pack(since, len(record.encoded)), record.encoded)
    return b"".join(parts)


def _until(kept: list[Entry]) -> int:
    return max((entry.record.expires for entry in kept), default=0)


# ---------------------------------------------------------------------------- time


def faded(kind: int, row: bytes, *, unix_s: float) -> Faded:
    """Return what is left of a row now.

    An expired record leaves its seq for as long as older ones may still be valid somewhere, so that
    nobody can put one of them in its place.
    """
    if kind == PROVIDERS:
        alive = entries(row, unix_s=unix_s)
        return Faded(_packed(alive), _until(alive)) if alive else Faded(None, 0)
    if len(row) < _HEAD.size:
        return Faded(None, 0)
    form, seq, expires = _HEAD.unpack_from(row)
    if expires > unix_s:
        return Faded(row, expires)
    until = expires + RECORD_AHEAD_S + CLOCK_SKEW_S
    if form != _LIVE or until <= unix_s:
        return Faded(None, 0)
    return Faded(_HEAD.pack(_FLOOR, seq, until), until)


# ---------------------------------------------------------------------------- digests


class Summary(NamedTuple):
    """What a holder says in DIGEST about one location."""

    loc_head: bytes
    """The first 8 bytes of the location."""
    summary: bytes
    kind: int


def summary_of(kind: int, row: bytes, *, unix_s: float) -> bytes | None:
    """Return 4 bytes that differ when what is held differs; None when nothing is."""
    if kind == RECORD:
        encoded = record_in(row, unix_s=unix_s)
        record = None if encoded is None else parse(encoded)
        return record.signature[:4] if isinstance(record, SignedRecord) else None
    alive = [entry.record for entry in entries(row, unix_s=unix_s)]
    if len(alive) >= PROVIDERS_OLD:
        return _CROWD
    parts = sorted(record.signer + record.issued.to_bytes(8, "big") for record in alive)
    return blake2b_digest(b"".join(parts), size=4) if parts else None


def digest_of(summaries: Sequence[Summary]) -> bytes:
    """Return the entries of a DIGEST."""
    assert 1 <= len(summaries) <= DIGEST_ENTRIES_MAX, "a digest has a bound"
    return b"".join(_DIGEST_ENTRY.pack(*summary) for summary in summaries)


def summaries_in(digest: bytes) -> list[Summary]:
    """Return what a DIGEST says; entries of kinds that we do not know are left in place."""
    return [Summary(*_DIGEST_ENTRY.unpack_from(digest, at))
            for at in range(0, len(digest), _DIGEST_ENTRY.size)]  # fmt: skip


def wanted_bits(wanted: Sequence[bool]) -> bytes:
    """Return the bitmap of a DIGEST_REPLY: a bit for each entry."""
    bits = sum(1 << index for index, is_wanted in enumerate(wanted) if is_wanted)
    return bits.to_bytes((len(wanted) + 7) // 8, "little")


def wanted_in(bitmap: bytes, count: int) -> list[bool]:
    """Return which of `count` entries a DIGEST_REPLY asks for."""
    bits = int.from_bytes(bitmap, "little")
    return [bits >> index & 1 == 1 for index in range(count)]
