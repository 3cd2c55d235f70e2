"""Shares made anew: one written for ten read, and never from a wrongly coded blob."""

from dataclasses import replace

import pytest
import zfec

from molia.base.errors import BlobDamaged
from molia.blobs import gather
from molia.blobs.elastic import Supplement
from molia.blobs.erasure import decode_stripe
from molia.blobs.gather import Gather
from molia.blobs.manifest import Manifest
from molia.blobs.merkle import share_root
from molia.blobs.rebuilt import Rebuilt
from tests.blobs.remote import Coded, World, coded, fourteen

BLOB = coded(2 * 2_621_440 + 5_000)


def rebuilt(blob: Coded, world: World, shares: tuple[int, ...]) -> tuple[Rebuilt, dict[int, bytes]]:
    """Make shares anew; return the check and the blocks of each share joined."""
    it = Gather(blob.manifest.cid, now_s=0, manifest=blob.manifest, shares=shares)
    it.on_sources(world.sources(), now_s=0)
    it.on_lookup_over(now_s=0)
    world.run(it)
    check, joined = Rebuilt(blob.manifest, shares), dict.fromkeys(shares, b"")
    for effect in world.seen:
        if isinstance(effect, gather.Deliver):
            for share, block in check.on_stripe(effect.stripe_index, effect.chunks):
                joined[share] += block
    return check, joined


@pytest.mark.parametrize("shares", [(3,), (9,), (12,), (0, 5, 10, 13)])
def test_lost_shares_come_back_as_they_were(shares: tuple[int, ...]) -> None:
    world = World(BLOB, [r for r in fourteen() if r.number not in shares])
    check, joined = rebuilt(BLOB, world, shares)
    assert check.leaves() == {share: BLOB.leaves[share] for share in shares}
    for share in shares:
        assert joined[share] == b"".join(BLOB.blocks[share, n] for n in range(3))
    stripes = BLOB.manifest.geometry.stripe_count
    assert len(world.blocks_asked()) <= 10 * stripes


def test_a_share_that_somebody_has_after_all_is_read_and_not_made() -> None:
    world = World(BLOB, fourteen())
    check, _ = rebuilt(BLOB, world, (3,))
    assert check.leaves() == {3: BLOB.leaves[3]}
    assert len(world.blocks_asked()) == 2  # the last stripe's block is empty


def test_parity_beyond_the_manifests_is_made_and_gives_the_blob_back() -> None:
    added = (14, 15, 63)
    check, joined = rebuilt(BLOB, World(BLOB, fourteen()), added)
    leaves = check.leaves()
    shape = BLOB.manifest.geometry.stripe(1)
    data = [BLOB.blocks[n, 1] for n in range(10)]
    oracle = zfec.Encoder(10, 256).encode(tuple(data), added)
    full = shape.block_size
    made = {share: joined[share][full : 2 * full] for share in added}
    assert [made[share] for share in added] == oracle
    supplement = Supplement(BLOB.manifest.cid, (check.root(14), check.root(15)))
    assert supplement.agrees([share_root(leaves[14]), share_root(leaves[15])])
    others = {share: BLOB.blocks[share, 1] for share in (0, 2, 4, 6, 8, 10, 12)}
    back = decode_stripe({**others, **made}, shape, range(10))
    assert [back[n] for n in range(10)] == data


def test_nothing_comes_of_a_blob_that_was_wrongly_coded() -> None:
    wrong = coded(BLOB.manifest.size, seed=2)
    roots = (*BLOB.manifest.roots[:12], wrong.manifest.roots[12], BLOB.manifest.roots[13])
    manifest = Manifest(BLOB.manifest.size, roots, BLOB.manifest.content)
    bad = replace(BLOB, manifest=manifest)
    check, _ = rebuilt(bad, World(bad, [r for r in fourteen() if r.number != 12]), (12,))
    with pytest.raises(BlobDamaged, match="not in its own code"):
        check.leaves()
