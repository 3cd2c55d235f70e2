"""Write the golden vectors of blobs from `tests/oracles.py`: `python -m tests.vectors.make_blobs`.

They are made without any of Molia's code, so that they pin the format and not the program. A
change of an existing vector is a change of the format and needs a new version number.
"""

import json
import sys
from pathlib import Path

from blake3 import blake3

from tests import oracles

HERE = Path(__file__).parent
KIB = 1024
STRIPE = 10 * 256 * KIB
BOUNDARIES = (
    *(10 * 4 * KIB << power for power in range(7)),
    *(4 * KIB, 256 * KIB, 1_000_000, 10 * 128 * KIB, STRIPE + 256 * KIB, 2 * STRIPE, 3 * STRIPE),
)
SIZES = sorted({0, 1, 2**40, *(edge + d for edge in BOUNDARIES for d in (-1, 0, 1))})
LEAF_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 63, 64, 65, 410)
CONTENT = "size bytes of BLAKE3's extended output of the empty input: b3sum --raw -l SIZE"


def cid_vectors() -> list[dict[str, object]]:
    """CIDs of whole blobs around every boundary that changes how they are named or cut."""
    sizes = [0, 1, 40_959, 40_960, 40_961, 999_999, 1_000_000, 1_000_001, 1_310_720, 1_310_721]
    sizes += [2_621_439, 2_621_440, 2_621_441, 2_883_585, 5_242_880, 5_242_881]
    letters = (1, 1_000_000, 2_621_441)
    blobs = [("xof", size, oracles.content(size)) for size in sizes]
    blobs += [("letter-a", size, b"a" * size) for size in letters]
    return [
        {"content": made, "size": size, "cid": oracles.cid_of(data)} for made, size, data in blobs
    ]


def geometry_vectors() -> list[dict[str, object]]:
    """Block sizes, stripe counts and the last stripe of sizes around every boundary."""
    rows: list[dict[str, object]] = []
    for size in SIZES:
        full = 10 * oracles.block_size(size)
        count = -(-size // full)
        row: dict[str, object] = {"size": size, "block": full // 10, "stripes": count}
        if count:
            left = size - (count - 1) * full
            block = oracles.smallest_block(left)
            sizes = [min(max(left - j * block, 0), block) for j in range(10)]
            row["last"] = {"offset": size - left, "size": left, "block": block, "blocks": sizes}
        rows.append(row)
    return rows


def erasure_vectors() -> dict[str, object]:
    """The code's matrix, and parity of small stripes byte by byte and of full ones by digest."""
    small = [oracles.content(10 * 16)[j * 16 : (j + 1) * 16] for j in range(10)]
    stripes = []
    for size in (1, 4096, 40_959, 40_960, 40_961, 1_000_000, STRIPE):
        blocks = oracles.blocks_of(oracles.content(size), (0, size, oracles.smallest_block(size)))
        digests = [blake3(block).hexdigest() for block in blocks]
        stripes.append({"size": size, "block_digests": digests})
    return {
        "parity_rows": [list(row) for row in oracles.generator()[10:]],
        "data": [block.hex() for block in small],
        "parity": [block.hex() for block in oracles.parity(small)],
        "stripes": stripes,
    }


def merkle_vectors() -> list[dict[str, object]]:
    """Roots of lists whose leaf i is BLAKE3 of i as 4 bytes, big endian."""
    rows: list[dict[str, object]] = []
    for count in LEAF_COUNTS:
        leaves = [blake3(i.to_bytes(4, "big")).digest() for i in range(count)]
        rows.append({"leaves": count, "root": oracles.merkle_root(leaves).hex()})
    return rows


def manifest_vectors() -> list[dict[str, object]]:
    """Whole manifests."""
    rows: list[dict[str, object]] = []
    for size in (1_000_000, 1_310_721, 2_621_441, 5_242_881):
        fields = oracles.manifest_map(oracles.content(size))
        encoded = oracles.cbor(fields)
        cid = oracles.cid_text(0x71, blake3(encoded).digest())
        rows.append({"size": size, "encoded": encoded.hex(), "cid": cid})
    return rows


def main() -> None:
    """Write all files."""
    everything: dict[str, tuple[str, object]] = {
        "cid": (f"xof: {CONTENT}; letter-a: that many of it", cid_vectors()),
        "geometry": ("block sizes by walking through the blob", geometry_vectors()),
        "erasure": (f"{CONTENT}; GF(2^8), 0x11d, systematic Vandermonde", erasure_vectors()),
        "merkle": ("leaf i = BLAKE3(u32be i); RFC 9162 2.1.1 recursion", merkle_vectors()),
        "manifest": (f"{CONTENT}; canonical CBOR by hand", manifest_vectors()),
    }
    for name, (made, vectors) in everything.items():
        body = {"made": f"tests/vectors/make_blobs.py: {made}", "vectors": vectors}
        (HERE / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n")
    sys.stdout.write(f"wrote {len(everything)} files\n")


if __name__ == "__main__":
    main()
