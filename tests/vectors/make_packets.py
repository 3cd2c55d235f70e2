"""Write the golden vectors of packets: `python -m tests.vectors.make_packets`.

Made from the Noise specification (`tests/wire/noise_oracle.py`) and the page of packets, without
Molia's code. A change of an existing vector is a change of the format.
"""

import json
from hashlib import blake2s
from pathlib import Path
from struct import pack, unpack

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.wire.noise_oracle import HandshakeState, public_of

OUTPUT = Path(__file__).parent / "packets.json"
SECRET = bytes(range(32))
STAMP = bytes.fromhex("40000000655473 0a" + "11000000")
IDENTITY = bytes(range(100, 132))
ADDRESS = ("192.0.2.7", 4433)
ROOT, UNIX_S = b"root" * 8, 1_700_000_000


def network(name: bytes, secret: bytes) -> bytes:
    """Return a network id."""
    return blake3(name + b"\0" + secret, derive_key_context="molia v1 network").digest()


def mac(key: bytes, data: bytes) -> bytes:
    """Return keyed BLAKE2s-128."""
    return blake2s(data, key=key, digest_size=16).digest()


def rotate(value: int, bits: int) -> int:
    """Return a 32-bit number rotated left."""
    return (value << bits | value >> 32 - bits) & 0xFFFFFFFF


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """Return the subkey: the rounds of RFC 8439, section 2.1, on the state itself."""
    state = list(unpack("<16I", b"expand 32-byte k" + key + nonce))
    quarters = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]  # fmt: skip
    for _ in range(10):
        for a, b, c, d in quarters:
            for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[x] = (state[x] + state[y]) & 0xFFFFFFFF
                state[z] = rotate(state[z] ^ state[x], bits)
    return pack("<8I", *state[:4], *state[12:])


def field(kind: int, value: bytes) -> bytes:
    """Return a field of the payload."""
    return bytes((kind,)) + len(value).to_bytes(2, "little") + value


def one(profile: str) -> dict[str, object]:
    """Return a whole exchange: initiation, response, a cookie reply to it, a packet each way."""
    secret = SECRET if profile == "private" else b""
    net = network(b"mine" if secret else b"molia", secret)
    is_molia = profile != "wireguard"
    prologue = b"molia/1" + net if is_molia else b"WireGuard v1 zx2c4 Jason@zx2c4.com"
    psk = blake3(secret, derive_key_context="molia v1 psk").digest() if secret else bytes(32)
    salt = net if secret else b""
    statics, ephemerals = (b"\x01" * 32, b"\x02" * 32), (b"\x03" * 32, b"\x04" * 32)
    publics = [public_of(key) for key in statics]
    ends = [
        HandshakeState(initiator=first, prologue=prologue, s=statics[not first], psk=psk,
                       e=ephemerals[not first], rs=publics[1] if first else b"")
        for first in (True, False)
    ]  # fmt: skip
    hello = STAMP
    if is_molia:
        hello += field(2, IDENTITY) + field(4, (6).to_bytes(8, "little")) + field(1, b"proof")
        hello += field(9, b"our life") + field(3, b"find")
        hello = hello.ljust(1200 - 150, b"\0")
    trailer = pack("<BBI8s", 1, 14, 77, b"nonce678") if is_molia else b""
    initiation = b"\1\0\0\0" + b"\x10abc" + ends[0].write(hello) + trailer
    initiation += mac(blake2s(b"mac1----" + publics[1] + salt).digest(), initiation)
    mac1, initiation = initiation[-16:], initiation + bytes(16)
    ends[1].read(initiation[8 : len(initiation) - 32 - len(trailer)])
    effort = pack("<BI3s", 14, 77, b"tag")
    welcome = field(4, bytes(8)) + field(9, b"its life") + field(7, effort) + field(5, b"found")
    response = b"\2\0\0\0" + b"\x25def" + b"\x10abc" + ends[1].write(welcome if is_molia else b"")
    response += mac(blake2s(b"mac1----" + publics[0] + salt).digest(), response)
    response += bytes(16)
    ends[0].read(response[12:-32])
    slot = mac(ROOT, (UNIX_S // 120).to_bytes(8, "little"))
    cookie = mac(slot, f"{ADDRESS[0]} {ADDRESS[1]}".encode())
    words = cookie + (effort if is_molia else b"")
    key, nonce = blake2s(b"cookie--" + publics[1] + salt).digest(), b"n" * 24
    sealed = ChaCha20Poly1305(hchacha20(key, nonce[:16])).encrypt(
        bytes(4) + nonce[16:], words, mac1
    )
    forth, back = ends[0].split()
    data = [
        b"\4\0\0\0" + index + bytes(8) + ChaCha20Poly1305(k).encrypt(bytes(12), text, None)
        for index, k, text in ((b"\x25def", forth, b"\2\4\0ping"), (b"\x10abc", back, b""))
    ]
    with_cookie = initiation[:-16] + mac(cookie, initiation[:-16])
    return {
        "profile": profile, "network": net.hex(), "secret": secret.hex(),
        "statics": [key.hex() for key in statics],
        "ephemerals": [key.hex() for key in ephemerals],
        "timestamp": STAMP.hex(), "identity": IDENTITY.hex(), "initiation": initiation.hex(),
        "response": response.hex(), "cookie_reply": (b"\3\0\0\0\x10abc" + nonce + sealed).hex(),
        "initiation_with_cookie": with_cookie.hex(), "data": [packet.hex() for packet in data],
    }  # fmt: skip


def main() -> None:
    """Write the file."""
    made = "tests/vectors/make_packets.py: the Noise specification and docs/reference/packets.md"
    found = [one(profile) for profile in ("wireguard", "molia", "private")]
    OUTPUT.write_text(json.dumps({"made": made, "vectors": found}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
