"""Writes records.json and providers.json, step by step and without molia.

    python -m tests.vectors.make_records

Curve arithmetic is tests/dht/ed25519_oracle.py, XChaCha20-Poly1305 is libsodium's, BLAKE3 its
authors'; protobuf and layouts are written out by hand.
"""

import json
from pathlib import Path

from blake3 import blake3
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as xchacha

from tests.dht import ed25519_oracle as curve

HERE = Path(__file__).parent
NETWORK = bytes(range(64, 96))
DAY = 86_400
RECORDS = [  # seed, salt, unix time, seq, value
    (bytes(range(32)), b"", 1_800_000_000, 1, b""),
    (bytes([7]) * 32, b"molia/addr", 1_800_000_000, 2**40, b"molia://somewhere"),
    (bytes(range(1, 33)), bytes(range(64)), 1_893_456_000, 2**64 - 1, bytes(range(250)) * 4),
]
BITMAP = bytes.fromhex("0120")
HINTS = [bytes.fromhex("c00002010fa1"), bytes.fromhex("20010db8" + "00" * 11 + "010fa1")]
MANIFEST = bytes([1, 0x71, 0x1E, 0x20]) + bytes(range(32))
RAW = bytes([1, 0x55, 0x1E, 0x20]) + bytes(range(32, 64))
PROVIDERS = [  # seed, CID, kind, bitmap, hints, manifest, prefix
    (bytes(range(32)), MANIFEST, 1, BITMAP, HINTS[:1], b"", "04c00002"),
    (bytes([7]) * 32, RAW, 2, b"", [], b"", "0620010db80303"),
    (bytes([9]) * 32, RAW, 3, b"", HINTS, b"", "7f0000010fa1"),
    (bytes([5]) * 32, RAW, 4, b"", HINTS[:1], MANIFEST, "04c00002"),
    (bytes([3]) * 32, MANIFEST, 1, b"\xff" * 32, HINTS, b"", "fd" + "00" * 14 + "010fa1"),
]


def derived(purpose: str, data: bytes) -> bytes:
    """Return H[purpose](data)."""
    return blake3(data, derive_key_context=f"molia v1 {purpose}").digest()


def u64(number: int) -> bytes:
    """Return 8 bytes, big-endian."""
    return number.to_bytes(8, "big")


def varint(number: int) -> bytes:
    """Return protobuf's varint."""
    head = b""
    while number > 127:
        head, number = head + bytes([number & 127 | 128]), number >> 7
    return head + bytes([number])


def field(number: int, data: bytes) -> bytes:
    """Return protobuf's bytes field."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def record(seed: bytes, salt: bytes, unix_s: int, seq: int, value: bytes) -> dict[str, object]:
    """Return one record with every step to it."""
    public = curve.pack(curve.times(curve.expanded(seed)[0], curve.BASE))
    offset = int.from_bytes(derived("blind-offset", public)[:4], "big") % DAY
    period, expires = (unix_s + offset) // DAY, unix_s + DAY
    scalar, nonce_prefix = curve.blinded(seed, salt, period)
    blinded_key = curve.pack(curve.times(scalar, curve.BASE))
    key = derived("record-key", public + u64(period) + u64(seq) + salt)
    nonce = derived("record-nonce", key + value)[:8] + bytes(16)
    sealed = nonce[:8] + xchacha(value, b"", nonce, key)
    signed = b"molia/record/1\x01" + NETWORK + blinded_key + u64(seq) + u64(expires)
    signed += derived("record-value", sealed)
    signature = curve.sign(scalar, nonce_prefix, signed)
    encoded = b"\x08\x01" + field(2, blinded_key) + b"\x19" + seq.to_bytes(8, "little")
    encoded += b"\x20" + varint(expires) + field(5, sealed) + field(6, signature)
    return {
        "seed": seed.hex(), "network": NETWORK.hex(), "salt": salt.hex(), "unix_s": unix_s,
        "seq": seq, "value": value.hex(), "peer_key": public.hex(), "offset_s": offset,
        "period": period, "expires": expires,
        "factor": curve.blind_factor(public, salt, period).to_bytes(32, "little").hex(),
        "blinded_scalar": scalar.to_bytes(32, "little").hex(), "nonce_prefix": nonce_prefix.hex(),
        "blinded_key": blinded_key.hex(),
        "loc": derived("record-location", NETWORK + blinded_key).hex(),
        "value_key": key.hex(), "nonce": nonce.hex(), "sealed": sealed.hex(),
        "signed": signed.hex(), "signature": signature.hex(), "encoded": encoded.hex(),
        "row": (b"\x01" + u64(seq) + u64(expires) + encoded).hex(),
        "floor_row": (b"\x02" + u64(seq) + u64(expires + DAY + 3900)).hex(),
    }  # fmt: skip


def provider(
    seed: bytes, cid: bytes, kind: int, bitmap: bytes, hints: list[bytes], manifest: bytes,
    prefix_text: str,
) -> dict[str, object]:  # fmt: skip
    """Return one provider record with every step to it."""
    scalar, seed_prefix = curve.expanded(seed)
    public = curve.pack(curve.times(scalar, curve.BASE))
    prefix, issued, expires = bytes.fromhex(prefix_text), 1_800_000_000, 1_800_000_000 + DAY
    loc, key = derived("location", NETWORK + cid), derived("provider-key", NETWORK + cid)
    nonce = bytes(range(100, 124))
    plaintext = bytes([len(bitmap)]) + bitmap + bytes([len(hints)])
    plaintext += b"".join(bytes([len(hint)]) + hint for hint in hints) + manifest
    sealed = nonce + xchacha(plaintext, loc + u64(expires), nonce, key)
    body = bytes([1, kind]) + loc + public + u64(issued) + u64(expires)
    body += bytes([len(prefix)]) + prefix + sealed
    encoded = body + curve.sign(scalar, seed_prefix, b"molia/provider/1" + NETWORK + body)
    row = b"\x01" + u64(issued) + len(encoded).to_bytes(2, "big") + encoded
    return {
        "seed": seed.hex(), "network": NETWORK.hex(), "cid": cid.hex(), "kind": kind,
        "bitmap": bitmap.hex(), "hints": [hint.hex() for hint in hints],
        "manifest": manifest.hex(), "prefix": prefix_text, "issued": issued, "expires": expires,
        "nonce": nonce.hex(), "loc": loc.hex(), "provider_key": key.hex(),
        "plaintext": plaintext.hex(), "sealed": sealed.hex(), "encoded": encoded.hex(),
        "row": row.hex(),
    }  # fmt: skip


def main() -> None:
    """Write the files."""
    made = "tests/vectors/make_records.py, all fields from seed to value by hand"
    for name, rows in (
        ("records", [record(*case) for case in RECORDS]),
        ("providers", [provider(*case) for case in PROVIDERS]),
    ):
        text = json.dumps({"made": made, "vectors": rows}, indent=1)
        (HERE / f"{name}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
