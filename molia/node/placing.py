"""One blob on its way to its holders: drives `blobs.distribution.Distribution`.

It finds, offers, sends and announces as the core says, and notes what lies where as shares come to
rest, so that whatever ends this process, the next start goes on.
Source: docs/reference/distribution.md.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol

import anyio

from molia.base import limits
from molia.base.errors import MoliaError
from molia.blobs import distribution as core
from molia.blobs.distribution import Distribution, DistributionConfig, Planner
from molia.blobs.geometry import Geometry
from molia.blobs.placement import Candidate, Plan, plan_copies, plan_shares
from molia.node.asking_blobs import Holder
from molia.node.catalog import Bound
from molia.node.giving import Given, Giver
from molia.node.held import cost_of
from molia.store import keys
from molia.store.rows import PlacedRow
from molia.wire.blob_messages import KeptCode

SAVE_S: Final = 1.0
"""How often what lies where is noted while shares come to rest."""
SAVE_LAST_S: Final = 5.0
BAD_LEASE: Final = KeptCode.BAD_LEASE.name.lower()
LEASE_TRIES: Final = 2
OnProgress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Placed:
    """What came of placing a blob."""

    row: PlacedRow
    holders: int
    """Nodes that have shares, ours among them."""
    reason: str = ""
    """Why it is less than was asked for; empty when it is not."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A candidate's answer."""

    accepted: tuple[int, ...]
    kept: tuple[int, ...]


class Carrier(Protocol):
    """What a placing has done for it."""

    @property
    def now_s(self) -> float:
        """Monotonic seconds."""
        ...

    @property
    def floor(self) -> int:
        """How many losses a blob shall survive."""
        ...

    @property
    def patience(self) -> DistributionConfig:
        """How long holders are waited for."""
        ...

    def giver(self, bound: Bound, lease: bytes) -> Giver:
        """Return what sends the shares of a blob."""
        ...

    def holder(self, key: bytes) -> Holder | None:
        """Return where a candidate is."""
        ...

    async def find(
        self, bound: Bound, shares: tuple[int, ...], wanted: core.FindHolders
    ) -> list[Candidate]:
        """Return candidates, our own node first: it has everything."""
        ...

    async def offer(self, bound: Bound, key: bytes, shares: tuple[int, ...]) -> Offer | None:
        """Return what a candidate says to an offer; None when it says nothing."""
        ...

    async def announce(self, bound: Bound, records: Sequence[bytes]) -> bool:
        """Store provider records with one walk; tell whether each is somewhere."""
        ...

    async def save(self, bound: Bound, row: PlacedRow) -> None:
        """Note what is known; nothing when the blob is gone meanwhile."""
        ...

    async def take(self, giver: Giver, share: int, /) -> Given:
        """Keep a share of those that are sent on this node itself."""
        ...

    def copies_of(self, bound: Bound) -> int:
        """Return on how many nodes a small blob shall be."""
        ...

    def is_own(self, key: bytes) -> bool:
        """Tell whether it is this node."""
        ...

    async def beat(self, bound: Bound, to: Holder, lease: bytes) -> bytes | None:
        """Return a lease that beats what a holder has in place of ours; None: it has nothing."""
        ...

    def count(self, outcome: str) -> None:
        """Count what became of a share that was sent."""
        ...


def shares_of(bound: Bound, added: int = 0) -> tuple[int, ...]:
    """Return the shares of a blob that are placed: those that have any block.

    added: how many there are from 14 on.
    """
    if bound.is_raw:
        return (keys.WHOLE_SHARE,)
    more = range(limits.TOTAL_SHARES, limits.TOTAL_SHARES + added)
    return (*Geometry.of(bound.row.size).stored_shares, *more)


def needed_of(bound: Bound) -> int:
    """Return how many of these give the blob back: the empty ones are known."""
    if bound.is_raw:
        return 1
    return len(shares_of(bound)) - (limits.TOTAL_SHARES - limits.DATA_SHARES)


def holdings_of(row: PlacedRow) -> dict[bytes, tuple[int, ...]]:
    """Return which shares lie at which node by what was noted; nothing of notes that make none."""
    found: dict[bytes, tuple[int, ...]] = {}
    rows = row.cursor.get("placed")
    for each in rows if isinstance(rows, list) else ():
        match each:
            case [str(key), int(share), str(_)]:
                try:
                    found[bytes.fromhex(key)] = (*found.get(bytes.fromhex(key), ()), share)
                except ValueError:
                    continue
    return found


class Placing:
    """One blob that is being placed."""

    def __init__(
        self, carrier: Carrier, bound: Bound, row: PlacedRow, *,
        only: Collection[int] | None = None, floor: int | None = None, added: int = 0,
    ) -> None:  # fmt: skip
        """only: the shares that there are to send; what a plan has of others is left as it is.

        floor: another one than the carrier's. added: shares that the blob has from 14 on.
        """
        self._carrier, self._bound, self.row = carrier, bound, row
        self._shares = shares_of(bound, added)
        floor = carrier.floor if floor is None else floor
        copies = carrier.copies_of(bound)
        self._core = _distribution(carrier, bound, self._shares, row, only, floor, copies)
        self._giver = carrier.giver(bound, row.lease)
        self._tasks: dict[tuple[bytes, int], asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._saved_s = float("-inf")
        self._sent_to: dict[bytes, None] = {}

    @property
    def cursor(self) -> dict[str, Any]:
        """What lies where, for another run to go on from."""
        return self._core.cursor

    @property
    def reached(self) -> tuple[bytes, ...]:
        """Which nodes may have shares now."""
        return tuple(dict.fromkeys((*self._core.holdings, *self._sent_to)))

    async def run(self, on_progress: OnProgress) -> Placed:
        """Return what came of it, once nothing of it is under way any more."""
        on_progress({"placed": 0, "total": len(self._shares), "holders": 0})
        await self._carrier.save(self._bound, self.row)
        self._core.start(now_s=self._carrier.now_s)
        try:
            while True:
                for effect in self._core.take_effects():
                    match effect:
                        case core.Done(survives=survives, holders=holders):
                            return await self._end(survives, len(holders), "")
                        case core.Degraded(survives=survives, holders=holders, reason=reason):
                            return await self._end(survives, len(holders), reason)
                        case core.Placed(placed=placed, total=total, holders=count):
                            on_progress({"placed": placed, "total": total, "holders": count})
                        case _:
                            self._carry_out(effect)
                if self._carrier.now_s - self._saved_s >= SAVE_S:
                    await self._save()
                await self._wait()
        except BaseException:
            with anyio.move_on_after(SAVE_LAST_S, shield=True), contextlib.suppress(MoliaError):
                await self._save()
            raise
        finally:
            for task in (*self._tasks.values(), *self._others):
                task.cancel()

    async def _end(self, survives: int, holders: int, reason: str) -> Placed:
        placed = [
            [key.hex(), share, ""]
            for key, shares in self._core.holdings.items()
            if self._carrier.holder(key) is not None
            for share in shares
        ]
        row = PlacedRow(
            is_done=True, survives=max(survives, 0), lease=self.row.lease,
            cursor={"placed": placed},
        )  # fmt: skip
        await self._carrier.save(self._bound, row)
        return Placed(row, holders, reason)

    async def _save(self) -> None:
        """Note what lies where, if that is not known."""
        cursor = self._core.cursor
        if cursor != self.row.cursor:
            self._saved_s = self._carrier.now_s
            self.row = PlacedRow(
                is_done=False, survives=max(self._core.survives, 0), lease=self.row.lease,
                cursor=cursor,
            )  # fmt: skip
            await self._carrier.save(self._bound, self.row)

    async def _wait(self) -> None:
        """Return when something happened, or is late."""
        if self._failure is not None:
            raise self._failure
        due_s = self._core.next_deadline_s()
        wait_s = None if due_s is None else max(0.0, due_s - self._carrier.now_s)
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            self._core.on_deadline(now_s=self._carrier.now_s)
        self._changed.clear()
        if self._failure is not None:
            raise self._failure

    # ------------------------------------------------------------------ effects

    def _carry_out(self, effect: core.Effect) -> None:
        match effect:
            case core.FindHolders():
                self._spawn(self._find(effect))
            case core.OfferShares(key=key, shares=shares):
                self._spawn(self._offer(key, shares))
            case core.SendShare(key=key, share=share):
                self._tasks[key, share] = self._spawn(self._send(effect))
            case core.Cancel(key=key, share=share):
                task = self._tasks.pop((key, share), None)
                if task is not None:
                    task.cancel()
                self._carrier.count("too_slow")
            case core.Announce():
                self._spawn(self._announce(effect))

    async def _find(self, wanted: core.FindHolders) -> None:
        found = await self._carrier.find(self._bound, self._shares, wanted)
        self._core.on_candidates(found, now_s=self._carrier.now_s)

    async def _offer(self, key: bytes, shares: tuple[int, ...]) -> None:
        said = await self._carrier.offer(self._bound, key, shares)
        if said is not None:  # who says nothing is given up at the core's deadline
            self._core.on_offered(
                key, accepted=said.accepted, kept=said.kept, now_s=self._carrier.now_s
            )

    async def _send(self, wanted: core.SendShare) -> None:
        key, share = wanted.key, wanted.share
        to = self._carrier.holder(key)
        given = Given(is_kept=False, outcome="nowhere")
        if self._carrier.is_own(key):
            given = await self._carrier.take(self._giver, share)
        elif to is not None:
            self._sent_to[key] = None

            def on_stripes(stripes: int) -> None:
                self._core.on_progress(key, share, stripes=stripes, now_s=self._carrier.now_s)

            lease = self.row.lease
            given = await self._giver.give(to, share, wanted.first_stripe, on_stripes)
            if given.outcome == BAD_LEASE and await self._has_newer_lease(to, lease):
                given = await self._giver.give(to, share, wanted.first_stripe, on_stripes)
        self._tasks.pop((key, share), None)
        self._carrier.count(given.outcome)
        self._core.on_sent(
            key, share, is_kept=given.is_kept, stripes=given.stripes, record=given.record,
            may_retry=given.may_retry, now_s=self._carrier.now_s,
        )  # fmt: skip

    async def _announce(self, wanted: core.Announce) -> None:
        renewed = await asyncio.gather(*(self._renew(*each) for each in wanted.unknown))
        told = [*wanted.records, *(record for record in renewed if record)]
        is_stored = await self._carrier.announce(self._bound, told)
        self._core.on_announced(is_stored=is_stored, now_s=self._carrier.now_s)

    async def _renew(self, key: bytes, share: int) -> bytes:
        to = self._carrier.holder(key)
        if to is None:
            return b""
        for _ in range(LEASE_TRIES):
            lease = self.row.lease
            try:
                return await self._giver.renew(to, share)
            except (MoliaError, TimeoutError):
                if not await self._has_newer_lease(to, lease):
                    break
        return b""

    async def _has_newer_lease(self, to: Holder, lease: bytes) -> bool:
        """Tell whether there is a lease by now that a holder may take, who did not take this one.

        It may know of a release that was forgotten here, and would let go of what it has.
        """
        if lease == self.row.lease:
            newer = await self._carrier.beat(self._bound, to, lease)
            if newer is not None and lease == self.row.lease:
                self.row = replace(self.row, lease=newer)
                self._giver = self._carrier.giver(self._bound, newer)
        return lease != self.row.lease

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 - `run` raises it
                self._failure = self._failure or error
            finally:
                self._changed.set()

        task = asyncio.ensure_future(guarded())
        self._others.add(task)
        task.add_done_callback(self._others.discard)
        return task


def planner_of(
    bound: Bound, *, floor: int, added: int = 0, copies: int = limits.COPIES_MIN
) -> Planner:
    """Return what plans where a blob shall lie: copies of a small one, shares of others.

    floor: losses to survive, if it takes duplicates. added: shares from 14 on.
    """
    shares = shares_of(bound, added)
    largest = max(cost_of(bound.row.size, share) for share in shares)
    if bound.is_raw:
        return partial(plan_copies, size=largest, copies=copies)
    return partial(
        plan_shares, share_bytes=largest, floor=floor, shares=shares, needed=needed_of(bound)
    )  # fmt: skip


def _distribution(
    carrier: Carrier, bound: Bound, shares: tuple[int, ...], row: PlacedRow,
    only: Collection[int] | None, floor: int, copies: int,
) -> Distribution:  # fmt: skip
    """Return the core."""
    added = sum(limits.TOTAL_SHARES <= share < limits.SHARES_MAX for share in shares)
    planner = planner_of(bound, floor=floor, added=added, copies=copies)
    if only is not None:
        planner = partial(_only, planner, only)
    return Distribution(
        planner, shares=shares, share_bytes=max(cost_of(bound.row.size, each) for each in shares),
        needed=needed_of(bound), floor=floor, config=carrier.patience, cursor=row.cursor,
    )  # fmt: skip


def _only(planner: Planner, only: Collection[int], candidates: Sequence[Candidate]) -> Plan:
    plan = planner(candidates)
    return replace(plan, moves=tuple(move for move in plan.moves if move.share in only))
