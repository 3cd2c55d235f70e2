"""What a blob would survive, as the network says: who names itself a holder, and what it has.

Each that names itself is asked by HAVE. Who does not answer may come back, but does not count now.
Source: docs/reference/gathering.md, "Health".
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from molia.base import limits
from molia.base.cid import Codec
from molia.base.errors import MoliaError, NoHolders
from molia.base.ids import PeerKey
from molia.base.views import BlobHealth, BlobInfo, BlobState, ShareHealth
from molia.blobs.geometry import Geometry
from molia.blobs.placement import losses_survived
from molia.dht.providers import shares_in
from molia.node.asking_blobs import ask_have
from molia.node.fetching import Fetcher
from molia.node.whereabouts import Find

HAVE_S: Final = 3.0
ASKED_AT_ONCE: Final = 32
Holdings = Mapping[bytes, Collection[int]]
"""By node, the shares that it has now."""


async def network_health(fetcher: Fetcher, info: BlobInfo, own: Collection[int]) -> BlobHealth:
    """Return the health of a blob over all who say to hold it. own: the shares that are here.

    Raises LookupTimedOut, or NoHolders when nobody is known and nothing is here.
    """
    cid = info.cid
    find = fetcher.finds.get(cid, anew=True)  # a repair may have moved all of it a moment ago
    await find.over(within_s=fetcher.patience.lookup_s)
    if not own and not find.shares:
        raise fetcher.explain(NoHolders(cid, waited_s=0.0), find)
    asked = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(key: bytes) -> Collection[int]:
        async with asked:
            return await _shares_at(fetcher, find, key)

    named = list(find.shares)
    answers = await asyncio.gather(*(ask(key) for key in named))
    return _health(info, {fetcher.context.peer.key: own, **dict(zip(named, answers, strict=True))})


async def _shares_at(fetcher: Fetcher, find: Find, key: bytes) -> Collection[int]:
    """Return the shares that a node has now; none when it does not answer."""
    try:
        (held,) = await ask_have(fetcher.network, find.holder(key), (find.cid,), timeout_s=HAVE_S)
    except MoliaError:
        return ()
    if find.cid.codec is Codec.RAW:
        return (limits.WHOLE_SHARE,) if held.whole else ()
    return range(limits.TOTAL_SHARES) if held.whole else shares_in(held.shares)


def _health(info: BlobInfo, holdings: Holdings) -> BlobHealth:
    is_raw = info.cid.codec is Codec.RAW
    every = (limits.WHOLE_SHARE,) if is_raw else tuple(range(_stop(holdings.values())))
    # a share that has only empty blocks lies nowhere, and is known: it counts as there
    listed = every if is_raw else Geometry.of(info.size).stored_shares
    stored = (*listed, *every[limits.TOTAL_SHARES :])
    needed = 1 if is_raw else len(listed) - (limits.TOTAL_SHARES - limits.DATA_SHARES)
    held = [[share for share in shares if share in stored] for shares in holdings.values()]
    found = {share for shares in held for share in shares}
    return BlobHealth(
        cid=info.cid, state=_state(len(found), needed, len(stored)),
        survives=max(0, losses_survived(filter(None, held), needed=needed)),
        spare_shares=max(0, len(found) - needed), estimate_loss_per_year=None,
        shares=tuple(
            _share(index, share, holdings, is_sound=share in found or share not in stored)
            for index, share in enumerate(every)
        ),
    )  # fmt: skip


def _stop(held: Iterable[Collection[int]]) -> int:
    """Return up to which number there are shares: 14, or more where some were added."""
    added = [share for shares in held for share in shares if share < limits.SHARES_MAX]
    return max([limits.TOTAL_SHARES - 1, *added]) + 1


def _share(index: int, share: int, holdings: Holdings, *, is_sound: bool) -> ShareHealth:
    holders = tuple(str(PeerKey(key)) for key, held in holdings.items() if share in held)
    return ShareHealth(
        index=index, holders=holders, sound=is_sound, damaged_blocks=0, last_verified_unix_s=None
    )


def _state(sound: int, needed: int, total: int) -> BlobState:
    if sound < needed:
        return BlobState.LOST
    if sound == needed and total > needed:
        return BlobState.CRITICAL
    return BlobState.HEALTHY if sound == total else BlobState.DEGRADED
