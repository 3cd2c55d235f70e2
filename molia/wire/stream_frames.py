"""The frames of streams, byte by byte: docs/reference/streams.md.

A payload that carries anything which must arrive begins with a STREAM or a NUMBER frame, and that
frame holds the packet's number. The common payload is one STREAM frame and nothing else: one
`unpack_from` and one slice.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from struct import Struct, unpack_from
from typing import Final, NamedTuple

from molia.base.errors import ChannelFault
from molia.base.limits import ACK_RANGES_MAX

STREAM: Final = 16
PADDING: Final = 17
NUMBER: Final = 18
SETTLED: Final = 19
MORE: Final = 20
ACK: Final = 22
RESET: Final = 24
STOP: Final = 26
MAX_DATA: Final = 28
MAX_STREAM_DATA: Final = 30
MAX_STREAMS: Final = 32
CLOSE: Final = 34

STREAM_HEAD: Final = Struct("<BHQIQ")
"""type, length, number, stream, offset ‖ END; then the bytes."""
NUMBER_HEAD: Final = Struct("<BHQ")
MORE_HEAD: Final = Struct("<BHIQ")
"""type, length, stream, offset ‖ END; then the bytes."""
ACK_HEAD: Final = Struct("<BHQII")
"""type, length, largest, delay in us, packets in the run that ends with the largest."""
RESET_FRAME: Final = Struct("<BHIIQ")
STOP_FRAME: Final = Struct("<BHII")
MAX_DATA_FRAME: Final = Struct("<BHQ")
MAX_STREAM_DATA_FRAME: Final = Struct("<BHIQ")
MAX_STREAMS_FRAME: Final = Struct("<BHI")
CLOSE_FRAME: Final = Struct("<BHI")

FRAME_HEAD_SIZE: Final = 3
STREAM_OVERHEAD: Final = STREAM_HEAD.size
MORE_OVERHEAD: Final = MORE_HEAD.size
ACK_LENGTH_MIN: Final = ACK_HEAD.size - FRAME_HEAD_SIZE
STREAM_LENGTH_LESS: Final = STREAM_HEAD.size - FRAME_HEAD_SIZE
"""What a STREAM frame's length counts beside its bytes."""
END: Final = 1 << 63
"""In an offset: the stream ends with this frame's bytes."""
U32_MAX: Final = 0xFFFF_FFFF
NUMBER_STOP: Final = 1 << 62
"""Packet numbers and offsets stay below this."""
FIXED_SIZES: Final = {
    frame: layout.size - FRAME_HEAD_SIZE
    for frame, layout in (
        (SETTLED, NUMBER_HEAD), (RESET, RESET_FRAME), (STOP, STOP_FRAME), (CLOSE, CLOSE_FRAME),
        (MAX_DATA, MAX_DATA_FRAME), (MAX_STREAM_DATA, MAX_STREAM_DATA_FRAME),
        (MAX_STREAMS, MAX_STREAMS_FRAME), (NUMBER, NUMBER_HEAD),
    )
}  # fmt: skip


class Fault(IntEnum):
    """Why a channel ended; the number travels in a CLOSE frame."""

    CLOSED = 0
    """The other side, or our own, wanted no more."""
    BAD_FRAME = 1
    FLOW_CONTROL = 2
    BAD_DATA = 3
    """Bytes that differ from those which came before at the same place, or a changed size."""
    BAD_ACK = 4
    """An acknowledgement of a packet that was never sent."""
    STREAM_LIMIT = 5
    BAD_STREAM = 6
    """A frame for a stream that only the other side may open."""
    GAPS = 7
    """Gaps without end."""
    TIMED_OUT = 8
    """Nothing was acknowledged for `give_up_s`. Never sent."""


class Ack(NamedTuple):
    """One acknowledgement."""

    runs: list[tuple[int, int]]
    """[first, stop) of consecutive numbers, highest first; at least one."""
    delay_s: float


def frames_of(payload: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield type, start and stop of the body of each frame. Raises ChannelFault."""
    at, size = 0, len(payload)
    while at < size:
        if size - at < FRAME_HEAD_SIZE:
            if any(payload[at:]):
                raise ChannelFault(Fault.BAD_FRAME)
            return  # one or two bytes of zero: no frame fits there
        start = at + FRAME_HEAD_SIZE
        at = start + payload[start - 2] + (payload[start - 1] << 8)
        if at > size or at - start != FIXED_SIZES.get(payload[start - 3], at - start):
            raise ChannelFault(Fault.BAD_FRAME)
        yield payload[start - 3], start, at


def is_whole(payload: bytes) -> bool:
    """Tell whether the payload's first frame fills it."""
    return len(payload) >= FRAME_HEAD_SIZE and payload[1] + (payload[2] << 8) == len(payload) - 3


def encode_ack(runs: Sequence[tuple[int, int]], *, delay_s: float) -> bytes:
    """Return an ACK frame of at most `ACK_RANGES_MAX` runs, highest first.

    What 32 bits cannot say, a gap or a run of four thousand million packets, ends the list.
    """
    first, stop = runs[0]
    numbers: list[int] = []
    if stop - first <= U32_MAX:
        for first_below, stop_below in runs[1:ACK_RANGES_MAX]:
            gap, run = first - stop_below, stop_below - first_below
            if gap > U32_MAX or run > U32_MAX:
                break
            numbers += (gap, run)
            first = first_below
    delay_us = min(int(delay_s * 1e6), U32_MAX)
    length = ACK_LENGTH_MIN + 4 * len(numbers)
    head = ACK_HEAD.pack(ACK, length, stop - 1, delay_us, min(stop - runs[0][0], U32_MAX))
    return head + Struct(f"<{len(numbers)}I").pack(*numbers) if numbers else head


def decode_ack(payload: bytes, start: int, stop: int) -> Ack:
    """Return the acknowledgement in [start, stop) of the payload. Raises ChannelFault."""
    if stop - start == ACK_LENGTH_MIN:
        _, _, largest, delay_us, run = ACK_HEAD.unpack_from(payload, start - FRAME_HEAD_SIZE)
        if 0 < run <= largest + 1:
            return Ack([(largest + 1 - run, largest + 1)], delay_us / 1e6)
    extra, odd = divmod(stop - start - ACK_LENGTH_MIN, 8)
    if odd or not 0 <= extra < ACK_RANGES_MAX:
        raise ChannelFault(Fault.BAD_FRAME)
    _, _, largest, delay_us, run = ACK_HEAD.unpack_from(payload, start - FRAME_HEAD_SIZE)
    upper = largest + 1
    runs = [(upper - run, upper)]
    if extra:
        numbers = unpack_from(f"<{2 * extra}I", payload, start + ACK_LENGTH_MIN)
        for gap, count in zip(numbers[::2], numbers[1::2], strict=True):
            upper = runs[-1][0] - gap
            if not gap or not count:
                raise ChannelFault(Fault.BAD_FRAME)
            runs.append((upper - count, upper))
    if runs[-1][0] < 0 or not run:
        raise ChannelFault(Fault.BAD_FRAME)
    return Ack(runs, delay_us / 1e6)


def padding(size: int) -> bytes:
    """Return `size` bytes that say nothing."""
    if size < FRAME_HEAD_SIZE:
        return bytes(size)
    return bytes((PADDING,)) + (size - FRAME_HEAD_SIZE).to_bytes(2, "little") + bytes(size - 3)
