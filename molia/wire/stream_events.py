"""What a channel tells its owner."""

from dataclasses import dataclass

from molia.wire.stream_frames import Fault


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Readable:
    """Bytes are there: `read` until it gives none."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Writable:
    """A write was cut short; now there is room again."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The peer wrote its last byte and all of them came; what was not read can still be."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """The peer acknowledged everything that we wrote, the end included."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class WasReset:
    """The peer took the stream back: what it sent and was not read is gone."""

    stream_id: int
    code: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """The peer reads no more: our half was reset with its code."""

    stream_id: int
    code: int


@dataclass(frozen=True, slots=True)
class Broken:
    """The channel is over, with all its streams."""

    reason: Fault


Event = StreamOpened | Readable | Writable | Finished | Delivered | WasReset | Stopped | Broken
