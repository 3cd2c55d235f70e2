"""Publishers, records and provider records for the tests of what is signed and held."""

from molia.base.cid import Cid, Codec
from molia.base.crypto import Identity
from molia.dht import blinding, providers, records
from molia.dht.providers import Kind, Provided, ProviderRecord
from molia.dht.records import SignedRecord
from molia.sim.entropy import SeededEntropy

NETWORK = bytes(range(64, 96))
OTHER_NETWORK = bytes(range(65, 97))
NOW = 1_800_000_000
DAY = 86_400
ANN = Identity(bytes(range(32)))
SALT = b"name"
PERIOD = blinding.period_at(ANN.peer_key, NOW)
CID = Cid(Codec.MANIFEST, bytes(range(32)))
RAW = Cid(Codec.RAW, bytes(range(32, 64)))
PREFIX = b"\x04\xc0\x00\x02"
LOCAL = b"\x7f\x00\x00\x01\x0f\xa1"


def someone(number: int) -> Identity:
    """Return one of many identities."""
    return Identity(number.to_bytes(32, "big"))


def record(
    seq: int = 1, value: bytes = b"value", *, expires: int = NOW + DAY, network: bytes = NETWORK
) -> SignedRecord:
    """Return a record of Ann's."""
    return records.publish(
        ANN, network, SALT, value, seq=seq, expires=expires, period=PERIOD
    )  # fmt: skip


def provider(
    number: int = 1, *, kind: Kind = Kind.WHOLE, prefix: bytes | None = None, cid: Cid = CID,
    issued: int = NOW, expires: int = NOW + DAY, provided: Provided | None = None, draw: int = 0,
) -> ProviderRecord:  # fmt: skip
    """Return a provider record of someone's, by default each in a prefix of its own."""
    some = Provided(manifest=CID) if kind is Kind.BINDING else Provided()
    return providers.announce(
        someone(number), NETWORK, cid, kind, some if provided is None else provided,
        prefix=b"\x04\x0b" + number.to_bytes(2, "big") if prefix is None else prefix,
        issued=issued, expires=expires, entropy=SeededEntropy(draw),
    )  # fmt: skip
