"""Ed25519 in plain arithmetic (RFC 8032, section 5.1): slow, obvious, and nobody's library."""

import hashlib

FIELD = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
CURVE_D = -121665 * pow(121666, -1, FIELD) % FIELD
ROOT = pow(2, (FIELD - 1) // 4, FIELD)
Point = tuple[int, int]
ZERO: Point = (0, 1)


def x_of(y: int, sign: int) -> int | None:
    """Return the x of a point with this y; None when there is none."""
    square = (y * y - 1) * pow(CURVE_D * y * y + 1, -1, FIELD) % FIELD
    x = pow(square, (FIELD + 3) // 8, FIELD)
    if (x * x - square) % FIELD:
        x = x * ROOT % FIELD
    if (x * x - square) % FIELD or (x == 0 and sign):
        return None
    return x if x & 1 == sign else FIELD - x


BASE_Y = 4 * pow(5, -1, FIELD) % FIELD
BASE: Point = (x_of(BASE_Y, 0) or 0, BASE_Y)


def add(left: Point, right: Point) -> Point:
    """Return the sum of two points, by the one complete formula."""
    (x1, y1), (x2, y2) = left, right
    part = CURVE_D * x1 * x2 * y1 * y2 % FIELD
    x = (x1 * y2 + x2 * y1) * pow(1 + part, -1, FIELD) % FIELD
    return x, (y1 * y2 + x1 * x2) * pow(1 - part, -1, FIELD) % FIELD


def times(number: int, point: Point) -> Point:
    """Return `number` times a point, by doubling and adding."""
    total = ZERO
    for bit in f"{number:b}":
        total = add(total, total)
        if bit == "1":
            total = add(total, point)
    return total


def pack(point: Point) -> bytes:
    """Return a point's 32 bytes."""
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def unpack(data: bytes) -> Point | None:
    """Return the point in 32 bytes; None when there is none."""
    number = int.from_bytes(data, "little")
    y, sign = number & ~(1 << 255), number >> 255
    x = x_of(y, sign) if y < FIELD else None
    return None if x is None else (x, y)


def is_prime_order(data: bytes) -> bool:
    """Tell whether 32 bytes are a point of the subgroup of prime order, and not its zero."""
    point = unpack(data)
    return point is not None and point != ZERO and times(ORDER, point) == ZERO


def number_of(*parts: bytes) -> int:
    """Return SHA-512 of the parts as a number."""
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def expanded(seed: bytes) -> tuple[int, bytes]:
    """Return the clamped scalar and the prefix of a seed."""
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little")
    return scalar & ((1 << 254) - 8) | 1 << 254, digest[32:]


def sign(scalar: int, prefix: bytes, message: bytes) -> bytes:
    """Return the signature by a scalar, whose nonce comes of `prefix`."""
    public = pack(times(scalar, BASE))
    nonce = number_of(prefix, message) % ORDER
    commitment = pack(times(nonce, BASE))
    response = (nonce + number_of(commitment, public, message) * scalar) % ORDER
    return commitment + response.to_bytes(32, "little")


def blind_factor(public: bytes, salt: bytes, period: int) -> int:
    """Return Molia's blinding factor; docs/reference/records.md."""
    text = b"molia/blind/1" + public + salt + period.to_bytes(8, "big")
    return int.from_bytes(hashlib.blake2b(text).digest(), "little") % ORDER


def blinded(seed: bytes, salt: bytes, period: int) -> tuple[int, bytes]:
    """Return the blinded scalar and the prefix of its nonces."""
    scalar, prefix = expanded(seed)
    public = pack(times(scalar, BASE))
    text = b"molia/blind-nonce/1" + prefix + public + salt + period.to_bytes(8, "big")
    factor = blind_factor(public, salt, period)
    return factor * scalar % ORDER, hashlib.blake2b(text).digest()[:32]
