"""One put, driven through the core's doors."""

import itertools
import random
from collections.abc import Iterator
from functools import lru_cache

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base.cid import Cid, Codec
from molia.base.errors import BadInput, BodyTooLarge, DigestMismatch, MoliaError, UploadCutOff
from molia.base.limits import STRIPES_IN_FLIGHT
from molia.blobs import upload
from molia.blobs.geometry import STRIPE_SIZE_MAX
from molia.blobs.manifest import Manifest
from molia.blobs.upload import Upload
from tests import oracles
from tests.blobs.shell import LEAVES, WHOLE, UploadShell
from tests.vectors.load import vectors

SIZES = (0, 1, 40_960, 999_999, 1_000_000, 1_310_721, 2_621_440, 2_621_441, 6_000_000)


@lru_cache(maxsize=16)
def expected(size: int) -> str:
    """The CID by the oracle."""
    return oracles.cid_of(oracles.content(size))


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """`data` cut at the given places."""
    places = [0, *sorted(cuts), len(data)]
    return (data[a:b] for a, b in itertools.pairwise(places))


def failure(core: Upload) -> MoliaError:
    """The error that the core failed with."""
    (effect,) = core.take_effects()
    assert isinstance(effect, upload.Failed)
    assert not core.wants_bytes
    return effect.error


def test_the_cid_vectors_hold() -> None:
    for row in vectors("cid"):
        size = row["size"]
        data = oracles.content(size) if row["content"] == "xof" else b"a" * size
        assert str(UploadShell(Upload()).run([data]).cid) == row["cid"]


@settings(max_examples=40)
@given(st.sampled_from(SIZES), st.data(), st.booleans(), st.integers(0, 2**32))
def test_any_chunking_and_any_order_of_answers_give_the_same_blob(
    size: int, data: st.DataObject, announced: bool, seed: int
) -> None:
    cuts = data.draw(st.lists(st.integers(0, size), max_size=30))
    core = Upload(size=size if announced else None)
    shell = UploadShell(core, random.Random(seed))
    done = shell.run(pieces(oracles.content(size), cuts))
    assert str(done.cid) == expected(size)
    assert (done.size, done.content) == (size, blake3(oracles.content(size)).digest())
    assert (done.k, done.n) == ((1, 1) if size < 1_000_000 else (10, 14))


@pytest.mark.parametrize("size", [1_000_000, 2_621_441, 6_000_000])
def test_the_stored_blocks_and_lists_are_the_oracles(size: int) -> None:
    shell = UploadShell(Upload())
    done = shell.run([oracles.content(size)])
    columns: list[list[bytes]] = [[] for _ in range(14)]
    count = 0
    for index, stripe in enumerate(oracles.stripes(size)):
        for share, block in enumerate(oracles.blocks_of(oracles.content(size), stripe)):
            columns[share].append(blake3(block).digest())
            if block:
                assert shell.store.values[index, share] == block
                count += 1
            else:
                assert (index, share) not in shell.store.values
    for share, column in enumerate(columns):
        assert shell.store.values[LEAVES, share] == b"".join(column)
    assert len(shell.store.values) == count + 14
    assert Manifest.decode(done.manifest).cid == done.cid


@pytest.mark.parametrize("chunk_size", [1, 100, 4_095, 4_096])
def test_small_chunks_are_gathered(chunk_size: int) -> None:
    data = oracles.content(1_000_000)
    core = Upload()
    body = memoryview(data)
    shell = UploadShell(core)
    done = shell.run(body[at : at + chunk_size] for at in range(0, len(data), chunk_size))
    assert str(done.cid) == expected(1_000_000)


def test_single_bytes_cost_no_object_each() -> None:
    core = Upload()
    for _ in range(100_000):
        core.on_bytes(b"x")
    for _ in range(STRIPE_SIZE_MAX // 100_000):
        core.on_bytes(bytes(100_000))
    core.on_bytes(bytes(core.bytes_to_stripe_end))
    effects = core.take_effects()
    assert isinstance(effects[0], upload.Encode)
    assert len(effects[0].parts) < 40


def test_large_chunks_are_kept_by_reference() -> None:
    core, chunk = Upload(), bytes(STRIPE_SIZE_MAX // 4)
    for form in (chunk, memoryview(chunk), chunk, memoryview(chunk)):
        core.on_bytes(form)
    effect = core.take_effects()[0]
    assert isinstance(effect, upload.Encode)
    assert all(part is chunk for part in effect.parts)


def test_views_of_any_kind_are_taken_for_what_they_show() -> None:
    data = bytearray(oracles.content(1_000_000))
    backwards = bytes(reversed(data))
    core = Upload()
    view = memoryview(data)
    core.on_bytes(view[:600_000])
    core.on_bytes(memoryview(backwards)[::-1][600_000:])
    data[:] = bytes(len(data))  # the client's buffer may be used again at once
    shell = UploadShell(core)
    assert str(shell.run([]).cid) == expected(1_000_000)
    reversed_whole = Upload()
    reversed_whole.on_bytes(memoryview(backwards)[::-1])
    assert str(UploadShell(reversed_whole).run([]).cid) == expected(1_000_000)


def test_a_small_blob_is_one_value_and_nothing_before_the_end() -> None:
    core = Upload()
    core.on_bytes(b"hello")
    assert core.take_effects() == []
    core.on_end()
    whole, done = core.take_effects()
    assert whole == upload.StoreWhole(b"hello")
    assert isinstance(done, upload.Done)
    assert (str(done.cid), done.manifest) == (oracles.cid_of(b"hello"), b"")


def test_no_bytes_are_wanted_while_four_stripes_are_in_flight() -> None:
    core = Upload()
    for count in range(STRIPES_IN_FLIGHT):
        assert core.wants_bytes
        assert core.in_flight == count
        core.on_bytes(bytes(STRIPE_SIZE_MAX))
    assert not core.wants_bytes
    encodes = [e for e in core.take_effects() if isinstance(e, upload.Encode)]
    core.on_encoded(upload.encode(encodes[0]))
    core.on_stored(0)
    assert not core.wants_bytes, "the stripe is stored and not yet hashed"
    core.on_hashed()
    assert core.wants_bytes


@pytest.mark.parametrize("last", ["blocks", "lists"])
def test_done_comes_only_when_blocks_and_lists_are_durable(last: str) -> None:
    core = Upload()
    core.on_bytes(bytes(1_000_000))
    core.on_end()
    encode, content = core.take_effects()
    assert isinstance(encode, upload.Encode)
    assert isinstance(content, upload.HashContent)
    upload.hash_content(content)
    core.on_hashed()
    core.on_encoded(upload.encode(encode))
    kinds = [type(effect) for effect in core.take_effects()]
    assert kinds == [upload.Store] + [upload.StoreLeaves] * 14
    for answer in ("lists", "blocks") if last == "blocks" else ("blocks", "lists"):
        assert core.take_effects() == []
        if answer == "lists":
            core.on_leaves_stored()
        else:
            core.on_stored(0)
    (done,) = core.take_effects()
    assert isinstance(done, upload.Done)


def test_bytes_to_stripe_end_counts_down_to_the_stripe_or_the_body() -> None:
    unknown, known = Upload(), Upload(size=STRIPE_SIZE_MAX + 10)
    for core in (unknown, known):
        assert core.bytes_to_stripe_end == STRIPE_SIZE_MAX
        core.on_bytes(bytes(100))
        assert core.bytes_to_stripe_end == STRIPE_SIZE_MAX - 100
        core.on_bytes(bytes(STRIPE_SIZE_MAX - 100))
    assert unknown.bytes_to_stripe_end == STRIPE_SIZE_MAX
    assert known.bytes_to_stripe_end == 10
    known.on_bytes(bytes(10))
    assert known.bytes_to_stripe_end == 0


@pytest.mark.parametrize("size", [0, 10, 1_000_000, 2_700_000])
def test_an_assertion_that_holds_is_met_by_the_cid_its_raw_form_or_the_content(size: int) -> None:
    data = oracles.content(size)
    content = blake3(data).digest()
    for wanted in (Cid.parse(expected(size)), Cid(Codec.RAW, content)):
        done = UploadShell(Upload(assert_cid=wanted, assert_content=content)).run([data])
        assert str(done.cid) == expected(size)


@pytest.mark.parametrize("size", [0, 10, 1_000_000, 2_700_000])
def test_an_assertion_that_does_not_hold_fails_before_anything_is_bound(size: int) -> None:
    data, other = oracles.content(size), bytes(32)
    for core in (
        Upload(assert_content=other),
        Upload(assert_cid=Cid(Codec.RAW, other)),
        Upload(assert_cid=Cid(Codec.MANIFEST, blake3(data).digest())),
    ):
        shell = UploadShell(core)
        with pytest.raises(DigestMismatch):
            shell.run([data])
        assert shell.result is None
        assert (LEAVES, 0) not in shell.store.values
        assert (WHOLE, 0) not in shell.store.values


def test_a_body_above_the_limit_fails_at_the_first_byte_too_many() -> None:
    core = Upload(size_max=1_000)
    core.on_bytes(bytes(1_000))
    assert core.take_effects() == []
    core.on_bytes(b"x")
    assert isinstance(failure(core), BodyTooLarge)


def test_a_body_announced_above_the_limit_fails_at_once() -> None:
    assert isinstance(failure(Upload(size=1_001, size_max=1_000)), BodyTooLarge)


def test_a_body_longer_than_announced_fails() -> None:
    core = Upload(size=10)
    core.on_bytes(bytes(11))
    assert type(failure(core)) is BadInput


@pytest.mark.parametrize("size", [1, 1_000_000, 3_000_000])
def test_a_body_shorter_than_announced_fails(size: int) -> None:
    with pytest.raises(UploadCutOff):
        UploadShell(Upload(size=size)).run([bytes(size - 1)])


def test_answers_after_a_failure_are_ignored() -> None:
    core = Upload(size=STRIPE_SIZE_MAX)
    core.on_bytes(bytes(STRIPE_SIZE_MAX))
    encode = core.take_effects()[0]
    assert isinstance(encode, upload.Encode)
    encoded = upload.encode(encode)
    core.on_bytes(b"x")
    assert type(failure(core)) is BadInput
    core.on_encoded(encoded)
    core.on_hashed()
    core.on_stored(0)
    core.on_leaves_stored()
    core.on_bytes(b"more")
    core.on_end()
    assert core.take_effects() == []


def test_in_flight_stays_bounded_over_a_long_body() -> None:
    shell = UploadShell(Upload(), random.Random(7))
    shell.run(bytes(STRIPE_SIZE_MAX // 2) for _ in range(40))
    assert shell.peak_in_flight == STRIPES_IN_FLIGHT
