"""What a blob would survive, as the network says: who names itself a holder, and what it has.

Each that names itself is asked by HAVE. Who does not answer may come back: its shares do not count
as sound. Source: docs/reference/gathering.md, "Health".
"""

import asyncio
from collections.abc import Collection
from typing import Final

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.base.errors import MoliaError, NoHolders, PeerRefused
from molia.base.ids import PeerKey
from molia.base.views import BlobHealth, BlobState, ShareHealth
from molia.blobs.placement import losses_survived
from molia.dht.providers import shares_in
from molia.node.asking_blobs import ask_have
from molia.node.fetching import Fetcher
from molia.node.whereabouts import Find

HAVE_S: Final = 3.0
ASKED_AT_ONCE: Final = 32
Shares = Collection[int]


async def network_health(fetcher: Fetcher, cid: Cid, ours: BlobHealth | None) -> BlobHealth:
    """Return the health of a blob over all who say to hold it. ours: what is here of it.

    Raises LookupTimedOut; NoHolders when nobody is known and nothing is here.
    """
    find = fetcher.finds.get(cid)
    await find.over(within_s=HAVE_S)
    if ours is None and not find.shares:
        raise fetcher.explain(NoHolders(cid, waited_s=0.0), find)
    asked = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(key: bytes) -> Shares:
        async with asked:
            return await _shares_at(fetcher, find, key)

    named = list(find.shares)
    answers = await asyncio.gather(*(ask(key) for key in named))
    return _merged(cid, dict(zip(named, answers, strict=True)), find, ours)


async def _shares_at(fetcher: Fetcher, find: Find, key: bytes) -> Shares:
    """Return the shares that a node has now; none when it does not answer."""
    try:
        (held,) = await ask_have(fetcher.network, find.holder(key), (find.cid,), timeout_s=HAVE_S)
    except PeerRefused:  # it answers, and does not know the question
        return find.shares[key]
    except MoliaError:
        return ()
    if held.whole and find.cid.codec is Codec.RAW:
        return (limits.WHOLE_SHARE,)
    return tuple(range(limits.TOTAL_SHARES)) if held.whole else tuple(shares_in(held.shares))


def _merged(
    cid: Cid, theirs: dict[bytes, Shares], find: Find, ours: BlobHealth | None
) -> BlobHealth:
    is_raw = cid.codec is Codec.RAW
    stored = (limits.WHOLE_SHARE,) if is_raw else tuple(range(limits.TOTAL_SHARES))
    needed = 1 if is_raw else limits.DATA_SHARES
    known = {} if ours is None else {share.index: share for share in ours.shares}
    shares = tuple(
        _share(index, share, theirs, find, known.get(index)) for index, share in enumerate(stored)
    )
    sound = sum(share.sound for share in shares)
    holdings = [list(held) for held in theirs.values()]
    holdings.append([stored[share.index] for share in known.values() if share.sound])
    return BlobHealth(
        cid=cid, state=_state(sound, needed, len(stored)),
        survives=max(0, losses_survived(filter(None, holdings), needed=needed)),
        spare_shares=max(0, sound - needed), estimate_loss_per_year=None, shares=shares,
    )  # fmt: skip


def _share(
    index: int, share: int, theirs: dict[bytes, Shares], find: Find, ours: ShareHealth | None
) -> ShareHealth:
    holders = () if ours is None else ours.holders
    named = [key for key, claimed in find.shares.items() if share in claimed]
    here = [key for key in named if share in theirs[key]]
    return ShareHealth(
        index=index,
        holders=(*holders, *(str(PeerKey(key)) for key in here)),
        sound=bool(here) or (ours is not None and ours.sound),
        damaged_blocks=0 if ours is None else ours.damaged_blocks,
        last_verified_unix_s=None if ours is None else ours.last_verified_unix_s,
    )


def _state(sound: int, needed: int, total: int) -> BlobState:
    if sound < needed:
        return BlobState.LOST
    if sound == needed and total > needed:
        return BlobState.CRITICAL
    return BlobState.HEALTHY if sound == total else BlobState.DEGRADED
