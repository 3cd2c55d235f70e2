"""What came of operations."""

from dataclasses import dataclass

from molia.base.ids import PeerKey
from molia.dht.contact import Contact
from molia.dht.outcome import LookupResult
from molia.dht.providers import ProviderRecord
from molia.dht.records import Opened
from molia.wire.addresses import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """What came of reading a record."""

    opened: Opened | None
    """The newest of those that were found; None: there was none."""
    holders: int
    """Nodes that gave a record that holds, this one included."""
    stale: int
    """Those of them that gave an older one; after a consistent read they are sent the newest."""
    is_complete: bool
    """Whether as many as needed have spoken: without a record, that there is none."""
    lookups: tuple[LookupResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What came of putting a record."""

    acks: int
    """Nodes that hold it now, this one included."""
    asked: int
    stale: int
    """Nodes that hold a later one."""
    mismatches: int
    """Nodes that hold another seq than the writer expected, and showed it."""
    conflicts: int
    """Nodes that keep another value under the same seq."""
    full: int
    bad: int
    timeouts: int
    is_mismatch: bool
    """The put failed, since the record is not at the seq that the writer expected."""
    held_seq: int
    """The highest seq that others showed, this one's left out; 0: none."""
    stale_seq: int
    """The same, of those who therefore did not take the record."""
    current: bytes = b""
    """The record that stands in the way, as it was shown and verified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What came of announcing provider records."""

    acks: tuple[int, ...]
    """By record, in the order they were given: nodes that took it."""
    walks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvidersFound:
    """Who provides: of each signer the newest record, whose signature holds."""

    records: tuple[ProviderRecord, ...]
    holders: int
    is_complete: bool
    """Whether the region was covered: without a record, that there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinged:
    """A peer that answered."""

    key: PeerKey
    address: Address
    rtt_s: float
    seen: Address
    """Where it sees this node."""
    offset_s: float
    """How far its clock is ahead of ours."""
    serves: bool
    contact: Contact
