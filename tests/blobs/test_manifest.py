"""A blob's manifest: one encoding, and nothing else decodes."""

from typing import Any

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from molia.base.errors import BadManifest
from molia.base.limits import BLOB_SIZE_MAX, MANIFEST_SIZE_MAX
from molia.blobs.manifest import Manifest
from tests import oracles
from tests.vectors.load import vectors

GOOD = bytes.fromhex(vectors("manifest")[0]["encoded"])
digests = st.binary(min_size=32, max_size=32)
manifests = st.builds(
    Manifest,
    size=st.integers(1_000_000, BLOB_SIZE_MAX),
    roots=st.tuples(*[digests] * 14),
    content=digests,
)


def test_the_manifest_vectors_hold() -> None:
    for row in vectors("manifest"):
        manifest = Manifest.decode(bytes.fromhex(row["encoded"]))
        assert manifest.size == row["size"]
        assert manifest.encode().hex() == row["encoded"]
        assert str(manifest.cid) == row["cid"]


@given(manifests)
def test_a_manifest_is_canonical_cbor_of_its_fields_and_comes_back(manifest: Manifest) -> None:
    encoded = manifest.encode()
    fields: dict[str, object] = {"k": 10, "n": 14, "v": 1, "enc": None, "code": "zfec"}
    fields |= {"size": manifest.size, "block": oracles.block_size(manifest.size)}
    fields |= {"roots": list(manifest.roots), "content": manifest.content}
    assert encoded == oracles.cbor(fields)
    assert encoded == cbor2.dumps(fields, canonical=True)
    assert len(encoded) <= MANIFEST_SIZE_MAX
    assert Manifest.decode(encoded) == manifest


@given(st.binary(max_size=1500))
@example(b"\x9f" * 1000)
@example(b"\x81" * 1024)
@example(b"\xc2\x5a\xff\xff\xff\xff")
@example(b"\xc5\x82\x1b" + b"\xff" * 8 + b"\x01")
@example(GOOD + b"\x00")
@example(b"\xbf" + GOOD[1:] + b"\xff")
@example(b"\xd9\xd9\xf7" + GOOD)
def test_any_other_bytes_are_a_bad_manifest(data: bytes) -> None:
    with pytest.raises(BadManifest):
        Manifest.decode(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_one_changed_byte_is_refused_or_is_another_blobs_manifest(at: int, change: int) -> None:
    changed = bytearray(GOOD)
    changed[at] ^= change
    try:
        manifest = Manifest.decode(bytes(changed))
    except BadManifest:
        return
    assert manifest.encode() == changed
    assert manifest.cid != Manifest.decode(GOOD).cid


def test_every_cut_and_every_doubling_is_refused() -> None:
    for stop in range(len(GOOD)):
        with pytest.raises(BadManifest):
            Manifest.decode(GOOD[:stop])
    with pytest.raises(BadManifest):
        Manifest.decode(GOOD + GOOD)


CHANGES: list[dict[str, Any]] = [
    {"k": 9}, {"k": 10.0}, {"n": 15}, {"v": 2}, {"v": True}, {"enc": "xchacha"}, {"enc": False},
    {"code": "zfe"}, {"code": b"zfec"}, {"size": 999_999}, {"size": BLOB_SIZE_MAX + 1},
    {"size": -1_000_000}, {"size": 2**64}, {"size": 1_310_721}, {"size": 1_000_000.0},
    {"block": 262_144}, {"block": 65_536}, {"roots": []}, {"roots": [bytes(32)] * 13},
    {"roots": [bytes(32)] * 15}, {"roots": [bytes(31)] * 14}, {"roots": ["x" * 32] * 14},
    {"roots": None}, {"content": bytes(31)}, {"content": "x" * 32}, {"content": None},
    {"extra": 1}, {"z": 1}, {"name": "x" * 300},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change)[:40])
def test_no_other_parameters_are_taken(change: dict[str, Any]) -> None:
    fields = cbor2.loads(GOOD) | change
    with pytest.raises(BadManifest):
        Manifest.decode(cbor2.dumps(fields, canonical=True))


@pytest.mark.parametrize("key", ["k", "n", "v", "enc", "code", "size", "block", "roots", "content"])
def test_no_key_may_be_missing(key: str) -> None:
    fields = cbor2.loads(GOOD)
    del fields[key]
    with pytest.raises(BadManifest):
        Manifest.decode(cbor2.dumps(fields, canonical=True))


def test_other_spellings_of_the_same_map_are_refused() -> None:
    fields = cbor2.loads(GOOD)
    reordered = cbor2.dumps(dict(sorted(fields.items())))
    wide = GOOD.replace(b"\x1a\x00\x0f\x42\x40", b"\x1b\x00\x00\x00\x00\x00\x0f\x42\x40")
    doubled = b"\xaa" + GOOD[1:] + b"\x61k\x0a"
    indefinite = GOOD.replace(b"\x8e\x58", b"\x9f\x58").replace(b"\x67content", b"\xff\x67content")
    for other in (reordered, wide, doubled, indefinite):
        assert other != GOOD
        assert cbor2.loads(other) == fields
        with pytest.raises(BadManifest):
            Manifest.decode(other)
