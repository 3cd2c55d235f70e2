"""Messages about blobs: what goes in a datagram fits one, bounds hold, heads come off streams."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.wire import blob_messages as blobs
from molia.wire import messages
from molia.wire._pb import messages_pb as pb
from molia.wire.bodies import Number
from molia.wire.heads import HeadReader, encode_head
from tests.wire.blob_samples import BLOB_EXPECTED, KEY, LARGE, SIGNED, SMALL, WHOLE, blob_messages

ON_STREAMS = (*blobs.STREAMED, Number.SHARE_KEPT, Number.MANIFEST)


@given(blob_messages)
def test_what_goes_in_a_datagram_fits_one(message: blobs.BlobMessage) -> None:
    if message.number not in ON_STREAMS:
        assert len(messages.encode(message)) <= limits.DATAGRAM_BODY_MAX


def test_the_longest_messages_fit_what_carries_them() -> None:
    for message in BLOB_EXPECTED:
        limit = limits.MESSAGE_SIZE_MAX
        if message.number not in ON_STREAMS:
            limit = limits.DATAGRAM_BODY_MAX
        assert len(messages.encode(message)) <= limit
    longest = messages.encode(blobs.Manifest(bytes(limits.MANIFEST_SIZE_MAX)))
    assert len(longest) <= limits.DATAGRAM_BODY_MAX


def test_the_bounds_are_those_of_the_largest_blob() -> None:
    assert limits.STRIPES_MAX == -(-limits.BLOB_SIZE_MAX // (10 * limits.BLOCK_SIZE_MAX))
    assert 2 ** (limits.PATH_HASHES_MAX - 1) < limits.STRIPES_MAX <= 2**limits.PATH_HASHES_MAX
    assert limits.SUPPLEMENT_SIZE_MAX == 52 + 50 * 32


def raw(kind: str, **fields: object) -> bytes:
    """Encode without the checks of `messages.encode`."""
    body: bytes = getattr(pb, kind)(**fields).SerializeToString()
    return body


def offer(**change: object) -> bytes:
    """A good OFFER with some fields changed."""
    good = {"cid": bytes(LARGE), "size": 10**6, "shares": [1, 2], "owner": KEY}
    return raw("Offer", **{**good, **change})


def put(**change: object) -> bytes:
    """A good PUT_SHARE with some fields changed."""
    good = {"cid": bytes(LARGE), "share": 3, "manifest": b"m", "lease": SIGNED}
    return raw("PutShare", **{**good, **change})


def get(**change: object) -> bytes:
    """A good GET_BLOCKS with some fields changed."""
    good = {"cid": bytes(LARGE), "share": 3, "first_stripe": 7, "stripe_count": 2}
    return raw("GetBlocks", **{**good, **change})


def has(**change: object) -> bytes:
    """A HAS of one blob."""
    return raw("Has", held=[pb.Held(**change)])


RAW_CID = bytes(SMALL)
PARTIAL = list(range(9))
OUT_OF_BOUNDS: list[tuple[str, Number, Callable[[], bytes]]] = [
    ("offer of nothing", Number.OFFER, lambda: offer(shares=[])),
    ("offer of 65 shares", Number.OFFER, lambda: offer(shares=range(65))),
    ("offer of share 64", Number.OFFER, lambda: offer(shares=[64])),
    ("offer of a share twice", Number.OFFER, lambda: offer(shares=[1, 1])),
    ("offer of a whole and a share", Number.OFFER, lambda: offer(shares=[1, WHOLE])),
    ("offer of a large blob's whole", Number.OFFER, lambda: offer(shares=[WHOLE])),
    ("offer of a small blob's share", Number.OFFER, lambda: offer(cid=RAW_CID, size=9)),
    ("offer by nobody", Number.OFFER, lambda: offer(owner=b"")),
    ("offer of no CID", Number.OFFER, lambda: offer(cid=KEY)),
    ("offer of another codec", Number.OFFER, lambda: offer(cid=b"\x01\x70\x1e\x20" + KEY)),
    ("too small for a manifest", Number.OFFER, lambda: offer(size=999_999)),
    ("too large", Number.OFFER, lambda: offer(size=2**40 + 1)),
    ("too large for a small one", Number.OFFER,
     lambda: offer(cid=RAW_CID, shares=[WHOLE], size=10**6)),
    ("65 answers", Number.OFFERED, lambda: raw("Offered", accepted=range(64), kept=[1])),
    ("taken and kept", Number.OFFERED, lambda: raw("Offered", accepted=[1], kept=[1])),
    ("share 64 taken", Number.OFFERED, lambda: raw("Offered", accepted=[64])),
    ("wait too long", Number.OFFERED, lambda: raw("Offered", retry_after_ms=3_600_001)),
    ("share without manifest", Number.PUT_SHARE, lambda: put(manifest=b"")),
    ("long manifest", Number.PUT_SHARE, lambda: put(manifest=bytes(1025))),
    ("short lease", Number.PUT_SHARE, lambda: put(lease=SIGNED[1:])),
    ("share 64", Number.PUT_SHARE, lambda: put(share=64)),
    ("added share without root", Number.PUT_SHARE, lambda: put(share=14)),
    ("listed share with a root", Number.PUT_SHARE, lambda: put(root=KEY)),
    ("stripe beyond all", Number.PUT_SHARE, lambda: put(first_stripe=limits.STRIPES_MAX)),
    ("size beside a manifest", Number.PUT_SHARE, lambda: put(size=1)),
    ("small with a manifest", Number.PUT_SHARE, lambda: put(cid=RAW_CID, share=WHOLE)),
    ("small from the middle", Number.PUT_SHARE,
     lambda: put(cid=RAW_CID, share=WHOLE, manifest=b"", first_stripe=1)),
    ("large small one", Number.PUT_SHARE,
     lambda: put(cid=RAW_CID, share=WHOLE, manifest=b"", size=10**6)),
    ("put of no CID", Number.PUT_SHARE, lambda: put(cid=b"")),
    ("more stripes than any", Number.SHARE_KEPT, lambda: raw("ShareKept", stripes=419_432)),
    ("long provider", Number.SHARE_KEPT, lambda: raw("ShareKept", provider=bytes(285))),
    ("manifest of a small blob", Number.GET_MANIFEST, lambda: raw("GetManifest", cid=RAW_CID)),
    ("manifest of nothing", Number.GET_MANIFEST, lambda: b""),
    ("empty manifest", Number.MANIFEST, lambda: b""),
    ("longer than a supplement", Number.MANIFEST, lambda: raw("Manifest", manifest=bytes(1653))),
    ("leaves of a small blob", Number.GET_LEAVES, lambda: raw("GetLeaves", cid=RAW_CID)),
    ("leaves of share 64", Number.GET_LEAVES, lambda: raw("GetLeaves", cid=bytes(LARGE), share=64)),
    ("no leaves", Number.LEAVES, lambda: raw("Leaves")),
    ("a part of a leaf", Number.LEAVES, lambda: raw("Leaves", size=33)),
    ("too many leaves", Number.LEAVES, lambda: raw("Leaves", size=419_432 * 32)),
    ("leaves from share 64", Number.LEAVES, lambda: raw("Leaves", size=32, share=64)),
    ("no blocks", Number.GET_BLOCKS, lambda: get(stripe_count=0)),
    ("65 blocks", Number.GET_BLOCKS, lambda: get(stripe_count=65)),
    ("blocks beyond all", Number.GET_BLOCKS, lambda: get(first_stripe=419_430)),
    ("blocks of no CID", Number.GET_BLOCKS, lambda: get(cid=b"")),
    ("two wholes", Number.GET_BLOCKS, lambda: get(cid=RAW_CID, share=WHOLE, first_stripe=0)),
    ("whole of a large blob", Number.GET_BLOCKS, lambda: get(share=WHOLE)),
    ("no blocks come", Number.BLOCKS, lambda: raw("Blocks")),
    ("65 blocks come", Number.BLOCKS, lambda: raw("Blocks", stripe_count=65)),
    ("blocks of share 64", Number.BLOCKS, lambda: raw("Blocks", stripe_count=1, share=64)),
    ("blocks from beyond", Number.BLOCKS,
     lambda: raw("Blocks", stripe_count=1, first_stripe=419_431)),
    ("audit of share 64", Number.AUDIT, lambda: raw("Audit", cid=bytes(LARGE), share=64)),
    ("audit beyond all", Number.AUDIT, lambda: raw("Audit", cid=bytes(LARGE), stripe=419_431)),
    ("audit of nothing", Number.AUDIT, lambda: b""),
    ("20 hashes", Number.AUDITED, lambda: raw("Audited", path=bytes(640))),
    ("a part of a hash", Number.AUDITED, lambda: raw("Audited", path=bytes(33))),
    ("too large a block", Number.AUDITED, lambda: raw("Audited", size=1_000_001)),
    ("no lease", Number.LEASE, lambda: b""),
    ("eight leases", Number.LEASE, lambda: raw("Lease", leases=[SIGNED] * 8)),
    ("a short lease", Number.LEASE, lambda: raw("Lease", leases=[SIGNED[1:]])),
    ("no codes", Number.LEASED, lambda: b""),
    ("eight codes", Number.LEASED, lambda: raw("Leased", codes=[0] * 8)),
    ("older than what", Number.LEASED, lambda: raw("Leased", codes=[1])),
    ("held without a code", Number.LEASED, lambda: raw("Leased", codes=[0], held=[SIGNED])),
    ("a short held one", Number.LEASED, lambda: raw("Leased", codes=[1], held=[b"x"])),
    ("have what", Number.HAVE, lambda: b""),
    ("17 blobs", Number.HAVE, lambda: raw("Have", cids=[bytes(LARGE)] * 17)),
    ("one is no CID", Number.HAVE, lambda: raw("Have", cids=[bytes(LARGE), b"x"])),
    ("has what", Number.HAS, lambda: b""),
    ("17 answers", Number.HAS, lambda: raw("Has", held=[pb.Held()] * 17)),
    ("65 bits", Number.HAS, lambda: has(shares=b"x" * 9)),
    ("a zero at the end", Number.HAS, lambda: has(shares=b"x\0")),
    ("9 come in", Number.HAS, lambda: has(partial=PARTIAL, stripes=PARTIAL)),
    ("how many came", Number.HAS, lambda: has(partial=[1])),
    ("one comes twice", Number.HAS, lambda: has(partial=[1, 1], stripes=[1, 1])),
    ("more than all came", Number.HAS, lambda: has(partial=[1], stripes=[419_432])),
    ("a short claim", Number.CLAIM, lambda: raw("Claim", claim=SIGNED[1:])),
    ("which other claim", Number.CLAIMED, lambda: raw("Claimed", code=1)),
    ("what is this claim", Number.CLAIMED, lambda: raw("Claimed", claim=SIGNED)),
]  # fmt: skip


@pytest.mark.parametrize(("number", "make"), [row[1:] for row in OUT_OF_BOUNDS],
                         ids=[row[0] for row in OUT_OF_BOUNDS])  # fmt: skip
def test_what_is_out_of_bounds_is_nothing(number: Number, make: Callable[[], bytes]) -> None:
    assert messages.decode(number, make()) is None


def test_the_makers_of_bad_messages_make_good_ones_too() -> None:
    assert messages.decode(Number.OFFER, offer()) is not None
    assert messages.decode(Number.PUT_SHARE, put()) is not None
    assert messages.decode(Number.GET_BLOCKS, get()) is not None
    assert messages.decode(Number.HAS, has()) is not None


def test_a_message_of_ours_that_is_out_of_bounds_is_our_mistake() -> None:
    for bad in (blobs.Claim(b"x"), blobs.Have(()), blobs.GetManifest(Cid(Codec.RAW, KEY))):
        with pytest.raises(AssertionError):
            messages.encode(bad)


@given(st.binary(max_size=90), st.binary(max_size=90), st.lists(st.integers(0, 180)))
def test_a_head_comes_off_however_the_stream_is_cut(
    body: bytes, rest: bytes, cuts: list[int]
) -> None:
    reader, stream, got = HeadReader(), encode_head(body) + rest, b""
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, stop in itertools.pairwise(edges):
        got += reader.on_bytes(stream[start:stop])
    assert (reader.head, got, reader.is_bad) == (body, rest, False)


def test_a_head_beyond_all_size_is_bad_at_once() -> None:
    reader = HeadReader()
    assert reader.on_bytes((limits.MESSAGE_SIZE_MAX + 1).to_bytes(2, "little")) == b""
    assert reader.is_bad
    assert reader.on_bytes(bytes(5000)) == b""
    assert reader.head is None
