"""Messages over a stream: a request, its reply, and the bytes that follow either.

Source: docs/reference/requests.md, "Large requests"; docs/reference/blob-messages.md, "Streams".
"""

from collections.abc import Callable
from typing import Final

from molia.base.errors import BadAnswer, Busy, ConnectionLost, PeerLacks, PeerRefused
from molia.base.limits import BUSY_WAIT_MS_MAX, MESSAGE_SIZE_MAX, STREAM_READ_BYTES
from molia.node.peer_streams import STREAM_HEAD, PeerStream
from molia.wire import messages
from molia.wire.blob_messages import STREAMED
from molia.wire.heads import encode_head
from molia.wire.messages import Message, Number
from molia.wire.requests import REPLY

_SIZE_SIZE: Final = 2
OnPart = Callable[[int], None]


async def read_some(stream: PeerStream, size: int, on_part: OnPart | None = None) -> bytes:
    """Return the next `size` bytes, fewer only where the stream ends. Raises ConnectionLost.

    on_part: told the size of each part that comes, but not of the last.
    """
    most = min(size, STREAM_READ_BYTES)
    data = await stream.receive(most, wanted=most) if size else b""
    if len(data) == size or not data:
        return data
    parts, left = [data], size - len(data)
    if on_part is not None:
        on_part(len(data))
    while left:
        most = min(left, STREAM_READ_BYTES)
        data = await stream.receive(most, wanted=most)
        if not data:
            break
        parts.append(data)
        left -= len(data)
        if left and on_part is not None:
            on_part(len(data))
    return b"".join(parts)


async def read_all(stream: PeerStream, size: int) -> bytes:
    """Return the next `size` bytes. Raises ConnectionLost, also where the stream ends early."""
    data = await read_some(stream, size)
    if len(data) < size:
        raise ConnectionLost("a peer ended a stream early")
    return data


async def read_request(stream: PeerStream, number: Number) -> Message | None:
    """Return the request on a stream, without what follows it; None for one that is none."""
    return messages.decode(number, await _body(stream, number))


async def send_request(stream: PeerStream, message: Message) -> None:
    """Send a request on a stream that was opened for its number; bytes may follow a streamed."""
    await stream.send(_with_size(message))


async def send_reply(stream: PeerStream, message: Message) -> None:
    """Begin the reply; bytes may follow a streamed one."""
    head = STREAM_HEAD.pack(REPLY, stream.request_id, message.number)
    await stream.send(head + _with_size(message))


async def read_reply(stream: PeerStream) -> Message:
    """Return the reply on a stream, without the bytes that follow it.

    Raises PeerLacks, PeerRefused, Busy, BadAnswer, ConnectionLost.
    """
    kind, request_id, number = STREAM_HEAD.unpack(await read_all(stream, STREAM_HEAD.size))
    if kind != REPLY or request_id != stream.request_id:
        raise BadAnswer("a peer's reply on a stream is none")
    reply = messages.decode(number, await _body(stream, number))
    match reply:
        case None:
            raise BadAnswer("a peer gave an answer that is none")
        case messages.Error(code=messages.ErrorCode.NOT_HERE):
            raise PeerLacks("a peer does not have it")
        case messages.Error(code=code):
            raise PeerRefused(f"a peer refused: error {code}")
        case messages.Busy(retry_after_ms=wait_ms):
            wait_s = -(-min(wait_ms, BUSY_WAIT_MS_MAX) // 1000)
            raise Busy("a peer is busy", retry_after_s=wait_s)
    return reply


async def _body(stream: PeerStream, number: int) -> bytes:
    if number not in STREAMED:
        return await stream.receive_all(MESSAGE_SIZE_MAX)
    size = int.from_bytes(await read_all(stream, _SIZE_SIZE), "little")
    if size > MESSAGE_SIZE_MAX:
        raise BadAnswer("a head on a stream is longer than any message")
    return await read_all(stream, size)


def _with_size(message: Message) -> bytes:
    body = messages.encode(message)
    return encode_head(body) if message.number in STREAMED else body
