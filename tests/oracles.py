"""Slow, obvious answers that the fast code is compared with. Nothing here imports Molia.

Galois-field arithmetic, the erasure code, Merkle roots, block sizes and manifests are written from
their definitions: docs/reference/blob-format.md, RFC 9162 section 2.1.1, RFC 8949 section 4.2.
"""

import base64
from collections.abc import Mapping, Sequence
from functools import cache

from blake3 import blake3

K, N = 10, 14
POLYNOMIAL = 0x11D


# ---------------------------------------------------------------------------- the field GF(2^8)


def multiply(a: int, b: int) -> int:
    """Carry-less product of two polynomials over GF(2), reduced by x^8 + x^4 + x^3 + x^2 + 1."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= POLYNOMIAL << (bit - 8)
    return product


@cache
def inverse(a: int) -> int:
    """The element whose product with `a` is 1, by trying them all."""
    return next(b for b in range(1, 256) if multiply(a, b) == 1)


def power(base: int, exponent: int) -> int:
    """`base` times itself."""
    result = 1
    for _ in range(exponent):
        result = multiply(result, base)
    return result


Matrix = list[list[int]]


def dot(row: Sequence[int], column: Sequence[int]) -> int:
    """Sum of products."""
    total = 0
    for a, b in zip(row, column, strict=True):
        total ^= multiply(a, b)
    return total


def product(left: Matrix, right: Matrix) -> Matrix:
    """Matrix product."""
    columns = [list(column) for column in zip(*right, strict=True)]
    return [[dot(row, column) for column in columns] for row in left]


def inverted(matrix: Matrix) -> Matrix:
    """Gauss and Jordan's way, with the identity written beside the matrix."""
    size = len(matrix)
    rows = [list(row) + [int(i == j) for j in range(size)] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(r for r in range(i, size) if rows[r][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        scale = inverse(rows[i][i])
        rows[i] = [multiply(scale, value) for value in rows[i]]
        for r in range(size):
            if r != i and rows[r][i]:
                factor = rows[r][i]
                rows[r] = [a ^ multiply(factor, b) for a, b in zip(rows[r], rows[i], strict=True)]
    return [row[size:] for row in rows]


@cache
def generator(k: int = K, n: int = N) -> tuple[tuple[int, ...], ...]:
    """The n rows of the code: a Vandermonde matrix made systematic.

    Row 0 is the point 0, row r the point alpha^(r-1) with alpha = 2; the whole is multiplied by
    the inverse of its top square, so that the first k shares are the data.
    """
    points = [0] + [power(2, r) for r in range(n - 1)]
    rows = [[power(x, c) if c else 1 for c in range(k)] for x in points]
    return tuple(tuple(row) for row in product(rows, inverted(rows[:k])))


# ---------------------------------------------------------------------------- the erasure code


@cache
def _table(factor: int) -> bytes:
    return bytes(multiply(factor, value) for value in range(256))


def combine(row: Sequence[int], blocks: Sequence[bytes]) -> bytes:
    """The sum of the blocks, each times its factor, byte by byte."""
    total, size = 0, len(blocks[0])
    for factor, block in zip(row, blocks, strict=True):
        total ^= int.from_bytes(block.translate(_table(factor)), "big")
    return total.to_bytes(size, "big")


def parity(blocks: Sequence[bytes], *, n: int = N) -> list[bytes]:
    """Shares k..n-1 of k equally long blocks."""
    k = len(blocks)
    return [combine(row, blocks) for row in generator(k, n)[k:]]


def recover(blocks: Mapping[int, bytes], *, n: int = N) -> list[bytes]:
    """The data blocks from any k equally long shares, by inverting their rows."""
    shares = sorted(blocks)[:K]
    rows = [list(generator(K, n)[share]) for share in shares]
    return [combine(row, [blocks[share] for share in shares]) for row in inverted(rows)]


# ---------------------------------------------------------------------------- sizes


def smallest_block(size: int) -> int:
    """The first of 4, 8, 16... KiB of which ten hold `size`."""
    block = 4096
    while 10 * block < size:
        block *= 2
    return block


def block_size(size: int) -> int:
    """The nominal block size of a blob."""
    return smallest_block(size) if size <= 10 * 131_072 else 262_144


def stripes(size: int) -> list[tuple[int, int, int]]:
    """(offset, size, block size) of every stripe, by walking through the blob."""
    found, offset, full = [], 0, 10 * block_size(size)
    while offset < size:
        part = min(full, size - offset)
        last = offset + part == size
        found.append((offset, part, smallest_block(part) if last else block_size(size)))
        offset += part
    return found


# ---------------------------------------------------------------------------- trees and manifests


def node(left: bytes, right: bytes) -> bytes:
    """The parent of two nodes."""
    return blake3(left + right, derive_key_context="molia v1 merkle-node").digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """RFC 9162's recursion: split at the largest power of two below the count."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node(merkle_root(leaves[:split]), merkle_root(leaves[split:]))


def cbor(value: object) -> bytes:
    """Canonical CBOR of the types that a manifest has."""
    if value is None:
        return b"\xf6"
    if isinstance(value, int):
        return _head(0, value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(cbor(item) for item in value)
    assert isinstance(value, dict)
    pairs = sorted(value.items(), key=lambda pair: (len(pair[0]), pair[0].encode()))
    return _head(5, len(pairs)) + b"".join(cbor(k) + cbor(v) for k, v in pairs)


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for extra, width in enumerate((1, 2, 4, 8)):
        if number < 256**width:
            return bytes([major << 5 | 24 + extra]) + number.to_bytes(width, "big")
    raise AssertionError("no length needs nine bytes")


def blocks_of(data: bytes, stripe: tuple[int, int, int]) -> list[bytes]:
    """The 14 blocks of one stripe, unpadded."""
    offset, size, block = stripe
    body = data[offset : offset + size]
    pieces = [body[j * block : (j + 1) * block] for j in range(K)]
    return pieces + parity([piece.ljust(block, b"\0") for piece in pieces])


def manifest_map(data: bytes) -> dict[str, object]:
    """The manifest of a blob as a plain map."""
    leaves: list[list[bytes]] = [[] for _ in range(N)]
    for stripe in stripes(len(data)):
        for share, block in enumerate(blocks_of(data, stripe)):
            leaves[share].append(blake3(block).digest())
    roots = [merkle_root(column) for column in leaves]
    fields: dict[str, object] = {"k": K, "n": N, "v": 1, "enc": None, "code": "zfec"}
    fields |= {"size": len(data), "block": block_size(len(data)), "roots": roots}
    return fields | {"content": blake3(data).digest()}


def cid_text(codec: int, digest: bytes) -> str:
    """A CIDv1 of a BLAKE3-256 digest in base32 lower."""
    body = bytes([1, codec, 0x1E, 32]) + digest
    return "b" + base64.b32encode(body).decode().rstrip("=").lower()


def cid_of(data: bytes) -> str:
    """The CID under which Molia keeps `data`."""
    if len(data) < 1_000_000:
        return cid_text(0x55, blake3(data).digest())
    return cid_text(0x71, blake3(cbor(manifest_map(data))).digest())


def content(size: int) -> bytes:
    """The bytes that vectors are made of: BLAKE3's extended output of the empty input."""
    return blake3(b"").digest(length=size)


# ---------------------------------------------------------------------------- the XOR space


def nearest(ids: Sequence[int], target: int, count: int) -> list[int]:
    """The ids nearest to a target by XOR, by sorting all of them."""
    return sorted(ids, key=lambda one: one ^ target)[:count]


def in_region(ids: Sequence[int], center: int, radius: int) -> list[int]:
    """The ids whose XOR distance to a center is below a radius, the nearest first."""
    return [one for one in nearest(ids, center, len(ids)) if one ^ center < radius]
