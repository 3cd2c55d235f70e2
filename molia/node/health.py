"""What a blob would survive, from what is known of its shares here and on other nodes."""

from molia.base import limits
from molia.base.ids import PeerKey
from molia.base.views import BlobHealth, BlobState, ShareHealth
from molia.blobs.placement import losses_survived
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.keeping import Others
from molia.node.placing import holdings_of, needed_of, shares_of
from molia.store.keys import WHOLE_SHARE
from molia.store.rows import ShareRow

_UNKNOWN = ShareRow(verified_unix_s=0, damaged_blocks=0)
Holdings = dict[bytes, tuple[int, ...]]


def health_of(context: Context, bound: Bound, known: Others | None = None) -> BlobHealth:
    """Return the health of a blob, as the last reads and the last verify found it.

    What lies on other nodes counts as they acknowledged it, but for what is known to be gone since.
    known: what the watch over it found. A chance of loss is not modelled.
    """
    now = context.now()
    rows = context.catalog.share_rows(bound, now)
    placed = context.catalog.placed(bound.cid, now)
    others = {} if placed is None or not placed.lease else holdings_of(placed)
    if known is not None and placed is not None:
        others = known.now(others)
    sound = {} if known is None else known.sound_unix_s
    stored = (WHOLE_SHARE,) if bound.is_raw else (*range(limits.TOTAL_SHARES), *_added(others))
    shares = tuple(
        _share_health(
            context,
            0 if bound.is_raw else share,
            rows.get(share, _UNKNOWN),
            _holders_of(others, share),
            sound.get(share, 0),
            is_here=share == WHOLE_SHARE or share < limits.TOTAL_SHARES,
        )
        for share in stored
    )
    lost = sum(not share.sound and len(share.holders) == 1 for share in shares)
    spare = 0 if bound.is_raw else len(stored) - limits.DATA_SHARES
    survives = _survives(bound, rows, others)
    state = _state(lost, spare)
    if state is BlobState.HEALTHY and others and survives < context.config.durability.floor:
        state = BlobState.DEGRADED
    return BlobHealth(
        cid=bound.cid,
        state=state,
        survives=survives,
        spare_shares=max(0, spare - lost),
        estimate_loss_per_year=None,
        shares=shares,
    )


def _added(others: Holdings) -> list[int]:
    """Return the shares from 14 on that others have."""
    added = range(limits.TOTAL_SHARES, limits.TOTAL_SHARES + limits.ADDED_SHARES_MAX)
    every = {share for shares in others.values() for share in shares}
    return [share for share in added if share in every]


def _holders_of(others: Holdings, share: int) -> tuple[bytes, ...]:
    return tuple(key for key, shares in others.items() if share in shares)


def _survives(bound: Bound, rows: dict[int, ShareRow], others: Holdings) -> int:
    """Return how many nodes may vanish, this one among them."""
    wanted = (*shares_of(bound), *([] if bound.is_raw else _added(others)))
    ours = [share for share in shares_of(bound) if not rows.get(share, _UNKNOWN).damaged_blocks]
    theirs = [[share for share in held if share in wanted] for held in others.values()]
    return max(0, losses_survived([ours, *theirs], needed=needed_of(bound)))


def _share_health(
    context: Context,
    index: int,
    row: ShareRow,
    others: tuple[bytes, ...],
    sound_unix_s: int,
    *,
    is_here: bool,
) -> ShareHealth:
    return ShareHealth(
        index=index,
        holders=(*([str(context.peer)] if is_here else []), *(str(PeerKey(key)) for key in others)),
        sound=row.damaged_blocks == 0,
        damaged_blocks=row.damaged_blocks,
        last_verified_unix_s=max(row.verified_unix_s, sound_unix_s) or None,
    )


def _state(lost: int, spare: int) -> BlobState:
    if lost == 0:
        return BlobState.HEALTHY
    if lost > spare:
        return BlobState.LOST
    return BlobState.CRITICAL if lost == spare else BlobState.DEGRADED
