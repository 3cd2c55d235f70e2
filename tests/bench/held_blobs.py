"""Many blobs that cost nothing to make: all have the same blocks, each claims another content.

Whoever keeps a share checks it against the manifest's roots and cannot know the content, so such a
blob is kept, watched and audited as any other. Share `SMALL` is one byte: 100,000 of them fit.
"""

from functools import lru_cache
from typing import Final

from molia.base.cid import Cid
from molia.base.hashing import blake3_digest
from molia.base.ids import network_id
from molia.blobs.manifest import Manifest
from tests.blobs.remote import Coded, coded

SMALL: Final = 8
SIZE: Final = SMALL * 128 * 1024 + 1
STORED: Final = (*range(SMALL + 1), 10, 11, 12, 13)
"""The shares that have bytes; of one with an empty block alone there is none."""
NETWORK_NAME: Final = "bench-net"
NETWORK: Final = network_id(NETWORK_NAME)


@lru_cache(maxsize=1)
def body() -> Coded:
    """Return what all of them hold."""
    return coded(SIZE, seed=3)


def manifest_of(number: int) -> Manifest:
    """Return the manifest of one of them."""
    return Manifest(SIZE, body().manifest.roots, blake3_digest(number.to_bytes(8)))


def cid_of(number: int) -> Cid:
    """Return its CID."""
    return manifest_of(number).cid
