"""Writes leases.json: leases and claims, step by step and without molia.

    python -m tests.vectors.make_leases

Curve arithmetic is tests/dht/ed25519_oracle.py; the layout is written out by hand.
"""

import json
from pathlib import Path

from tests.dht import ed25519_oracle as curve

HERE = Path(__file__).parent
NETWORK = bytes(range(64, 96))
NOON = 1_800_000_000
CASES = [  # seed, kind, label, blob digest, issued, expires
    (bytes(range(32)), "LEASE", b"molia/lease/1", bytes(range(100, 132)), NOON, NOON + 2_592_000),
    (bytes([7]) * 32, "LEASE", b"molia/lease/1", bytes(32), NOON, NOON + 400 * 86_400),
    (bytes([7]) * 32, "LEASE", b"molia/lease/1", bytes(32), NOON + 1, NOON + 1),
    (bytes([9]) * 32, "CLAIM", b"molia/repair-claim/1", bytes(range(32)), NOON, NOON + 3_600),
]


def row(
    seed: bytes, kind: str, label: bytes, digest: bytes, issued: int, expires: int
) -> dict[str, object]:
    """Return one statement with every step to it."""
    scalar, nonce_prefix = curve.expanded(seed)
    public = curve.pack(curve.times(scalar, curve.BASE))
    rest = digest + public + issued.to_bytes(8, "big") + expires.to_bytes(8, "big")
    signed = label + b"\x01" + NETWORK + rest
    signature = curve.sign(scalar, nonce_prefix, signed)
    return {
        "seed": seed.hex(), "kind": kind, "network": NETWORK.hex(), "digest": digest.hex(),
        "issued": issued, "expires": expires, "signer": public.hex(), "signed": signed.hex(),
        "encoded": (b"\x01" + rest + signature).hex(),
    }  # fmt: skip


def main() -> None:
    """Write the file."""
    made = "tests/vectors/make_leases.py, by hand"
    text = json.dumps({"made": made, "vectors": [row(*case) for case in CASES]}, indent=1)
    (HERE / "leases.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
