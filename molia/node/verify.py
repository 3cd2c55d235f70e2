"""The verify job: the logs frame by frame, then every row, then every block of every blob.

Each phase goes on from the job's cursor after a crash. What can be healed is healed on the way:
index entries from the log, rows from their second copy, blocks and leaf lists from other shares.
"""

import asyncio
from typing import Any, Final

import structlog

from molia.base.cid import Cid
from molia.base.errors import BlobNotFound, Damaged
from molia.blobs.geometry import StripeShape
from molia.blobs.verify import VerifyReport
from molia.node.audits import audits_of
from molia.node.catalog import Bound
from molia.node.check import check_blob, note_report, note_whole
from molia.node.jobs import JobRun
from molia.node.rows import check_rows
from molia.node.stored import read_whole
from molia.store.keys import DATA_KINDS
from molia.store.ops import NamedKey, SegmentAudit

log = structlog.get_logger(__name__)

COUNTS: Final = (
    "segments", "log_bytes", "log_damaged", "index_mended", "rows", "blob_count", "blobs",
    "blocks", "bytes", "damaged", "healed", "unhealed",
)  # fmt: skip
ITEMS_MAX: Final = 200
"""Findings told one by one; the counts tell of the rest."""
_PAGE: Final = 100


async def run_verify(run: JobRun) -> None:
    """Verify the blobs in `arguments["cids"]`, or everything when there are none."""
    for name in COUNTS:
        run.progress.setdefault(name, 0)
    cids = run.arguments.get("cids") or []
    if cids:
        await _check_named(run, [Cid.parse(text) for text in cids])
        return
    run.progress["blob_count"] = run.context.blob_count
    phase = run.cursor.get("phase", "log")
    if phase == "log":
        await _check_logs(run)
        await run.checkpoint({"phase": "rows", "shard": 0})
        phase = "rows"
    if phase == "rows":
        await _check_rows(run)
        await run.checkpoint({"phase": "blobs", "after": ""})
    await _check_all(run)


def found(run: JobRun, *, cid: str, detail: str, count: int, healed: int) -> None:
    """Count a finding and tell watchers."""
    progress = run.progress
    progress["damaged"] += count
    progress["healed"] += healed
    progress["unhealed"] += count - healed
    progress["items"] = progress.get("items", 0) + 1
    if progress["items"] <= ITEMS_MAX:
        run.item(cid=cid, detail=detail, healed=healed == count)
    log.warning("damage_found", blob=cid[-8:], detail=detail, healed=healed == count)


# ---------------------------------------------------------------------------- the logs


async def _check_logs(run: JobRun) -> None:
    first, done = run.cursor.get("shard", 0), run.cursor.get("segment", -1)
    for index in range(first, run.context.shards.count):
        audits = audits_of(run.context, index)
        for segment in await audits.segments():
            if index == first and segment <= done:
                continue
            audit = await audits.segment(segment)
            run.progress["segments"] += 1
            run.progress["log_bytes"] += audit.bytes
            await _mend_index(run, index, audit.index_wrong)
            _note_damaged_frames(run, index, audit)
            await run.checkpoint({"phase": "log", "shard": index, "segment": segment})
        await _check_index(run, index)


async def _check_index(run: JobRun, shard_index: int) -> None:
    """Check that each index entry leads to a frame of its key: the logs cannot tell of those."""
    audits = audits_of(run.context, shard_index)
    for kind in DATA_KINDS:
        after: bytes | None = b""
        while after is not None:
            wrong, after = await audits.index(kind, after)
            await _mend_index(run, shard_index, tuple(wrong))


async def _mend_index(run: JobRun, shard_index: int, wrong: tuple[NamedKey, ...]) -> None:
    if not wrong:
        return
    mended = await audits_of(run.context, shard_index).reindex(wrong)
    if mended:  # else they only changed while they were looked at
        run.progress["index_mended"] += mended
        detail = f"{mended} index entries of shard {shard_index} were wrong"
        found(run, cid="", detail=detail, count=mended, healed=mended)


def _note_damaged_frames(run: JobRun, shard_index: int, audit: SegmentAudit) -> None:
    """Damaged frames are counted here and healed in the later phases, by key.

    A frame whose key cannot be read any more is told of now: nothing else will name it.
    """
    run.progress["log_damaged"] += len(audit.damaged)
    for frame in audit.damaged:
        log.warning(
            "frame_damaged",
            shard_index=shard_index,
            segment=f"{audit.segment_id:016x}",
            offset=frame.offset,
            reason=frame.reason,
        )


# ---------------------------------------------------------------------------- the rows


async def _check_rows(run: JobRun) -> None:
    for index in range(run.cursor.get("shard", 0), run.context.shards.count):
        async for finding in check_rows(run.context, index):
            run.progress["rows"] += finding.checked
            for damage in finding.damaged:
                found(run, cid=damage.cid, detail=damage.detail, count=1, healed=int(damage.healed))
        await run.checkpoint({"phase": "rows", "shard": index + 1})


# ---------------------------------------------------------------------------- the blobs


async def _check_named(run: JobRun, cids: list[Cid]) -> None:
    run.progress["blob_count"] = len(cids)
    first = run.cursor.get("next", 0)
    for position in range(first, len(cids)):
        cid = cids[position]
        try:
            bound = await run.context.offload.run(run.context.catalog.find, cid, run.context.now())
        except (BlobNotFound, Damaged) as error:
            found(run, cid=str(cid), detail=str(error), count=1, healed=0)
        else:
            if await run.context.mend(bound):
                found(run, cid=str(cid), detail="a BIND row was unreadable", count=1, healed=1)
            sound = await _check_one(run, bound, {"next": position})
            if sound is not None:
                await note_whole(run.context, bound, sound=sound)
        await run.checkpoint({"next": position + 1})


async def _check_all(run: JobRun) -> None:
    """Walk the listing from the newest blob to the oldest; newer ones than the start are sound."""
    catalog, offload = run.context.catalog, run.context.offload
    after = bytes.fromhex(run.cursor.get("after", ""))
    while True:
        page = await offload.run(catalog.listing, after, _PAGE, run.context.now())
        if not page:
            return
        small: list[tuple[Bound, bool]] = []
        for key, bound in page:
            if not bound.is_raw:  # while it is read the job may be cut off
                await _note_small(run, small)
                small = []
            cursor = {"phase": "blobs", "after": after.hex()}
            sound = await _check_one(run, bound, cursor)
            if sound is not None:
                small.append((bound, sound))
            after = key
        await _note_small(run, small)
        await run.checkpoint({"phase": "blobs", "after": after.hex()})


async def _note_small(run: JobRun, small: list[tuple[Bound, bool]]) -> None:
    """Record how small blobs were found: all at once, so that the notes share a sync or two."""
    await asyncio.gather(*(note_whole(run.context, blob, sound=ok) for blob, ok in small))


async def _check_one(run: JobRun, bound: Bound, cursor: dict[str, Any]) -> bool | None:
    """Check a blob. Returns whether a small one is sound, for the caller to note."""
    if run.cursor.get("cid") != str(bound.cid):  # else it was counted before it was cut off
        run.progress["blobs"] += 1
    if bound.is_raw:
        return await _check_whole(run, bound)
    await _check_stripes(run, bound, cursor)
    return None


async def _check_whole(run: JobRun, bound: Bound) -> bool | None:
    context = run.context
    sound = await context.offload.run(read_whole, context, bound) is not None
    if not sound and await _has_gone(run, bound):
        return None
    run.progress["blocks"] += 1
    run.progress["bytes"] += bound.row.size
    if not sound:
        context.metrics.blocks_damaged.inc()
        detail = "the only copy is damaged; put the file again to replace it"
        found(run, cid=str(bound.cid), detail=detail, count=1, healed=0)
    return sound


async def _check_stripes(run: JobRun, bound: Bound, cursor: dict[str, Any]) -> None:
    context, progress = run.context, run.progress
    before, last_bytes = VerifyReport(), progress["bytes"]
    if run.cursor.get("cid") == str(bound.cid):
        before = VerifyReport.from_cursor(run.cursor.get("report") or {})
        last_bytes = run.cursor.get("bytes", last_bytes)

    async def on_stripe(shape: StripeShape, report: VerifyReport) -> None:
        progress["blocks"] += len(shape.stored_shares)
        progress["bytes"] = last_bytes + shape.offset + shape.size
        place = {"cid": str(bound.cid), "report": report.to_cursor(), "bytes": last_bytes}
        await run.checkpoint({**cursor, **place})

    report = await check_blob(context, bound, before, on_stripe)
    progress["bytes"] = last_bytes + bound.row.size
    if not report.healthy and await _has_gone(run, bound):
        return
    await note_report(context, bound, report)
    count = sum(report.damaged) + report.damaged_lists
    if count:
        healed = report.rebuilt_blocks + report.rebuilt_lists
        detail = f"{sum(report.damaged)} blocks and {report.damaged_lists} leaf lists damaged"
        if report.lost_stripes:
            detail += f", {report.lost_stripes} stripes lost"
        found(run, cid=str(bound.cid), detail=detail, count=count, healed=healed)


async def _has_gone(run: JobRun, bound: Bound) -> bool:
    """Tell whether the blob was deleted while it was being read: then nothing is wrong."""
    now = run.context.now()
    current = await run.context.offload.run(run.context.catalog.bound, bound.cid, now)
    return current is None or current.row.object_id != bound.row.object_id
