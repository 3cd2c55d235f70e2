"""Audits of a shard's files: done by the worker that writes it, asked by whichever runs the job."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from molia.node.context import Context
from molia.node.shards import ShardWriter
from molia.store.keys import Kind
from molia.store.ops import DamagedFrame, NamedKey, SegmentAudit
from molia.store.shard import Shard

IndexPage = tuple[Sequence[NamedKey], bytes | None]


class Audits(Protocol):
    """What `Shard` can tell of its own files, for a caller that waits."""

    async def segments(self) -> list[int]:
        """See `Shard.audit_segments`."""
        ...

    async def segment(self, segment_id: int) -> SegmentAudit:
        """See `Shard.audit_segment`."""
        ...

    async def index(self, kind: Kind, after: bytes) -> IndexPage:
        """See `Shard.audit_index`."""
        ...

    async def reindex(self, keys: Sequence[NamedKey]) -> int:
        """See `Shard.reindex`."""
        ...


def audits_of(context: Context, shard_index: int) -> Audits:
    """Return the audits of a shard, here or where it is written."""
    writer = context.shards.writers[shard_index]
    if isinstance(writer, ShardWriter):
        return _Own(context, writer)
    return _Remote(context, shard_index)


class _Own:
    def __init__(self, context: Context, writer: ShardWriter) -> None:
        self._context, self._writer = context, writer

    async def segments(self) -> list[int]:
        return await self._context.offload.run(self._writer.shard.audit_segments)

    async def segment(self, segment_id: int) -> SegmentAudit:
        shard, now = self._writer.shard, self._context.now()
        return await self._context.offload.run(shard.audit_segment, segment_id, now=now)

    async def index(self, kind: Kind, after: bytes) -> IndexPage:
        return await self._context.offload.run(self._writer.shard.audit_index, kind, after=after)

    async def reindex(self, keys: Sequence[NamedKey]) -> int:
        return await self._writer.call(partial(self._reindex, keys=keys))

    def _reindex(self, shard: Shard, *, keys: Sequence[NamedKey]) -> int:
        return shard.reindex(keys, self._context.now())


class _Remote:
    def __init__(self, context: Context, shard_index: int) -> None:
        self._team, self._shard_index = context.team, shard_index

    async def _ask(self, what: str, *arguments: object) -> Any:  # noqa: ANN401 - by `what`
        owner = self._team.owner(self._shard_index)
        return await self._team.ask(owner, "audit", [self._shard_index, what, *arguments])

    async def segments(self) -> list[int]:
        return list(await self._ask("segments"))

    async def segment(self, segment_id: int) -> SegmentAudit:
        segment, frames, size, damaged, wrong = await self._ask("segment", segment_id)
        return SegmentAudit(
            segment, frames, size,
            tuple(DamagedFrame(*fields) for fields in damaged), tuple(_named(wrong)),
        )  # fmt: skip

    async def index(self, kind: Kind, after: bytes) -> IndexPage:
        wrong, after_next = await self._ask("index", int(kind), after)
        return _named(wrong), after_next

    async def reindex(self, keys: Sequence[NamedKey]) -> int:
        return int(await self._ask("reindex", _pack(keys)))


async def answer_audit(context: Context, arguments: Sequence[Any]) -> object:
    """Return as CBOR values what another worker asks of a shard of this one."""
    shard_index, what, *rest = arguments
    audits = audits_of(context, shard_index)
    match what:
        case "segments":
            return await audits.segments()
        case "segment":
            audit = await audits.segment(rest[0])
            damaged = [(f.kind, f.key, f.offset, f.reason) for f in audit.damaged]
            wrong = _pack(audit.index_wrong)
            return [audit.segment_id, audit.frames, audit.bytes, damaged, wrong]
        case "index":
            keys, after = await audits.index(Kind(rest[0]), rest[1])
            return [_pack(keys), after]
    assert what == "reindex", "workers of one node know the same words"
    return await audits.reindex(_named(rest[0]))


def _pack(keys: Sequence[NamedKey]) -> list[tuple[int, bytes]]:
    return [(int(kind), key) for kind, key in keys]


def _named(packed: Sequence[tuple[int, bytes]]) -> list[NamedKey]:
    return [(Kind(kind), key) for kind, key in packed]
