"""Content ids, compared with the multiformats library and with b3sum."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import example, given
from hypothesis import strategies as st
from multiformats import CID

from molia.base.cid import Cid, Codec, ContentHash, parse_ref
from molia.base.errors import BadCid
from molia.base.hashing import blake3_digest
from tests import oracles
from tests.vectors.load import vectors

digests = st.binary(min_size=32, max_size=32)
cids = st.builds(Cid, st.sampled_from(Codec), digests)
GOOD = str(Cid(Codec.RAW, bytes(32)))


@given(cids)
def test_a_cid_reads_the_same_in_the_multiformats_library(cid: Cid) -> None:
    other = CID.decode(str(cid))
    assert (other.version, other.base.name, other.hashfun.name) == (1, "base32", "blake3")
    assert other.codec.name == ("raw" if cid.codec is Codec.RAW else "dag-cbor")
    assert other.raw_digest == cid.digest
    assert bytes(other) == bytes(cid)
    assert str(CID("base32", 1, other.codec.name, ("blake3", cid.digest))) == str(cid)


@given(cids)
def test_a_cid_comes_back_from_its_text_and_its_bytes(cid: Cid) -> None:
    assert Cid.parse(str(cid)) == cid
    assert Cid.from_bytes(bytes(cid)) == cid
    assert str(cid) == oracles.cid_text(cid.codec, cid.digest)
    assert str(cid).endswith(cid.short)


def test_the_two_codecs_are_told_apart_by_their_first_letters() -> None:
    assert str(Cid(Codec.RAW, bytes(32))).startswith("bafkr4i")
    assert str(Cid(Codec.MANIFEST, bytes(32))).startswith("bafyr4i")


@given(cids, st.sampled_from(["", "ipfs://", "molia:"]))
def test_a_reference_may_carry_a_scheme(cid: Cid, scheme: str) -> None:
    assert parse_ref(f"{scheme}{cid}") == cid


@given(digests, st.booleans())
def test_64_hex_digits_are_the_content_hash(digest: bytes, upper: bool) -> None:
    text = digest.hex().upper() if upper else digest.hex()
    assert parse_ref(text) == ContentHash(digest)
    assert str(ContentHash(digest)) == digest.hex()


@given(st.text(max_size=80))
@example("")
@example("b")
@example("molia:" * 10)
@example("ipfs://")
@example("é" * 64)
@example("0" * 63 + "\n")
@example("0" * 64 + "\n")
@example(GOOD + "\n")
@example("b" + "\u0131" * 58)
@example("\ud800" * 59)
@example("b" + "=" * 58)
@example(GOOD[:-2] + "==")
def test_any_text_is_a_reference_or_a_bad_cid(text: str) -> None:
    try:
        ref = parse_ref(text)
    except BadCid as error:
        error.message.encode()
        return
    spelt = text.removeprefix("ipfs://").removeprefix("molia:")
    assert str(ref) == (spelt.lower() if isinstance(ref, ContentHash) else spelt)


@given(st.integers(0, len(GOOD) - 1), st.characters())
def test_one_changed_character_is_refused_or_names_another_blob(at: int, char: str) -> None:
    text = GOOD[:at] + char + GOOD[at + 1 :]
    try:
        cid = Cid.parse(text)
    except BadCid:
        return
    assert str(cid) == text


@pytest.mark.parametrize("text", [GOOD.upper(), GOOD[0] + GOOD[1:].upper(), " " + GOOD, GOOD + " "])
def test_a_cid_has_one_spelling(text: str) -> None:
    with pytest.raises(BadCid):
        Cid.parse(text)


def test_spare_bits_of_the_last_character_must_be_zero() -> None:
    for last in "bcd":
        with pytest.raises(BadCid):
            Cid.parse(GOOD[:-1] + last)


@given(st.binary(max_size=40))
@example(bytes((0, 0x55, 0x1E, 32)) + bytes(32))
@example(bytes((1, 0x70, 0x1E, 32)) + bytes(32))
@example(bytes((1, 0x55, 0x12, 32)) + bytes(32))
@example(bytes((1, 0x55, 0x1E, 31)) + bytes(32))
def test_any_bytes_are_a_cid_or_a_bad_one(body: bytes) -> None:
    with contextlib.suppress(BadCid):
        assert bytes(Cid.from_bytes(body)) == body


def test_the_fixed_points_are_in_the_vectors() -> None:
    pinned = {(row["content"], row["size"]): row["cid"] for row in vectors("cid")}
    fixed = {
        ("xof", 1_000_000): "bafyr4ic32okfvh2w6ys4exr4w2rxwvkmuz55ddnackp22vjjkafdwfivda",
        ("xof", 5_242_881): "bafyr4iekltdw75r77ye6kwh4q4vbmiqfloelltfsoq6k2nisdl3xjtvqv4",
        ("letter-a", 1): "bafkr4iaxoyx53wljurjzexlfof5mh3vccmqlm22ugqx54fisrvwk6ijbl4",
        ("letter-a", 1_000_000): "bafyr4ifxglj7722cgjf7y2brywyxbshye2vpsxcxjrsxggla7r2yuzcalq",
        ("letter-a", 2_621_441): "bafyr4ie6n3oakz6txssonexw745zklf2v3rtnyvv6cjoohmcv5fplicjau",
    }
    assert fixed.items() <= pinned.items()


def test_a_small_blobs_cid_is_what_b3sum_prints(tmp_path: Path) -> None:
    b3sum = shutil.which("b3sum")
    if b3sum is None:
        pytest.skip("b3sum is not installed")
    for size in (0, 1, 999_999):
        path = tmp_path / "blob"
        path.write_bytes(oracles.content(size))
        run = subprocess.run(
            [b3sum, "--no-names", path], capture_output=True, check=True, text=True
        )
        digest = bytes.fromhex(run.stdout.strip())
        row = next(r for r in vectors("cid") if (r["content"], r["size"]) == ("xof", size))
        assert Cid.parse(row["cid"]) == Cid(Codec.RAW, digest)


def test_the_vectors_content_is_what_b3sum_prints() -> None:
    b3sum = shutil.which("b3sum")
    if b3sum is None:
        pytest.skip("b3sum is not installed")
    run = subprocess.run(
        [b3sum, "--raw", "-l", "10000"], input=b"", capture_output=True, check=True
    )
    assert run.stdout == oracles.content(10_000)
    assert blake3_digest(run.stdout) == blake3(oracles.content(10_000)).digest()
