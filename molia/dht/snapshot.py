"""The routing table on disk: whom a node knew when it stopped.

Source: docs/reference/routing-table.md, "Snapshot".
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from molia.base.hashing import DIGEST_SIZE, blake3_digest
from molia.base.limits import GRAVES_MAX, SNAPSHOT_SIZE_MAX, TABLE_ENTRIES_MAX
from molia.dht.contact import Contact, Space
from molia.wire.addresses import IPV4_SIZE, IPV6_SIZE, pack_host, unpack_host

MAGIC: Final = b"molia table 1\n"
_HEAD: Final = struct.Struct(">QHH")
_KEY_SIZE: Final = 32


class Snapshot(NamedTuple):
    """What was read of a table: its contacts are to be asked again before they count."""

    unix_s: int
    """When it was written."""
    contacts: list[Contact]
    """The longest verified first."""
    graves: list[Contact]
    """The longest buried first."""


def write_snapshot(contacts: Sequence[Contact], graves: Sequence[Contact], unix_s: float) -> bytes:
    """Return both lists in bytes; `read_snapshot` gives them back."""
    contacts, graves = contacts[:TABLE_ENTRIES_MAX], graves[-GRAVES_MAX:]
    head = _HEAD.pack(max(0, int(unix_s)), len(contacts), len(graves))
    body = MAGIC + head + b"".join(_packed(contact) for contact in [*contacts, *graves])
    return body + blake3_digest(body)


def _packed(contact: Contact) -> bytes:
    host = pack_host(contact.address[0])
    assert host is not None, "a contact has a numeric address"
    return bytes((len(host),)) + contact.key.key + host + contact.address[1].to_bytes(2, "big")


def read_snapshot(data: bytes, space: Space) -> Snapshot | None:
    """Return what `write_snapshot` wrote; None of anything else, whole or in part.

    Contacts at addresses that nobody can have are left out. Positions follow from `space`, not
    from the file.
    """
    start, end = len(MAGIC) + _HEAD.size, len(data) - DIGEST_SIZE
    if not start <= end <= SNAPSHOT_SIZE_MAX or not data.startswith(MAGIC):
        return None
    if blake3_digest(data[:end]) != data[end:]:
        return None
    unix_s, contact_count, grave_count = _HEAD.unpack_from(data, len(MAGIC))
    if contact_count > TABLE_ENTRIES_MAX or grave_count > GRAVES_MAX:
        return None
    rows = _rows(data[start:end], contact_count + grave_count, space)
    if rows is None:
        return None
    live, dead = rows[:contact_count], rows[contact_count:]
    return Snapshot(unix_s, [c for c in live if c is not None], [c for c in dead if c is not None])


def _rows(body: bytes, count: int, space: Space) -> list[Contact | None] | None:
    rows: list[Contact | None] = []
    at = 0
    for _ in range(count):
        size = body[at] if at < len(body) else 0
        stop = at + 1 + _KEY_SIZE + size + 2
        if size not in (IPV4_SIZE, IPV6_SIZE) or stop > len(body):
            return None
        key, packed = body[at + 1 : at + 1 + _KEY_SIZE], body[at + 1 + _KEY_SIZE : stop - 2]
        host = unpack_host(packed)
        assert host is not None, "its size was looked at"
        rows.append(space.contact(key, (host, int.from_bytes(body[stop - 2 : stop], "big"))))
        at = stop
    return rows if at == len(body) else None
