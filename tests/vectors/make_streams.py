"""Write the golden vectors of stream frames: `python -m tests.vectors.make_streams`.

They are put together from docs/reference/streams.md with `int.to_bytes` alone, without any of
Molia's code. A change of an existing vector is a change of the format.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
END = 1 << 63


def number(value: int, size: int) -> bytes:
    """Return a little-endian number."""
    return value.to_bytes(size, "little")


def frame(kind: int, *fields: bytes) -> str:
    """Return a whole frame as hex."""
    body = b"".join(fields)
    return (number(kind, 1) + number(len(body), 2) + body).hex()


def frame_vectors() -> list[dict[str, object]]:
    """One of each frame, with numbers whose bytes all differ."""
    n, s, o = number(0x0102030405060708, 8), number(0x11121314, 4), 0x2122232425262728
    code = number(0x31323334, 4)
    ack = (number(0x1000, 8), number(250, 4), number(3, 4))
    return [
        {"name": "STREAM", "hex": frame(16, n, s, number(o, 8), b"bytes")},
        {"name": "STREAM with END", "hex": frame(16, n, s, number(o | END, 8), b"bytes")},
        {"name": "NUMBER", "hex": frame(18, n)},
        {"name": "MORE", "hex": frame(20, s, number(o | END, 8), b"more")},
        {"name": "ACK", "hex": frame(22, *ack), "runs": [[0xFFE, 0x1001]], "delay_us": 250},
        {"name": "ACK of three runs",
         "hex": frame(22, *ack, *(number(x, 4) for x in (2, 5, 1, 9))),
         "runs": [[0xFFE, 0x1001], [0xFF7, 0xFFC], [0xFED, 0xFF6]], "delay_us": 250},
        {"name": "RESET", "hex": frame(24, s, code, number(o, 8))},
        {"name": "STOP", "hex": frame(26, s, code)},
        {"name": "MAX_DATA", "hex": frame(28, n)},
        {"name": "MAX_STREAM_DATA", "hex": frame(30, s, n)},
        {"name": "MAX_STREAMS", "hex": frame(32, s)},
        {"name": "CLOSE", "hex": frame(34, number(2, 4))},
        {"name": "SETTLED", "hex": frame(19, n)},
        {"name": "PADDING", "hex": frame(17, bytes(4))},
    ]  # fmt: skip


def conversation_vectors() -> list[dict[str, object]]:
    """The payloads of one request: stream 0, "ask", its end, and what comes back."""
    ask = frame(16, number(0, 8), number(0, 4), number(END, 8), b"ask")
    reply = frame(16, number(0, 8), number(0, 4), number(END, 8), b"told")
    ack = frame(22, number(0, 8), number(0, 4), number(1, 4))
    late = frame(22, number(0, 8), number(25_000, 4), number(1, 4))
    return [{"request": ask, "reply": reply + ack, "ack after 25 ms": late}]


def main() -> None:
    """Write the file."""
    body = {
        "made": "tests/vectors/make_streams.py: docs/reference/streams.md by hand",
        "vectors": {"frames": frame_vectors(), "conversations": conversation_vectors()},
    }
    (HERE / "streams.json").write_text(json.dumps(body, indent=1) + "\n")
    sys.stdout.write("wrote streams.json\n")


if __name__ == "__main__":
    main()
