"""The two halves of a stream: what is written until it is acknowledged, what came until it is read.

Neither half knows packets. `SendHalf` hands out runs of bytes and hears which were acknowledged or
lost; `ReceiveHalf` takes pieces in any order and gives bytes in theirs.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from typing import Final, NamedTuple

from molia.base.errors import ChannelFault
from molia.base.limits import STREAM_WINDOW_MAX, STREAM_WINDOW_START
from molia.wire.flow import Window
from molia.wire.intervals import Intervals
from molia.wire.stream_frames import NUMBER_STOP, Fault

SMALL: Final = 256
"""Pieces below this size are copied together: an object each would weigh more than its bytes."""
TAIL_SIZE: Final = 64 * 1024


class Run(NamedTuple):
    """Bytes [start, stop) of a stream to be sent now."""

    start: int
    stop: int
    is_end: bool
    """The stream ends at `stop`."""


class SendHalf:
    """Bytes on their way out, from the oldest that is not acknowledged to the newest written."""

    __slots__ = ("_acked", "_end_lost", "_finished", "_lost", "_pieces", "_starts", "base", "end",
                 "end_acked", "end_sent", "limit", "next", "reset_code", "stream_id")  # fmt: skip

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.base = 0
        """Everything below was acknowledged."""
        self.next = 0
        """The first byte that was never sent."""
        self.end = 0
        """The first byte that was not yet written."""
        self.limit = STREAM_WINDOW_START
        """How far the peer lets us send."""
        self.reset_code: int | None = None
        self.end_sent = self.end_acked = False
        self._finished = self._end_lost = False
        self._starts: list[int] = []
        self._pieces: list[bytes | bytearray] = []
        self._acked = Intervals()
        self._lost = Intervals()

    @property
    def buffered(self) -> int:
        """Bytes that are held until they are acknowledged."""
        return self.end - self.base

    @property
    def takes_writes(self) -> bool:
        """Whether more may be written."""
        return not self._finished and self.reset_code is None

    def write(self, data: bytes) -> None:
        """Append bytes; large ones are kept as they are, small ones are copied together."""
        if len(data) >= TAIL_SIZE // 4:
            self._starts.append(self.end)
            self._pieces.append(data)
        else:
            tail = self._pieces[-1] if self._pieces else b""
            if isinstance(tail, bytearray) and len(tail) < TAIL_SIZE:
                tail += data
            else:
                self._starts.append(self.end)
                self._pieces.append(bytearray(data))
        self.end += len(data)

    def finish(self) -> None:
        """Say that nothing more will be written."""
        self._finished = True

    def reset(self, code: int) -> None:
        """Drop everything: what was sent is sent, the rest never will be."""
        self.reset_code = code
        self._drop_all()

    def _drop_all(self) -> None:
        self._starts, self._pieces = [], []
        self._acked, self._lost = Intervals(), Intervals()
        self.base = self.end = self.next
        self._end_lost = False

    def next_run(self, channel_credit: int) -> Run | None:
        """Return what to send first: what was lost, else new bytes within the credits, the end."""
        if self.reset_code is not None:
            return None
        lost = self._lost.first
        if lost is not None:
            return Run(*lost, is_end=lost[1] == self.end and self._ends_at_next)
        stop = min(self.end, self.limit, self.next + channel_credit)
        at_end = stop == self.end and self._finished
        if stop > self.next or (at_end and (not self.end_sent or self._end_lost)):
            return Run(self.next, stop, is_end=at_end)
        return None

    @property
    def _ends_at_next(self) -> bool:
        return self._finished and self.next == self.end

    def on_sent(self, start: int, stop: int, *, is_end: bool) -> int:
        """Note that [start, stop) was sent; return how many bytes of it are new."""
        new = max(0, stop - self.next)
        if start < self.next:
            self._lost.remove(start, stop)
        self.next = max(self.next, stop)
        if is_end:
            self.end_sent, self._end_lost = True, False
        return new

    def slices(self, start: int, stop: int, chunk: int) -> list[bytes | memoryview]:
        """Return [start, stop) in chunks, the last may be shorter; only seams are copied."""
        found: list[bytes | memoryview] = []
        while start < stop:
            place = bisect_right(self._starts, start) - 1
            piece_start = self._starts[place]
            view = memoryview(self._pieces[place])
            last = min(stop, piece_start + len(view))
            whole = last if last == stop else last - (last - start) % chunk
            low, high = start - piece_start, whole - piece_start
            short = (high - low) % chunk
            found += [view[at : at + chunk] for at in range(low, high - short, chunk)]
            if short:
                found.append(view[high - short : high])
            start = whole
            if whole < last:  # a chunk that reaches into the next piece
                seam_stop = min(start + chunk, stop)
                found.append(self._joined(place, start, seam_stop))
                start = seam_stop
        return found

    def _joined(self, place: int, start: int, stop: int) -> bytes:
        parts: list[bytes] = []
        while start < stop:
            low = start - self._starts[place]
            part = bytes(self._pieces[place][low : low + stop - start])
            parts.append(part)
            start, place = start + len(part), place + 1
        return b"".join(parts)

    def on_acked(self, start: int, stop: int, *, is_end: bool) -> int:
        """Let acknowledged bytes go; return how many bytes of room that made."""
        if is_end:
            self.end_acked, self._end_lost = True, False
        if self.reset_code is not None or stop <= self.base:
            return 0
        if self._lost:
            self._lost.remove(start, stop)
        if start > self.base or self._acked:
            self._acked.add(max(start, self.base), stop)
            first = self._acked.first
            if first is None or first[0] > self.base:
                return 0
            stop = first[1]
            self._acked.drop_lowest()
        freed, self.base = stop - self.base, stop
        gone = 0
        while gone < len(self._starts) and self._starts[gone] + len(self._pieces[gone]) <= stop:
            gone += 1
        if gone:
            del self._starts[:gone], self._pieces[:gone]
        return freed

    def on_lost(self, start: int, stop: int, *, is_end: bool) -> None:
        """Put bytes that were lost back in front, those that arrived by another packet left out."""
        if self.reset_code is not None:
            return
        self._end_lost |= is_end and not self.end_acked
        start = max(start, self.base)
        if start >= stop:
            return
        self._lost.add(start, stop)
        for first, last in list(self._acked.overlaps(start, stop)):
            self._lost.remove(first, last)

    @property
    def is_over(self) -> bool:
        """Whether the peer has everything, the end included."""
        return self.end_acked and self.base == self.end and self._finished


class ReceiveHalf:
    """Bytes on their way in, from the oldest unread one on."""

    __slots__ = ("_head_at", "_pieces", "_ready", "_starts", "final", "highest", "next", "read_to",
                 "reset_code", "stopped", "stream_id", "wanted", "window")  # fmt: skip

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.wanted = 1
        """How many bytes the owner waits for."""
        self.window = Window(STREAM_WINDOW_START, size_max=STREAM_WINDOW_MAX)
        self.next = 0
        """Everything below came."""
        self.read_to = 0
        """Everything below was read."""
        self.highest = 0
        """The end of the furthest piece: what counts against the channel's window."""
        self.final: int | None = None
        """The stream's size, once it is known."""
        self.reset_code: int | None = None
        self.stopped = False
        """Nobody reads any more: what comes is thrown away."""
        self._ready: deque[bytes | bytearray] = deque()
        self._head_at = 0
        self._starts: list[int] = []
        self._pieces: dict[int, bytes] = {}

    @property
    def readable(self) -> int:
        """Bytes that can be read now."""
        return self.next - self.read_to

    @property
    def waiting_count(self) -> int:
        """Pieces that wait for a gap before them."""
        return len(self._starts)

    @property
    def is_complete(self) -> bool:
        """Whether every byte came, or the peer took the stream back."""
        return self.reset_code is not None or self.next == self.final

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be read."""
        return self.is_complete and (self.stopped or self.read_to == self.next)

    def check(self, stop: int, *, is_end: bool) -> int:
        """Return how much further than before a piece up to `stop` reaches. Raises ChannelFault."""
        if stop > self.window.limit or stop > NUMBER_STOP:
            raise ChannelFault(Fault.FLOW_CONTROL)
        if self.final is not None and (stop > self.final or (is_end and stop != self.final)):
            raise ChannelFault(Fault.BAD_DATA)
        if is_end and stop < self.highest:
            raise ChannelFault(Fault.BAD_DATA)
        return max(0, stop - self.highest)

    def take_run(self, chunks: list[bytes], stop: int) -> None:
        """Take chunks that follow each other from `next` up to `stop`: the way of a full stream.

        The caller has checked the windows, that no chunk is `SMALL` or the end, and that no piece
        waits.
        """
        self._ready.extend(chunks)
        self.next = self.highest = stop

    def take(self, start: int, data: bytes, *, is_end: bool) -> None:
        """Take one piece from anywhere; `check` has let it through. Raises ChannelFault."""
        stop = start + len(data)
        self.highest = max(self.highest, stop)
        if is_end:
            self.final = stop
        if self.reset_code is not None:
            return
        if self.stopped:
            self.next = self.read_to = self.highest
            return
        if start < self.next:
            data, start = data[self.next - start :], self.next
        if not data:
            return
        if self._starts:
            self._keep(start, data)
            self._join_waiting()
        elif start == self.next:
            self._append(data)
        else:
            self._starts.append(start)
            self._pieces[start] = data

    def _keep(self, start: int, data: bytes) -> None:
        """Put a piece among those that wait, trimmed to what is new. Raises ChannelFault."""
        starts, pieces = self._starts, self._pieces
        low = bisect_left(starts, start)
        if low:
            before = starts[low - 1]
            shared = before + len(pieces[before]) - start
            if shared > 0:
                if pieces[before][start - before :][: len(data)] != data[:shared]:
                    raise ChannelFault(Fault.BAD_DATA)
                data, start = data[shared:], start + shared
                if not data:
                    return
        high, stop = low, start + len(data)
        while high < len(starts) and starts[high] < stop:
            at = starts[high]
            piece = pieces[at]
            if piece[: stop - at] != data[at - start : at - start + len(piece)]:
                raise ChannelFault(Fault.BAD_DATA)
            if at + len(piece) > stop:
                data = data[: at - start]
                break
            del pieces[at]
            high += 1
        if data:
            starts[low:high] = [start]
            pieces[start] = data
        else:
            del starts[low:high]

    def _join_waiting(self) -> None:
        """Move the pieces that now follow what is ready."""
        starts, joined = self._starts, 0
        while joined < len(starts) and starts[joined] <= self.next:
            start = starts[joined]
            piece = self._pieces.pop(start)
            assert start == self.next, "pieces are trimmed to what is new"
            self._append(piece)
            joined += 1
        del starts[:joined]

    def _append(self, data: bytes) -> None:
        ready = self._ready
        self.next += len(data)
        if len(data) >= SMALL:
            ready.append(data)
            return
        tail = ready[-1] if ready else b""
        if isinstance(tail, bytearray) and len(tail) < TAIL_SIZE:
            tail += data
        else:
            ready.append(bytearray(data))

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes in their order."""
        ready = self._ready
        if size >= self.readable:
            if self._head_at and ready:
                ready[0] = ready[0][self._head_at :]
                self._head_at = 0
            data = b"".join(ready)
            ready.clear()
        else:
            data = self._read_some(size)
        self.read_to += len(data)
        return data

    def _read_some(self, size: int) -> bytes:
        parts: list[bytes | bytearray] = []
        while size > 0:
            head = self._ready[0]
            left = len(head) - self._head_at
            if left > size:
                parts.append(head[self._head_at : self._head_at + size])
                self._head_at += size
                break
            parts.append(head[self._head_at :] if self._head_at else head)
            self._head_at = 0
            self._ready.popleft()
            size -= left
        return b"".join(parts)

    def on_reset(self, code: int, final: int) -> int:
        """Take the peer's reset; return how much further it counts. Raises ChannelFault."""
        if final > NUMBER_STOP or (self.final is not None and final != self.final):
            raise ChannelFault(Fault.BAD_DATA)
        if final < self.highest:
            raise ChannelFault(Fault.BAD_DATA)
        grown, self.highest = final - self.highest, final
        self.final, self.reset_code = final, code
        self.drop()
        return grown

    def drop(self) -> None:
        """Throw away what was not read."""
        self._ready.clear()
        self._starts, self._pieces = [], {}
        self._head_at = 0
        self.next = self.read_to = self.highest
