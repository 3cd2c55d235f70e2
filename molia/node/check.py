"""Checks one blob to its end: drives the `VerifyBlob` core, stores what it rebuilds."""

from collections.abc import Awaitable, Callable, Sequence

from molia.base import limits
from molia.blobs import verify as cores
from molia.blobs.download import verified_leaves
from molia.blobs.geometry import StripeShape
from molia.blobs.manifest import Manifest
from molia.blobs.verify import VerifyBlob, VerifyReport
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.stored import fetcher, leaf_lists
from molia.store import keys
from molia.store.disk import Buffer
from molia.store.rows import ShareRow

OnStripe = Callable[[StripeShape, VerifyReport], Awaitable[None]]


async def check_blob(
    context: Context, bound: Bound, report: VerifyReport, on_stripe: OnStripe | None = None
) -> VerifyReport:
    """Check all of a blob that has a manifest, heal what can be healed, return what was found.

    report: where to go on. on_stripe is awaited after each stripe, with what was found so far. A
    blob that is deleted meanwhile is not read to its end.
    """
    manifest = Manifest.decode(bound.row.manifest)
    core = VerifyBlob(manifest, report)
    fetch, leaves = fetcher(context, bound), leaf_lists(context, bound, manifest)
    run = context.offload.run
    while True:
        for effect in core.take_effects():
            match effect:
                case cores.CheckLeaves(share=share):
                    sound = await run(_list_is_sound, context, bound, manifest, share)
                    core.on_leaves_checked(share, sound=sound)
                case cores.HashShare():
                    digests = await run(cores.hash_share, fetch, leaves, manifest, effect)
                    core.on_share_hashed(digests)
                case cores.RepairLeaves(share=share, leaves=data):
                    await store_rebuilt(context, bound, [(share, keys.LEAVES_STRIPE, data)])
                    context.leaves.forget(bound.row.object_id)
                    core.on_repaired()
                case cores.CheckStripe(stripe=shape):
                    check = await run(cores.check_stripe, fetch, leaves, shape)
                    if check.damaged and not await context.objects.is_bound(bound.row.object_id):
                        return core.report  # it was deleted meanwhile
                    context.metrics.blocks_damaged.inc(len(check.damaged))
                    core.on_stripe_checked(check)
                    if on_stripe is not None:
                        await on_stripe(shape, core.report)
                case cores.Repair(stripe_index=stripe, blocks=blocks):
                    rebuilt = [(share, stripe, block) for share, block in blocks.items()]
                    await store_rebuilt(context, bound, rebuilt)
                    core.on_repaired()
                case cores.Verified():
                    return effect.report


async def store_rebuilt(
    context: Context, bound: Bound, blocks: Sequence[tuple[int, int, Buffer]]
) -> None:
    """Store rebuilt (share, stripe, bytes) in place of damaged ones, unless the blob has gone."""
    object_id = bound.row.object_id
    async with context.objects.alone(object_id):
        if not await context.objects.is_bound(object_id):
            return
        await context.objects.store(object_id, blocks, overwrite=True)
    context.metrics.blocks_healed.inc(len(blocks))


async def note_report(context: Context, bound: Bound, report: VerifyReport) -> None:
    """Record how a check found the shares, for `health_of`.

    When everything was healed the shares are sound now; else all damage stays on record.
    """
    when = int(context.now().unix_s)
    left = (0,) * limits.TOTAL_SHARES if report.healthy else report.damaged
    rows = {share: ShareRow(when, count) for share, count in enumerate(left)}
    await context.home_writer(bound.cid).write(context.catalog.note_shares(bound, rows))


async def note_whole(context: Context, bound: Bound, *, sound: bool) -> None:
    """Record how a check found a small blob."""
    row = ShareRow(int(context.now().unix_s), int(not sound))
    change = context.catalog.note_shares(bound, {keys.WHOLE_SHARE: row})
    await context.home_writer(bound.cid).write(change)


def _list_is_sound(context: Context, bound: Bound, manifest: Manifest, share: int) -> bool:
    """Look at the stored list itself: the cached one may be sounder than the disk."""
    stored = context.leaves.read(bound.row.object_id, share, context.now())
    return verified_leaves(manifest, share, stored) is not None
