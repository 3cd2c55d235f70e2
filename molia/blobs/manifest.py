"""A blob's manifest: the few hundred bytes whose hash is the blob's CID.

It is a dag-cbor map of fixed keys in canonical order. Since version 1 leaves nothing open but the
size, the roots and the content hash, decoding is: take those three from their places, encode what
they make, and compare. Bytes that pass are canonical by construction, and hostile bytes never
reach a CBOR parser.
Source: docs/reference/manifest.md; https://ipld.io/specs/codecs/dag-cbor/spec/.
"""

from dataclasses import dataclass
from typing import Final

import cbor2

from molia.base.cid import Cid, Codec
from molia.base.errors import BadManifest
from molia.base.hashing import DIGEST_SIZE, blake3_digest
from molia.base.limits import (
    BLOB_SIZE_MAX,
    DATA_SHARES,
    MANIFEST_SIZE_MAX,
    RAW_SIZE_STOP,
    TOTAL_SHARES,
)
from molia.blobs.geometry import Geometry

VERSION: Final = 1
CODE: Final = "zfec"
_UINT_SIZES: Final = {0x1A: 4, 0x1B: 8}
_BYTES_HEAD_SIZE: Final = 2  # 0x58 0x20 before every digest
_CONTENT_KEY_SIZE: Final = 8
_ITEM_SIZE: Final = _BYTES_HEAD_SIZE + DIGEST_SIZE
_ROOTS_END: Final = _ITEM_SIZE + _CONTENT_KEY_SIZE


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a blob of 1,000,000 bytes and more is made of."""

    size: int
    roots: tuple[bytes, ...]
    """The 14 shares' Merkle roots."""
    content: bytes
    """BLAKE3 of the blob's bytes."""

    def __post_init__(self) -> None:
        assert RAW_SIZE_STOP <= self.size <= BLOB_SIZE_MAX, "smaller blobs are kept whole"
        assert len(self.roots) == TOTAL_SHARES, "one root per share"
        assert all(len(digest) == DIGEST_SIZE for digest in (*self.roots, self.content))

    @property
    def geometry(self) -> Geometry:
        """How the blob is cut."""
        return Geometry.of(self.size)

    @property
    def block_size(self) -> int:
        """The nominal block size B."""
        return self.geometry.block_size

    def encode(self) -> bytes:
        """Return the manifest's one encoding."""
        return _PREFIX + cbor2.dumps(self.size) + _rest(self)

    @property
    def cid(self) -> Cid:
        """The blob's CID."""
        return cid_of_manifest(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> "Manifest":
        """Return the manifest in `data`. Raises BadManifest for anything but its one encoding."""
        if len(data) > MANIFEST_SIZE_MAX or not data.startswith(_PREFIX):
            raise BadManifest("not a version 1 manifest")
        size = _size_at(data, len(_PREFIX))
        if not RAW_SIZE_STOP <= size <= BLOB_SIZE_MAX:
            raise BadManifest(f"a manifest of {size} bytes: it has {RAW_SIZE_STOP} to 1 TiB")
        roots_start = len(data) - _ROOTS_END - TOTAL_SHARES * _ITEM_SIZE
        if roots_start < len(_PREFIX):
            raise BadManifest("the manifest is cut off")
        places = range(roots_start, len(data) - _ROOTS_END, _ITEM_SIZE)
        roots = tuple(data[at + _BYTES_HEAD_SIZE : at + _ITEM_SIZE] for at in places)
        manifest = cls(size, roots, data[-DIGEST_SIZE:])
        if manifest.encode() != data:
            raise BadManifest("the manifest is not canonical, or has parameters of no version 1")
        return manifest


def cid_of_manifest(encoded: bytes) -> Cid:
    """Return the CID of a blob whose manifest is `encoded`."""
    return Cid(Codec.MANIFEST, blake3_digest(encoded))


def cid_of_bytes(data: bytes) -> Cid:
    """Return the CID of a small blob."""
    return Cid(Codec.RAW, blake3_digest(data))


def _size_at(data: bytes, at: int) -> int:
    """Return the integer at `at`, or 0 when it is none that a size could be."""
    width = _UINT_SIZES.get(data[at] if at < len(data) else 0, 0)
    return int.from_bytes(data[at + 1 : at + 1 + width], "big")


def _rest(manifest: Manifest) -> bytes:
    """Return what follows the size: canonical order is by length of the key, then by its bytes."""
    parts: list[object] = ["block", manifest.block_size, "roots", list(manifest.roots)]
    parts += ["content", manifest.content]
    return b"".join(cbor2.dumps(part) for part in parts)


_FIXED: Final = (
    "k",
    DATA_SHARES,
    "n",
    TOTAL_SHARES,
    "v",
    VERSION,
    "enc",
    None,
    "code",
    CODE,
    "size",
)
_PREFIX: Final = b"\xa9" + b"".join(cbor2.dumps(part) for part in _FIXED)
"""A map of 9 pairs, up to the key of its sixth value: the same in every manifest."""
