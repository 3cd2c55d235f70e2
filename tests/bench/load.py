"""Clients that cost little beside the server: plain sockets, no copies that can be avoided."""

import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence

CHUNK_SIZE = 1 << 20


class Answer(RuntimeError):
    """The server answered something else than was expected."""


def body_chunks(size: int, seed: int) -> list[memoryview]:
    """Return `size` bytes in chunks, of which no two bodies with different seeds are equal.

    One random chunk is sent again and again behind a first one that holds the seed: the code under
    test looks at no chunk twice, and making random bytes would cost more than storing them.
    """
    noise = os.urandom(CHUNK_SIZE)
    first = seed.to_bytes(16) + noise[16:]
    chunks = [memoryview(first)] + [memoryview(noise)] * (-(-size // CHUNK_SIZE) - 1)
    chunks[-1] = chunks[-1][: size - CHUNK_SIZE * (len(chunks) - 1)]
    return chunks


def put(port: int, size: int, seed: int) -> tuple[str, float]:
    """Store a body of `size` bytes; return its CID and the seconds until it was acknowledged."""
    chunks = body_chunks(size, seed)
    started_s = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=600) as connection:
        connection.sendall(
            b"PUT /blob HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % size
        )
        for chunk in chunks:
            connection.sendall(chunk)
        answer = read_to_end(connection)
    took_s = time.perf_counter() - started_s
    if not answer.startswith(b"HTTP/1.1 201"):
        raise Answer(answer[:300].decode("latin-1"))
    return answer.rpartition(b"\r\n\r\n")[2].decode().strip(), took_s


def read_to_end(connection: socket.socket) -> bytes:
    """Return everything until the server closes."""
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def delete(port: int, cid: str) -> None:
    """Delete a blob."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(
            f"DELETE /blob/{cid} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = read_to_end(connection)
    if not answer.startswith(b"HTTP/1.1 204"):
        raise Answer(answer[:300].decode("latin-1"))


class Reader:
    """A connection that asks for things and throws the bodies away."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=600)
        self._buffer = bytearray(CHUNK_SIZE)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def get(self, path: str, *, start: int = -1, stop: int = -1) -> float:
        """Read the whole answer, or the bytes [start, stop); return the seconds it took."""
        wanted = f"Range: bytes={start}-{stop - 1}\r\n" if start >= 0 else ""
        started_s = time.perf_counter()
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{wanted}\r\n".encode())
        view, filled, head_stop = memoryview(self._buffer), 0, -1
        while head_stop < 0:
            count = self._socket.recv_into(view[filled:])
            if not count:
                raise Answer("the server closed the connection")
            filled += count
            head_stop = self._buffer.find(b"\r\n\r\n", 0, filled)
        head = bytes(self._buffer[:head_stop]).lower()
        if not head.startswith((b"http/1.1 200", b"http/1.1 206")):
            raise Answer(head[:1200].decode("latin-1"))
        size = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        left = size - (filled - head_stop - 4)
        while left > 0:
            count = self._socket.recv_into(view)
            if not count:
                raise Answer(f"the server closed the connection {left} bytes early")
            left -= count
        return time.perf_counter() - started_s


def is_whole(answer: bytes) -> bool:
    """Tell whether an answer to a put is all there. Raises Answer when it is a refusal."""
    head_stop = answer.find(b"\r\n\r\n")
    if head_stop < 0 and answer:
        return False
    if not answer.startswith(b"HTTP/1.1 20"):
        raise Answer(answer[:300].decode("latin-1") or "the server closed the connection")
    size = int(answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    return len(answer) == head_stop + 4 + size


def small_puts(port: int, bodies: Sequence[bytes], connections: int) -> float:
    """Store every body by its own request over kept connections; return requests per second."""
    waiting = deque(
        b"PUT /blob HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(b), b)
        for b in bodies
    )
    total = len(waiting)
    selector = selectors.DefaultSelector()
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    answers: dict[int, bytes] = {}
    started_s = time.perf_counter()
    done = 0
    try:
        for connection in sockets:
            selector.register(connection, selectors.EVENT_READ)
            if waiting:
                connection.sendall(waiting.popleft())
        while done < total:
            for key, _ in selector.select(60):
                ready = key.fileobj
                assert isinstance(ready, socket.socket), "only sockets are registered"
                answers[key.fd] = answer = answers.get(key.fd, b"") + ready.recv(4096)
                if not is_whole(answer):
                    continue
                del answers[key.fd]
                done += 1
                if waiting:
                    ready.sendall(waiting.popleft())
        return total / (time.perf_counter() - started_s)
    finally:
        selector.close()
        for connection in sockets:
            connection.close()
