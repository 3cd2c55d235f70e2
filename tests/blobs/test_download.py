"""One read, driven through the core's doors."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base.errors import BlobDamaged, TooFewShares
from molia.blobs import download
from molia.blobs.download import Download, Fetch, read_stripe, verified_leaves
from molia.blobs.erasure import decode_stripe
from molia.blobs.geometry import STRIPE_SIZE_MAX
from molia.blobs.manifest import Manifest
from tests.blobs.shell import LEAVES, DownloadShell, Store, read, stored

SIZE = 2 * STRIPE_SIZE_MAX + 300_000
SHARED = stored(SIZE)


def copy() -> tuple[Manifest, Store, bytes]:
    """The shared blob in a store of its own."""
    manifest, store, data = SHARED
    return manifest, Store(dict(store.values)), data


@settings(max_examples=60)
@given(st.integers(0, SIZE), st.integers(0, SIZE), st.integers(1, 4), st.integers(0, 2**32))
def test_any_range_reads_as_the_slice(one: int, other: int, ahead: int, seed: int) -> None:
    manifest, store, data = SHARED
    start, stop = sorted((one, other))
    core = Download(manifest, start, stop, ahead=ahead)
    shell = DownloadShell(core, manifest, store, random.Random(seed))
    assert shell.run() == data[start:stop]
    assert shell.damage == []
    assert shell.peak_asked <= ahead


def test_a_healthy_range_fetches_only_the_blocks_it_touches() -> None:
    manifest, store, data = copy()
    assert read(manifest, store, 300_000, 365_536) == data[300_000:365_536]
    assert store.fetched == [(0, 1)]


def test_a_healthy_read_fetches_no_parity() -> None:
    manifest, store, data = copy()
    assert read(manifest, store, 0, SIZE) == data
    assert all(share < 10 for _, share in store.fetched)
    assert len(store.fetched) == len(set(store.fetched))


def test_an_empty_range_asks_for_nothing() -> None:
    manifest, store, _ = copy()
    assert read(manifest, store, 7, 7) == b""
    assert store.fetched == []


@settings(max_examples=40)
@given(st.data())
def test_any_four_damaged_shares_of_each_stripe_do_not_matter(data: st.DataObject) -> None:
    manifest, store, body = copy()
    hit = {}
    for index in range(3):
        shares = manifest.geometry.stripe(index).stored_shares
        hit[index] = data.draw(st.lists(st.sampled_from(shares), unique=True, max_size=4))
        for share in hit[index]:
            if data.draw(st.booleans()):
                at = data.draw(st.integers(0, len(store.values[index, share]) - 1))
                store.flip(index, share, at=at)
            else:
                del store.values[index, share]
    shell = DownloadShell(Download(manifest, 0, SIZE), manifest, store)
    assert shell.run() == body
    for index, named in shell.damage:
        assert set(named) <= set(hit[index])
    for index, struck in hit.items():
        lost_data = {share for share in struck if share < 10}
        seen = {share for i, bad in shell.damage if i == index for share in bad}
        assert lost_data <= seen


def test_a_damaged_block_is_found_before_a_byte_of_it_is_given_out() -> None:
    manifest, store, data = copy()
    store.flip(0, 1, at=50_000)
    shell = DownloadShell(Download(manifest, 300_000, 400_000), manifest, store)
    assert shell.run() == data[300_000:400_000]
    assert shell.damage == [(0, (1,))]


@pytest.mark.parametrize("cut", [0, 1, 100])
def test_a_block_that_is_too_short_counts_as_damaged(cut: int) -> None:
    manifest, store, data = copy()
    store.values[0, 0] = store.values[0, 0][:cut]
    assert read(manifest, store, 0, 1_000) == data[:1_000]


def test_five_damaged_blocks_fail_after_what_came_before_them() -> None:
    manifest, store, data = copy()
    for share in (0, 3, 9, 10, 13):
        store.flip(1, share)
    shell = DownloadShell(Download(manifest, 0, SIZE), manifest, store)
    with pytest.raises(TooFewShares) as caught:
        shell.run()
    assert shell.got == data[:STRIPE_SIZE_MAX]
    error = caught.value
    assert (error.stripe_index, error.sound_count, error.needed) == (1, 9, 10)


def test_stripes_beyond_a_lost_one_still_read() -> None:
    manifest, store, data = copy()
    for share in range(5):
        del store.values[1, share]
    assert read(manifest, store, 2 * STRIPE_SIZE_MAX, SIZE) == data[2 * STRIPE_SIZE_MAX :]


def test_blocks_of_another_place_are_not_taken() -> None:
    manifest, store, data = copy()
    store.values[0, 0], store.values[0, 1] = store.values[0, 1], store.values[0, 0]
    store.values[1, 2] = store.values[0, 2]
    assert read(manifest, store, 0, SIZE) == data


@pytest.mark.parametrize("lists", [(0,), (0, 1, 2, 3), (9, 10, 12, 13)])
def test_four_damaged_leaf_lists_do_not_matter(lists: tuple[int, ...]) -> None:
    manifest, store, data = copy()
    for share in lists:
        store.flip(LEAVES, share, at=40)
    assert read(manifest, store, 0, SIZE) == data


def test_without_five_leaf_lists_nothing_is_given_out() -> None:
    manifest, store, _ = copy()
    for share in range(5):
        del store.values[LEAVES, share]
    with pytest.raises(TooFewShares):
        read(manifest, store, 0, 10)


def test_a_leaf_list_counts_only_with_the_manifests_root() -> None:
    manifest, store, _ = copy()
    good = store.values[LEAVES, 3]
    assert verified_leaves(manifest, 3, good) == good
    assert verified_leaves(manifest, 4, good) is None
    for other in (None, b"", good[:-1], good[:-32], good + bytes(32), bytes(len(good))):
        assert verified_leaves(manifest, 3, other) is None


def test_a_decoder_that_gives_wrong_bytes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, store, _ = copy()

    def mutant(*args: object) -> dict[int, bytes]:
        blocks = decode_stripe(*args)  # type: ignore[arg-type]
        return {share: block[::-1] for share, block in blocks.items()}

    monkeypatch.setattr(download, "decode_stripe", mutant)
    store.flip(0, 0)
    with pytest.raises(BlobDamaged):
        read(manifest, store, 0, 10)


def test_parity_may_be_wanted_too() -> None:
    manifest, store, _ = copy()
    sound = dict(store.values)
    store.flip(0, 12)
    shape = manifest.geometry.stripe(0)
    found = read_stripe(store.fetch, store.leaves_of(manifest), shape, (0, 12))
    assert found.blocks == {0: sound[0, 0], 12: sound[0, 12]}
    assert found.bad_shares == (12,)


def test_answers_after_a_failure_are_ignored() -> None:
    manifest, store, _ = copy()
    for share in range(5):
        del store.values[0, share]
    core = Download(manifest, 0, SIZE, ahead=2)
    first, second = core.take_effects()
    assert isinstance(first, Fetch)
    assert isinstance(second, Fetch)
    leaves = store.leaves_of(manifest)
    core.on_fetched(read_stripe(store.fetch, leaves, first.stripe, first.shares))
    assert isinstance(core.take_effects()[-1], download.Failed)
    core.on_fetched(read_stripe(store.fetch, leaves, second.stripe, second.shares))
    assert core.take_effects() == []
