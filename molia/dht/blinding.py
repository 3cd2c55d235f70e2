"""Where things lie: locations of content, and blinded keys and locations of mutable records.

A storing node sees a location and, of a mutable record, a key that is another one every day: it
can check the signature and that the location follows from the key, and does not learn whose it is.
Whoever knows the CID, or the publisher's key and the name, finds it; so does whoever guesses them.
Source: docs/reference/records.md, "Blinding"; Tor's rend-spec-v3, appendix A.2.
"""

from functools import lru_cache
from typing import Final, NamedTuple

from molia.base import curve
from molia.base.cid import Cid, Codec, ContentHash, Ref
from molia.base.crypto import BlindedIdentity, Identity
from molia.base.hashing import blake2b_digest, purpose_digest
from molia.base.ids import PeerKey
from molia.base.limits import BLINDED_KEYS_MAX, RECORD_SALT_MAX

PERIOD_S: Final = 86_400
EDGE_S: Final = 2 * 3_600
"""In the last two hours of a period publishers store for the next one too."""
READ_EDGE_S: Final = 3_600
"""This close to an edge readers ask on both sides of it: somebody's clock may be wrong."""
_FACTOR_LABEL: Final = b"molia/blind/1"


class Place(NamedTuple):
    """Where a mutable record lies in one period."""

    period: int
    blinded_key: bytes
    loc: bytes


# ---------------------------------------------------------------------------- content


def content_cid(ref: Ref) -> Cid:
    """Return the CID at whose location bindings of a content hash lie; a CID is its own."""
    return Cid(Codec.RAW, ref.digest) if isinstance(ref, ContentHash) else ref


def content_loc(network: bytes, cid: Cid) -> bytes:
    """Return the location of the provider records of a CID."""
    return purpose_digest("location", network + bytes(cid))


# ---------------------------------------------------------------------------- mutable records


def record_loc(network: bytes, blinded_key: bytes) -> bytes:
    """Return the location of a mutable record: all that a storing node needs to find it."""
    return purpose_digest("record-location", network + blinded_key)


@lru_cache(maxsize=BLINDED_KEYS_MAX)
def period_offset_s(publisher: PeerKey) -> int:
    """Return how many seconds before midnight (UTC) this publisher's periods begin."""
    return int.from_bytes(purpose_digest("blind-offset", publisher.key)[:4], "big") % PERIOD_S


def period_at(publisher: PeerKey, unix_s: float) -> int:
    """Return the number of the publisher's period at an instant."""
    return (int(unix_s) + period_offset_s(publisher)) // PERIOD_S


def period_end_s(publisher: PeerKey, period: int) -> int:
    """Return the first unix second after a period."""
    return (period + 1) * PERIOD_S - period_offset_s(publisher)


def blind_factor(publisher: PeerKey, salt: bytes, period: int) -> bytes:
    """Return the scalar that a publisher's key is multiplied by, for a name and a period."""
    return curve.reduced(
        blake2b_digest(_FACTOR_LABEL + _label(publisher, salt, period), size=curve.WIDE_SIZE)
    )


@lru_cache(maxsize=BLINDED_KEYS_MAX)
def blinded_key(publisher: PeerKey, salt: bytes, period: int) -> bytes | None:
    """Return the key that signs there and then; None: the publisher's key is no proper one."""
    return curve.times(blind_factor(publisher, salt, period), publisher.key)


def blinded_identity(identity: Identity, salt: bytes, period: int) -> BlindedIdentity:
    """Return the private half of `blinded_key`, for the publisher itself."""
    publisher = identity.peer_key
    label = _label(publisher, salt, period)
    return identity.blinded(blind_factor(publisher, salt, period), label)


def place(network: bytes, publisher: PeerKey, salt: bytes, period: int) -> Place | None:
    """Return where a record lies in a period; None: the publisher's key is no proper one."""
    key = blinded_key(publisher, salt, period)
    return None if key is None else Place(period, key, record_loc(network, key))


def locations(network: bytes, publisher: PeerKey, salt: bytes, unix_s: float) -> list[Place]:
    """Return where a publisher stores now: the present period, near its end the next one too.

    Empty when the publisher's key is no proper one.
    """
    return _places(network, publisher, salt, (unix_s, unix_s + EDGE_S))


def read_locations(network: bytes, publisher: PeerKey, salt: bytes, unix_s: float) -> list[Place]:
    """Return where a reader asks now: the present period first, near an edge its neighbour too."""
    return _places(
        network, publisher, salt, (unix_s, unix_s - READ_EDGE_S, unix_s + READ_EDGE_S)
    )  # fmt: skip


def _places(
    network: bytes, publisher: PeerKey, salt: bytes, instants: tuple[float, ...]
) -> list[Place]:
    periods = dict.fromkeys(period_at(publisher, unix_s) for unix_s in instants)
    found = (place(network, publisher, salt, period) for period in periods)
    return [each for each in found if each is not None]


def _label(publisher: PeerKey, salt: bytes, period: int) -> bytes:
    assert len(salt) <= RECORD_SALT_MAX, "a name has a bound"
    return publisher.key + salt + period.to_bytes(8, "big")
