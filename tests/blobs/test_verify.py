"""Finding damage and mending it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base.cid import Cid
from molia.blobs import verify
from molia.blobs.geometry import STRIPE_SIZE_MAX
from molia.blobs.manifest import Manifest
from molia.blobs.verify import VerifyBlob, VerifyReport, whole_is_sound
from tests import oracles
from tests.blobs.shell import LEAVES, Store, read, stored, verify_blob

SIZE = 2 * STRIPE_SIZE_MAX + 300_000
SHARED = stored(SIZE)


def copy() -> tuple[Manifest, Store, dict[tuple[int, int], bytes]]:
    """The shared blob in a store of its own, and its sound values."""
    manifest, store, _ = SHARED
    return manifest, Store(dict(store.values)), dict(store.values)


def run(manifest: Manifest, store: Store) -> VerifyReport:
    """A whole verification."""
    report = verify_blob(manifest, store, VerifyBlob(manifest))
    assert report is not None
    return report


def test_a_sound_blob_is_read_whole_and_nothing_is_written() -> None:
    manifest, store, sound = copy()
    report = run(manifest, store)
    assert report == VerifyReport(next_stripe=3)
    assert report.healthy
    assert store.values == sound
    assert sorted(store.fetched) == sorted(key for key in sound if key[0] != LEAVES)


@settings(max_examples=30)
@given(st.data())
def test_up_to_four_damaged_blocks_of_each_stripe_are_rebuilt(data: st.DataObject) -> None:
    manifest, store, sound = copy()
    hits = 0
    for index in range(3):
        shares = manifest.geometry.stripe(index).stored_shares
        for share in data.draw(st.lists(st.sampled_from(shares), unique=True, max_size=4)):
            hits += 1
            if data.draw(st.booleans()):
                at = data.draw(st.integers(0, len(store.values[index, share]) - 1))
                store.flip(index, share, at=at)
            else:
                del store.values[index, share]
    report = run(manifest, store)
    assert store.values == sound
    assert (sum(report.damaged), report.rebuilt_blocks) == (hits, hits)
    assert report.healthy


def test_a_stripe_with_five_damaged_blocks_is_lost_and_the_others_are_mended() -> None:
    manifest, store, sound = copy()
    for share in range(5):
        store.flip(1, share)
    store.flip(0, 0)
    store.flip(2, 11)
    report = run(manifest, store)
    assert (report.lost_stripes, report.rebuilt_blocks, sum(report.damaged)) == (1, 2, 7)
    assert not report.healthy
    assert store.values[0, 0] == sound[0, 0]
    assert store.values[2, 11] == sound[2, 11]
    assert store.values[1, 0] != sound[1, 0], "nothing was invented"


@pytest.mark.parametrize("lists", [(0,), (0, 1, 2, 3), (13,), tuple(range(14))])
def test_damaged_leaf_lists_are_made_again_from_sound_blocks(lists: tuple[int, ...]) -> None:
    manifest, store, sound = copy()
    for share in lists:
        store.flip(LEAVES, share, at=33)
    report = run(manifest, store)
    assert store.values == sound
    assert (report.damaged_lists, report.rebuilt_lists) == (len(lists), len(lists))
    assert report.healthy


def test_a_share_lost_with_its_leaf_list_is_rebuilt_from_the_others() -> None:
    manifest, store, sound = copy()
    for share in (0, 4, 12):
        for index in range(3):
            store.values.pop((index, share), None)
        store.values.pop((LEAVES, share))
    assert run(manifest, store).healthy
    assert store.values == sound


def test_a_leaf_list_beyond_rebuilding_is_reported() -> None:
    manifest, store, _ = copy()
    for share in range(5):
        store.flip(0, share)
        store.flip(LEAVES, share)
    report = run(manifest, store)
    assert (report.damaged_lists, report.rebuilt_lists, report.lost_stripes) == (5, 0, 3)
    assert not report.healthy


def test_sound_blocks_without_a_leaf_list_are_not_called_damaged() -> None:
    manifest, store, _ = copy()
    del store.values[LEAVES, 3]
    store.flip(0, 3)
    leaves = store.leaves_of(manifest)
    shape = manifest.geometry.stripe
    assert verify.check_stripe(store.fetch, leaves, shape(1)).damaged == ()
    assert verify.check_stripe(store.fetch, leaves, shape(0)).damaged == (3,)


@given(st.integers(0, 40))
def test_a_verification_cut_off_anywhere_goes_on_and_finds_the_same(steps: int) -> None:
    manifest, store, sound = copy()
    store.flip(LEAVES, 2)
    for share in (1, 5, 10):
        store.flip(0, share)
    del store.values[2, 0]
    core = VerifyBlob(manifest)
    report = verify_blob(manifest, store, core, steps=steps)
    if report is None:
        cursor = json.loads(json.dumps(core.report.to_cursor()))
        report = verify_blob(
            manifest, store, VerifyBlob(manifest, VerifyReport.from_cursor(cursor))
        )
    assert report is not None
    assert report.healthy
    assert store.values == sound
    assert report.next_stripe == 3


def test_a_cursor_comes_back_as_it_was() -> None:
    report = VerifyReport(7, tuple(range(14)), 91, 2, 3, 1)
    assert VerifyReport.from_cursor(report.to_cursor()) == report


CURSORS: list[dict[str, Any]] = [
    {"next_stripe": -1}, {"next_stripe": "3"}, {"damaged": [0] * 13},
    {"damaged": "x" * 14}, {"damaged": [0.5] * 14}, {"lost_stripes": None}, {"rebuilt_lists": True},
]  # fmt: skip


@pytest.mark.parametrize("change", CURSORS, ids=str)
def test_a_cursor_that_is_none_of_ours_starts_anew(change: dict[str, Any]) -> None:
    cursor = VerifyReport(next_stripe=1).to_cursor()
    assert VerifyReport.from_cursor(cursor | change) == VerifyReport()
    assert VerifyReport.from_cursor(change) == VerifyReport()


def test_a_small_blob_is_sound_when_it_hashes_to_its_cid() -> None:
    cid = Cid.parse(oracles.cid_of(b"hello"))
    assert whole_is_sound(cid, b"hello")
    assert not whole_is_sound(cid, b"hellp")
    assert not whole_is_sound(cid, b"")
    assert not whole_is_sound(cid, None)


def test_a_mended_blob_reads_as_it_was_put() -> None:
    manifest, store, _ = copy()
    for share in (0, 1, 2, 3):
        store.flip(1, share)
    run(manifest, store)
    for share in (4, 5, 6, 7):
        store.flip(1, share)
    assert read(manifest, store, 0, SIZE) == SHARED[2]
