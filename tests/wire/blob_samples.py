"""Messages about blobs: those of the vectors, and strategies for any."""

from hypothesis import strategies as st

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.wire import blob_messages as blobs

KEY = bytes(range(32))
LARGE, SMALL = Cid(Codec.MANIFEST, KEY), Cid(Codec.RAW, KEY)
WHOLE = limits.WHOLE_SHARE
SIGNED = b"x" * limits.LEASE_SIZE
TOP32 = 2**32 - 1
LAST = limits.STRIPES_MAX - 1

digests = st.binary(min_size=32, max_size=32)
larges = st.builds(Cid, st.just(Codec.MANIFEST), digests)
smalls = st.builds(Cid, st.just(Codec.RAW), digests)
u32 = st.integers(0, TOP32)
share_numbers = st.integers(0, limits.SHARES_MAX - 1)
share_lists = st.lists(share_numbers, unique=True, max_size=20).map(tuple)
signed = st.binary(min_size=limits.LEASE_SIZE, max_size=limits.LEASE_SIZE)
stripes = st.integers(0, LAST)
counts = st.integers(1, limits.BLOCKS_PER_REQUEST_MAX)
bitmaps = st.integers(0, 2**64 - 1).map(lambda n: n.to_bytes((n.bit_length() + 7) // 8, "little"))
held = st.builds(
    blobs.Held, shares=bitmaps, whole=st.booleans(),
    partial=st.dictionaries(share_numbers, st.integers(0, limits.STRIPES_MAX), max_size=8).map(
        lambda some: tuple(sorted(some.items()))
    ),
)  # fmt: skip
blob_messages: st.SearchStrategy[blobs.BlobMessage] = st.one_of(
    st.builds(
        blobs.Offer, cid=larges, size=st.integers(limits.RAW_SIZE_STOP, limits.BLOB_SIZE_MAX),
        shares=share_lists.filter(bool), owner=digests,
    ),
    st.builds(
        blobs.Offer, cid=smalls, size=st.integers(0, limits.RAW_SIZE_STOP - 1),
        shares=st.just((WHOLE,)), owner=digests,
    ),
    st.builds(
        blobs.Offered, code=u32, accepted=share_lists, kept=st.just(()),
        room=st.integers(0, 2**64 - 1), retry_after_ms=st.integers(0, limits.BUSY_WAIT_MS_MAX),
    ),
    st.builds(
        blobs.PutShare, cid=larges, share=st.integers(0, 13), lease=signed, first_stripe=stripes,
        manifest=st.binary(min_size=1, max_size=90) | st.just(bytes(limits.MANIFEST_SIZE_MAX)),
    ),
    st.builds(
        blobs.PutShare, cid=larges, share=st.integers(14, 63), lease=signed, first_stripe=stripes,
        manifest=st.just(b"m"), root=digests,
    ),
    st.builds(
        blobs.PutShare, cid=smalls, share=st.just(WHOLE), lease=signed,
        size=st.integers(0, limits.RAW_SIZE_STOP - 1),
    ),
    st.builds(
        blobs.ShareKept, code=u32, stripes=st.integers(0, limits.STRIPES_MAX),
        provider=st.binary(max_size=limits.PROVIDER_RECORD_SIZE_MAX),
    ),
    st.builds(blobs.GetManifest, larges, st.booleans()),
    st.builds(blobs.Manifest, st.binary(min_size=1, max_size=limits.MANIFEST_SIZE_MAX)),
    st.builds(blobs.GetLeaves, larges, share_numbers),
    st.builds(blobs.Leaves, share_numbers, stripes.map(lambda index: 32 * (index + 1))),
    st.builds(
        blobs.GetBlocks, cid=larges, share=share_numbers,
        first_stripe=st.integers(0, limits.STRIPES_MAX - 64), stripe_count=counts,
        paths=st.booleans(),
    ),
    st.builds(blobs.GetBlocks, cid=smalls, share=st.just(WHOLE)),
    st.builds(blobs.Blocks, share=share_numbers, first_stripe=stripes, stripe_count=counts),
    st.builds(blobs.Audit, cid=larges, share=share_numbers, stripe=stripes),
    st.builds(
        blobs.Audited, code=u32, path=st.lists(digests, max_size=19).map(tuple),
        size=st.integers(0, limits.RAW_SIZE_STOP),
    ),
    st.builds(blobs.Lease, st.lists(signed, min_size=1, max_size=7).map(tuple)),
    st.lists(u32.filter(lambda code: code != 1), min_size=1, max_size=5).flatmap(
        lambda codes: st.builds(
            blobs.Leased, st.just((*codes, 1, 1)), st.tuples(signed, signed)
        )
    ),
    st.builds(blobs.Have, st.lists(larges | smalls, min_size=1, max_size=16).map(tuple)),
    st.builds(blobs.Has, st.lists(held, min_size=1, max_size=16).map(tuple)),
    st.builds(blobs.Claim, signed),
    st.builds(blobs.Claimed, u32.filter(lambda code: code != 1)),
    st.builds(blobs.Claimed, st.just(1), signed),
)  # fmt: skip

BLOB_EXPECTED: list[blobs.BlobMessage] = [
    blobs.Offer(cid=LARGE, size=2**40, shares=tuple(range(64)), owner=KEY),
    blobs.Offer(cid=SMALL, size=0, shares=(WHOLE,), owner=KEY),
    blobs.Offered(code=blobs.OfferCode.YES, accepted=(0, 13), kept=(5,), room=2**64 - 1),
    blobs.Offered(code=blobs.OfferCode.LATER, retry_after_ms=3_600_000),
    blobs.PutShare(cid=LARGE, share=13, manifest=b"x" * 1024, lease=SIGNED, first_stripe=LAST),
    blobs.PutShare(cid=LARGE, share=14, manifest=b"m", lease=SIGNED, root=KEY),
    blobs.PutShare(
        cid=LARGE, share=45, manifest=b"m" * 620, lease=SIGNED, root=KEY, supplement=b"s" * 1_078
    ),
    blobs.PutShare(cid=SMALL, share=WHOLE, lease=SIGNED, size=999_999),
    blobs.ShareKept(code=blobs.KeptCode.KEPT, stripes=419_431, provider=b"x" * 284),
    blobs.ShareKept(code=blobs.KeptCode.CUT_OFF),
    blobs.GetManifest(LARGE),
    blobs.GetManifest(LARGE, supplement=True),
    blobs.Manifest(b"x" * 1024),
    blobs.Manifest(b"x" * 1652),
    blobs.GetLeaves(LARGE, 63),
    blobs.Leaves(63, 419_431 * 32),
    blobs.GetBlocks(cid=LARGE, share=3, first_stripe=LAST - 63, stripe_count=64, paths=True),
    blobs.GetBlocks(cid=SMALL, share=WHOLE),
    blobs.Blocks(share=3, first_stripe=LAST, stripe_count=1),
    blobs.Blocks(share=WHOLE, first_stripe=0, stripe_count=1),
    blobs.Audit(cid=LARGE, share=9, stripe=LAST),
    blobs.Audit(cid=SMALL, share=WHOLE),
    blobs.Audited(code=blobs.AuditCode.HERE, path=(KEY,) * 19, size=262_144),
    blobs.Audited(code=blobs.AuditCode.NOT_FOUND),
    blobs.Lease((SIGNED,) * 7),
    blobs.Leased((blobs.LeaseCode.OLDER,) * 7, (SIGNED,) * 7),
    blobs.Leased((blobs.LeaseCode.TAKEN, TOP32)),
    blobs.Have((LARGE, SMALL) * 8),
    blobs.Has((blobs.Held(), blobs.Held(whole=True))),
    blobs.Has((blobs.Held(shares=b"\xff" * 8, partial=((63, LAST + 1), (0, 0))),)),
    blobs.Claim(SIGNED),
    blobs.Claimed(blobs.ClaimCode.HEEDED),
    blobs.Claimed(blobs.ClaimCode.OTHER, SIGNED),
]
