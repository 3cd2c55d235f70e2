"""What a blob would survive, from what is known of its shares."""

from typing import Final

from molia.base import limits
from molia.base.views import BlobHealth, BlobState, ShareHealth
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.store.keys import WHOLE_SHARE
from molia.store.rows import ShareRow

_UNKNOWN: Final = ShareRow(verified_unix_s=0, damaged_blocks=0)


def health_of(context: Context, bound: Bound) -> BlobHealth:
    """Return the health of a blob, as the last reads and the last verify found it.

    One node holds all shares: none may vanish. What spare shares buy here is that damage on the
    disk can be healed. A chance of loss is not modelled for a lone node: it is the disk's.
    """
    rows = context.catalog.share_rows(bound, context.now())
    stored = (WHOLE_SHARE,) if bound.is_raw else range(limits.TOTAL_SHARES)
    shares = tuple(
        _share_health(context, index, rows.get(share, _UNKNOWN))
        for index, share in enumerate(stored)
    )
    damaged = sum(not share.sound for share in shares)
    spare = 0 if bound.is_raw else limits.TOTAL_SHARES - limits.DATA_SHARES
    return BlobHealth(
        cid=bound.cid,
        state=_state(damaged, spare),
        survives=0,
        spare_shares=max(0, spare - damaged),
        estimate_loss_per_year=None,
        shares=shares,
    )


def _share_health(context: Context, index: int, row: ShareRow) -> ShareHealth:
    return ShareHealth(
        index=index,
        holders=(str(context.peer),),
        sound=row.damaged_blocks == 0,
        damaged_blocks=row.damaged_blocks,
        last_verified_unix_s=row.verified_unix_s or None,
    )


def _state(damaged: int, spare: int) -> BlobState:
    if damaged == 0:
        return BlobState.HEALTHY
    if damaged > spare:
        return BlobState.LOST
    return BlobState.CRITICAL if damaged == spare else BlobState.DEGRADED
