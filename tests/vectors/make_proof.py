"""Writes proof.json: identity proofs, found without molia.wire.

    python -m tests.vectors.make_proof

Argon2id is cryptography's; its own digests are checked against the reference implementation's.
"""

import hashlib
import itertools
import json
import struct
from pathlib import Path

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

HERE = Path(__file__).parent
CASES = [  # peer key, network, host, address prefix, epoch
    (bytes(range(32)), bytes(range(32, 64)), "c000024d", "04c00002", 655),
    (bytes([7]) * 32, bytes([9]) * 32, "2a022fffffff" + "00" * 9 + "01", "062a022ff80303", 656),
]
BITS = 12


def is_low(digest: bytes) -> bool:
    """Tell whether 12 zero bits stand in front."""
    return int.from_bytes(digest, "big") >> (64 - BITS) == 0


def argon(password: bytes, salt: bytes) -> bytes:
    """Argon2id, 1 MiB, one pass, one lane, 8 bytes."""
    return Argon2id(salt=salt, length=8, iterations=1, lanes=1, memory_cost=1024).derive(password)


def proved(key: bytes, network: bytes, host: str, prefix: str, epoch: int) -> dict[str, object]:
    """Return the first nonce and the first gate, both counted from 0."""
    salt = network + bytes.fromhex(prefix) + struct.pack("<I", epoch)
    nonces = (struct.pack("<Q", number) for number in itertools.count())
    nonce = next(nonce for nonce in nonces if is_low(argon(key + nonce, salt)))

    def gate_digest(gate: bytes) -> bytes:
        return hashlib.blake2b(key + salt + nonce + gate, digest_size=8).digest()

    gates = (struct.pack("<Q", number) for number in itertools.count())
    gate = next(gate for gate in gates if is_low(gate_digest(gate)))
    return {
        "peer_key": key.hex(), "network": network.hex(), "host": host, "epoch": epoch,
        "salt": salt.hex(), "nonce": nonce.hex(), "gate": gate.hex(),
        "digest": argon(key + nonce, salt).hex(), "gate_digest": gate_digest(gate).hex(),
        "proof": (struct.pack("<BI", 1, epoch) + nonce + gate).hex(),
    }  # fmt: skip


def main() -> None:
    """Write the file."""
    made = "tests/vectors/make_proof.py: the first nonce and the first gate from 0 on"
    text = json.dumps({"made": made, "vectors": [proved(*case) for case in CASES]}, indent=1)
    (HERE / "proof.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
