"""Writes puzzle.json: solved request puzzles, made with hashlib and struct alone.

python -m tests.vectors.make_puzzle
"""

import hashlib
import itertools
import json
import struct
from pathlib import Path

HERE = Path(__file__).parent
CASES = [
    (bytes(range(32)), 2_833_333, bytes(range(32, 64)), bytes.fromhex("c00002"), 14),
    (bytes(32), 0, bytes([255]) * 32, bytes.fromhex("23e7d9"), 8),
    (bytes([7]) * 32, 2**32 - 1, bytes([9]) * 32, bytes(3), 16),
]


def solved(key: bytes, epoch: int, ephemeral: bytes, tag: bytes, bits: int) -> dict[str, object]:
    """Return the first nonce, counted from 0, with exactly so many zero bits."""
    head = key + struct.pack("<I", epoch) + ephemeral + tag

    def zero_bits(nonce: bytes) -> int:
        value = int.from_bytes(hashlib.blake2b(head + nonce, digest_size=8).digest(), "big")
        return 64 - value.bit_length()

    nonces = (struct.pack("<Q", number) for number in itertools.count())
    nonce = next(nonce for nonce in nonces if zero_bits(nonce) == bits)
    trailer = struct.pack("<BBI", 1, bits, epoch) + nonce
    return {
        "responder_key": key.hex(), "epoch": epoch, "ephemeral": ephemeral.hex(), "tag": tag.hex(),
        "bits": bits, "nonce": nonce.hex(), "trailer": trailer.hex(),
    }  # fmt: skip


def main() -> None:
    """Write the file."""
    made = "tests/vectors/make_puzzle.py: the first nonce with exactly `bits` zero bits in front"
    text = json.dumps({"made": made, "vectors": [solved(*case) for case in CASES]}, indent=1)
    (HERE / "puzzle.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
