"""The values of META rows: one frozen type each, encoded as a version byte and canonical CBOR.

Decoding is strict about the bytes (anything but the canonical spelling is Damaged) and lenient
about the map: keys that this version does not know are ignored.
Source: docs/reference/store-format.md, "Rows"; RFC 8949, section 4.2.3 (length-first order).
"""

from dataclasses import dataclass
from typing import Any, Final, Self

import cbor2

from molia.base.cid import Cid
from molia.base.errors import BadCid, Damaged
from molia.base.hashing import DIGEST_SIZE
from molia.base.ids import OBJECT_ID_SIZE, ObjectId
from molia.base.limits import (
    JOB_EVENTS_MAX,
    LEASE_SIZE,
    MANIFEST_SIZE_MAX,
    MIB,
    NAME_SIZE_MAX,
    RECORD_VALUE_MAX,
    SHARES_MAX,
    SUPPLEMENT_SIZE_MAX,
    WHOLE_SHARE,
)

ROW_VERSION: Final = 1
ROW_SIZE_MAX: Final = 4 * MIB
_DEPTH_MAX: Final = 16
_CBOR_ERRORS: Final = (
    cbor2.CBORError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BindRow:
    """Makes a blob exist: where its blocks are and what it is. Its LISTING row repeats it."""

    object_id: ObjectId
    size: int
    content: bytes
    manifest: bytes
    """Empty for a blob kept whole."""
    created_unix_ms: int
    name: str
    expires_unix_s: int | None

    def encode(self) -> bytes:
        """Return the row's bytes."""
        row: dict[str, object] = {
            "object": bytes(self.object_id),
            "size": self.size,
            "content": self.content,
            "manifest": self.manifest,
            "created": self.created_unix_ms,
            "name": self.name,
        }
        if self.expires_unix_s is not None:
            row["expires"] = self.expires_unix_s
        return _encode(row)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        row = _Map(data)
        return cls(
            ObjectId(row.blob("object", OBJECT_ID_SIZE, OBJECT_ID_SIZE)),
            row.number("size"),
            row.blob("content", DIGEST_SIZE, DIGEST_SIZE),
            row.blob("manifest", 0, MANIFEST_SIZE_MAX),
            row.number("created"),
            row.text("name", NAME_SIZE_MAX),
            row.maybe_number("expires"),
        )


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """Until when an owner wants a share kept."""

    expires_unix_s: int
    """Of a signed release: until when what it ended would have run."""
    signed: bytes = b""
    """The owner's signed lease; empty of our own."""

    def encode(self) -> bytes:
        """Return the row's bytes."""
        row: dict[str, object] = {"expires": self.expires_unix_s}
        if self.signed:
            row["signed"] = self.signed
        return _encode(row)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        row = _Map(data)
        return cls(row.number("expires"), row.maybe_blob("signed", LEASE_SIZE))


@dataclass(frozen=True, slots=True)
class HeldRow:
    """What is kept of a blob for others; its blocks lie under the object as those of any blob."""

    object_id: ObjectId
    size: int
    """Bytes of the blob."""
    manifest: bytes
    """Empty of a small blob."""
    shares: tuple[int, ...]
    """Those that are complete, in order; of a small blob `WHOLE_SHARE` alone."""
    created_unix_s: int
    supplement: bytes = b""
    """What lists the roots of shares from 14 on, if any of those is here."""

    def encode(self) -> bytes:
        """Return the row's bytes."""
        fields: dict[str, object] = {
            "object": bytes(self.object_id), "size": self.size, "manifest": self.manifest,
            "shares": list(self.shares), "created": self.created_unix_s,
        }  # fmt: skip
        return _encode(fields | ({"supplement": self.supplement} if self.supplement else {}))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        row = _Map(data)
        return cls(
            ObjectId(row.blob("object", OBJECT_ID_SIZE, OBJECT_ID_SIZE)), row.number("size"),
            row.blob("manifest", 0, MANIFEST_SIZE_MAX), row.shares("shares"), row.number("created"),
            row.maybe_blob("supplement", SUPPLEMENT_SIZE_MAX, size_min=0),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """Where the shares of a blob of ours lie, as far as that is known."""

    is_done: bool
    """False while they are being placed."""
    survives: int
    """Nodes that may vanish, ours among them; what is known while they are being placed."""
    lease: bytes
    """Ours, signed, as the holders have it; empty before one was given out."""
    cursor: dict[str, object]
    """Of the job: what lies where."""

    def encode(self) -> bytes:
        """Return the row's bytes."""
        return _encode({
            "done": int(self.is_done), "survives": self.survives, "lease": self.lease,
            "cursor": self.cursor,
        })  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        row = _Map(data)
        return cls(
            bool(row.number("done")), row.number("survives"), row.blob("lease", 0, LEASE_SIZE),
            row.json_map("cursor"),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class WatchedRow:
    """What is known of the other holders of a blob that is kept for others, or placed."""

    looked_unix_s: int
    """When they were looked up last; 0: they are to be."""
    seen: dict[str, object]
    """Who has which share, and what audits found."""

    def encode(self) -> bytes:
        """Return the row's bytes."""
        return _encode({"looked": self.looked_unix_s, "seen": self.seen})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        row = _Map(data)
        return cls(row.number("looked"), row.json_map("seen"))


@dataclass(frozen=True, slots=True)
class PinRow:
    """The wish to keep a blob."""

    since_unix_s: int

    def encode(self) -> bytes:
        """Return the row's bytes."""
        return _encode({"since": self.since_unix_s})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        return cls(_Map(data).number("since"))


@dataclass(frozen=True, slots=True)
class TrashRow:
    """A blob that was removed: its BIND row, whether it was pinned, until when it can come back."""

    bind: bytes
    pinned: bool
    until_unix_s: int

    def encode(self) -> bytes:
        """Return the row's bytes."""
        return _encode({"bind": self.bind, "pinned": int(self.pinned), "until": self.until_unix_s})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        row = _Map(data)
        return cls(
            row.blob("bind", 1, ROW_SIZE_MAX), bool(row.number("pinned")), row.number("until")
        )


@dataclass(frozen=True, slots=True)
class AliasRow:
    """The CID under which a content hash is kept."""

    cid: Cid

    def encode(self) -> bytes:
        """Return the row's bytes."""
        return _encode({"cid": bytes(self.cid)})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        try:
            return cls(Cid.from_bytes(_Map(data).blob("cid", 1, 64)))
        except BadCid as error:
            raise Damaged(f"a stored row: {error}") from None


@dataclass(frozen=True, slots=True)
class UploadRow:
    """An object without a BIND yet, and the run of the node that is filling it."""

    epoch: int

    def encode(self) -> bytes:
        """Return the row's bytes."""
        return _encode({"epoch": self.epoch})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        return cls(_Map(data).number("epoch"))


@dataclass(frozen=True, slots=True)
class ShareRow:
    """What the last check of a share found."""

    verified_unix_s: int
    damaged_blocks: int

    def encode(self) -> bytes:
        """Return the row's bytes."""
        return _encode({"verified": self.verified_unix_s, "damaged": self.damaged_blocks})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        row = _Map(data)
        return cls(row.number("verified"), row.number("damaged"))


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job: what was asked, how far it is, its last events. The maps hold JSON values."""

    kind: str
    arguments: dict[str, object]
    state: str
    created_unix_ms: int
    updated_unix_ms: int
    cursor: dict[str, object]
    progress: dict[str, object]
    error: str
    events: list[dict[str, object]]

    def encode(self) -> bytes:
        """Return the row's bytes."""
        return _encode({
            "kind": self.kind, "arguments": self.arguments, "state": self.state,
            "created": self.created_unix_ms, "updated": self.updated_unix_ms,
            "cursor": self.cursor, "progress": self.progress, "error": self.error,
            "events": self.events,
        })  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        row = _Map(data)
        return cls(
            row.text("kind", 64),
            row.json_map("arguments"),
            row.text("state", 64),
            row.number("created"),
            row.number("updated"),
            row.json_map("cursor"),
            row.json_map("progress"),
            row.text("error", 4096),
            row.json_maps("events", JOB_EVENTS_MAX),
        )


@dataclass(frozen=True, slots=True)
class OwnRecordRow:
    """A record that this node signed and keeps alive."""

    used_seq: int
    """The highest that a record was ever signed with; noted before one is sent."""
    seq: int
    """Of the value; 0 while none was acknowledged."""
    value: bytes
    expires_unix_s: int

    def encode(self) -> bytes:
        """Return the row's bytes."""
        return _encode({
            "used": self.used_seq, "seq": self.seq, "value": self.value,
            "expires": self.expires_unix_s,
        })  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        row = _Map(data)
        return cls(
            row.number("used"), row.number("seq"), row.blob("value", 0, RECORD_VALUE_MAX),
            row.number("expires"),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class AnnounceRow:
    """How far the announcing of blobs has come; the bytes are the schedule's own."""

    schedule: bytes

    def encode(self) -> bytes:
        """Return the row's bytes."""
        return _encode({"schedule": self.schedule})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the row in `data`. Raises Damaged."""
        return cls(_Map(data).blob("schedule", 0, ROW_SIZE_MAX))


class _Map:
    """A decoded row: fields are taken out by type, and anything wrong is Damaged."""

    def __init__(self, data: bytes) -> None:
        self._fields = _decode(data)

    def number(self, name: str) -> int:
        value = self._fields.get(name)
        if type(value) is not int or not 0 <= value < 2**64:
            raise _wrong(name)
        return value

    def maybe_number(self, name: str) -> int | None:
        return self.number(name) if name in self._fields else None

    def blob(self, name: str, size_min: int, size_max: int) -> bytes:
        value = self._fields.get(name)
        if not isinstance(value, bytes) or not size_min <= len(value) <= size_max:
            raise _wrong(name)
        return value

    def maybe_blob(self, name: str, size: int, *, size_min: int | None = None) -> bytes:
        least = size if size_min is None else size_min
        return self.blob(name, least, size) if name in self._fields else b""

    def shares(self, name: str) -> tuple[int, ...]:
        value = self._fields.get(name)
        if not isinstance(value, list) or len(value) > SHARES_MAX:
            raise _wrong(name)
        if not all(type(share) is int and 0 <= share <= WHOLE_SHARE for share in value):
            raise _wrong(name)
        return tuple(value)

    def text(self, name: str, size_max: int) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str) or len(value.encode()) > size_max:
            raise _wrong(name)
        return value

    def json_map(self, name: str) -> dict[str, object]:
        return _json_map(name, self._fields.get(name))

    def json_maps(self, name: str, count_max: int) -> list[dict[str, object]]:
        value = self._fields.get(name)
        if not isinstance(value, list) or len(value) > count_max:
            raise _wrong(name)
        return [_json_map(name, item) for item in value]


def _encode(row: dict[str, object]) -> bytes:
    data = bytes((ROW_VERSION,)) + cbor2.dumps(row, canonical=True)
    assert len(data) <= ROW_SIZE_MAX, "a row stays below its bound"
    return data


def _decode(data: bytes) -> dict[str, Any]:
    if not 1 <= len(data) <= ROW_SIZE_MAX or data[0] != ROW_VERSION:
        raise Damaged("a stored row has no known version")
    body = bytes(data[1:])
    try:
        row = cbor2.loads(body)
        canonical = isinstance(row, dict) and cbor2.dumps(row, canonical=True) == body
    except _CBOR_ERRORS:
        raise Damaged("a stored row is not CBOR") from None
    if not canonical or not all(isinstance(key, str) for key in row):
        raise Damaged("a stored row is not a canonical map")
    return dict(row)


def _json_map(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict) or not _is_json(value, _DEPTH_MAX):
        raise _wrong(name)
    return value


def _is_json(value: object, depth: int) -> bool:
    if depth == 0:
        return False
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_json(v, depth - 1) for k, v in value.items())
    if isinstance(value, list):
        return all(_is_json(item, depth - 1) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _wrong(name: str) -> Damaged:
    return Damaged(f"a stored row: field {name} is missing or wrong")
