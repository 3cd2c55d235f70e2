"""What the machine gives without Molia: the limits that figures are held against."""

import gc
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import zfec
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

BLOCK_SIZE = 256 * 1024
PIECE_SIZE = 4 * 1024 * 1024


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def write_and_sync(path: Path, size: int) -> float:
    """Return the seconds for `size` bytes written one after the other and synced once."""
    piece = os.urandom(PIECE_SIZE)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        started_s = time.perf_counter()
        left = size
        while left > 0:
            left -= os.write(handle, piece[: min(left, PIECE_SIZE)])
        os.fdatasync(handle)
        return time.perf_counter() - started_s
    finally:
        os.close(handle)
        path.unlink()


def encode_and_hash(size: int) -> float:
    """Return the seconds of one core for 10+4 coding of `size` bytes and BLAKE3 of them, once.

    The least that any store with this code must do; a put also hashes each of the 14 blocks.
    """
    encoder = zfec.Encoder(10, 14)
    stripe = os.urandom(10 * BLOCK_SIZE)
    view = memoryview(stripe)
    blocks = [stripe[j * BLOCK_SIZE : (j + 1) * BLOCK_SIZE] for j in range(10)]
    started_s = time.perf_counter()
    content = blake3()
    for start in range(0, size, len(stripe)):
        content.update(view[: min(len(stripe), size - start)])
        encoder.encode(blocks, (10, 11, 12, 13))
    content.digest()
    return time.perf_counter() - started_s


def raw_appends(path: Path, values: Sequence[bytes], batch: int) -> float:
    """Return the CPU seconds of a bare log: one write and one fdatasync per batch of values."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        started_s = time.process_time()
        for start in range(0, len(values), batch):
            os.writev(handle, values[start : start + batch])
            os.fdatasync(handle)
        return time.process_time() - started_s
    finally:
        os.close(handle)
        path.unlink()


def seal_us(size: int) -> float:
    """Return the CPU us of sealing one packet of `size` bytes with ChaCha20-Poly1305."""
    cipher, packet, count = ChaCha20Poly1305(bytes(32)), bytes(size), 20_000
    started_s = time.thread_time()
    for number in range(count):
        cipher.encrypt(number.to_bytes(12, "little"), packet, None)
    return (time.thread_time() - started_s) / count * 1e6


def bytes_of(make: Callable[[], object], *, count: int) -> float:
    """Return the bytes that one of `count` things made by `make` holds."""
    gc.collect()
    tracemalloc.start()
    kept = [make() for _ in range(count)]
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size / len(kept)


def start_up(*arguments: str, environment: dict[str, str] | None = None) -> float:
    """Return the seconds that a Python process takes from its start to its end."""
    return seconds(
        lambda: subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, check=False
        )
    )
