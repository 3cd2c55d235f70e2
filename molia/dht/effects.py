"""What the engine asks of its owner, and what it reports."""

from dataclasses import dataclass
from typing import TypeAlias

from molia.base.ids import PeerKey
from molia.dht.contact import Contact
from molia.dht.outcome import Step
from molia.dht.providers import ProviderRecord
from molia.wire.addresses import Address
from molia.wire.scores import Offence


@dataclass(frozen=True, slots=True)
class Store:
    """Write a row, if the one that is there is the expected one; then call `on_stored(token)`.

    A row of None is deleted; an expected one of None means that there must be no row.
    """

    token: int
    kind: int
    loc: bytes
    row: bytes | None
    expected: bytes | None
    expires_unix_s: int
    """When the row may go by itself."""


@dataclass(frozen=True, slots=True)
class Finished:
    """An operation has ended."""

    operation_id: int
    result: object
    """One of `results.py`, by the operation."""


@dataclass(frozen=True, slots=True)
class Traced:
    """What a traced operation did."""

    operation_id: int
    step: Step


@dataclass(frozen=True, slots=True)
class Heard:
    """A search for providers has found this one so far; its result may leave it out."""

    operation_id: int
    record: ProviderRecord
    """Its signature holds."""


@dataclass(frozen=True, slots=True)
class Reachable:
    """Whether others can reach this node at an address; from then on it serves, or is a client."""

    is_reachable: bool
    address: Address | None


@dataclass(frozen=True, slots=True)
class Joined:
    """The node knows its own neighbourhood."""

    contacts: int


@dataclass(frozen=True, slots=True)
class Alone:
    """Nobody of those that the node knows answers; it keeps trying."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Keep these bytes; the next start is given them."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Penalise:
    """A peer broke the rules: its score falls."""

    key: PeerKey
    address: Address
    offence: Offence


@dataclass(frozen=True, slots=True)
class Verified:
    """A contact answered: the other workers of this node may take it over."""

    contact: Contact


Effect: TypeAlias = (
    Store | Finished | Traced | Heard | Reachable | Joined | Alone | Snapshot | Penalise | Verified
)  # fmt: skip
