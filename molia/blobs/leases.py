"""Which objects may go: a sweep over leases and what else wants a blob kept. A core.

An object stays while anything wants it: a pin, a lease that has not run out, or its youth. It goes
when nothing does, or when the time has come that its put named (`expires`), pinned or not.
Below the sweep: signed leases, which of two counts, when to renew one, and what an owner may have
kept on this node.
Source: docs/reference/store-format.md, the LEASE row; docs/reference/leases.md.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from molia.base.crypto import Identity
from molia.base.hashing import purpose_digest
from molia.base.ids import ObjectId
from molia.base.limits import OWNERS_MAX
from molia.base.now import Now
from molia.blobs.statements import Kind, Statement, state

_RENEW_AFTER: Final = 1 / 3
"""The part of a lease's life after which it is renewed, and up to a tenth later: who was away then
hears of the next one before its own has run out."""
_RENEW_JITTER: Final = 0.1
_SHARE_OVERHEAD_BYTES: Final = 2_048
"""What a share costs beside its blocks and leaves: manifest, rows, index entries."""
_LEAF_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Lease:
    """One row: `owner` wants a share of an object kept until `expires_unix_s`."""

    object_id: ObjectId
    share: int
    owner: bytes
    """16 bytes of the hash of the owner's key."""
    expires_unix_s: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What is known of a bound object beside its leases."""

    object_id: ObjectId
    created_unix_s: int
    pinned: bool
    expires_unix_s: int | None
    """When it goes by itself, as its put asked; None: never."""


@dataclass(frozen=True, slots=True)
class Remove:
    """Nothing wants this object any more: remove its rows and blocks."""

    object_id: ObjectId


@dataclass(frozen=True, slots=True)
class Lapse:
    """This lease has run out and its object stays: remove the row."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Renew:
    """Only its pin holds this object: no lease of it lives. Give it a new one."""

    object_id: ObjectId


Effect = Remove | Lapse | Renew


class LeaseSweep:
    """One pass over the objects of a shard at one instant.

    min_age_s: nothing younger goes, unless its put asked for `expires`. For each object: first
    `on_claim`, then `on_lease` for its rows in key order; at the end `on_end`. A lease whose
    object has no claim belongs to an object that is no longer bound; it lapses when it runs out.
    Memory is that of one object's lapsed leases.
    """

    def __init__(self, now: Now, *, min_age_s: int) -> None:
        self._now_s, self._min_age_s = now.unix_s, min_age_s
        self._claim: Claim | None = None
        self._last_key: tuple[bytes, int, bytes] | None = None
        self._live = False
        self._lapsed: list[Lease] = []
        self._effects: list[Effect] = []

    def take_effects(self) -> list[Effect]:
        """Return what is to be removed or renewed, once."""
        effects, self._effects = self._effects, []
        return effects

    def on_claim(self, claim: Claim) -> None:
        """Take the next object; its leases follow."""
        self._decide()
        self._claim, self._last_key = claim, None

    def on_lease(self, lease: Lease) -> None:
        """Take the next lease row."""
        key = (lease.object_id, lease.share, lease.owner)
        assert self._last_key is None or self._last_key < key, "leases come in key order"
        if self._claim is not None and self._claim.object_id != lease.object_id:
            self._decide()
        self._last_key = key
        lives = lease.expires_unix_s > self._now_s
        if self._claim is None:
            self._effects += [] if lives else [Lapse(lease)]
        elif lives:
            self._live = True
        else:
            self._lapsed.append(lease)

    def on_end(self) -> None:
        """Take that there are no more rows."""
        self._decide()

    def _decide(self) -> None:
        claim, self._claim = self._claim, None
        lapsed, self._lapsed = self._lapsed, []
        live, self._live = self._live, False
        if claim is None:
            return
        if not object_stays(claim, self._now_s, has_live_lease=live, min_age_s=self._min_age_s):
            self._effects.append(Remove(claim.object_id))
            return
        self._effects += [Lapse(lease) for lease in lapsed]
        if claim.pinned and not live:
            self._effects.append(Renew(claim.object_id))


def object_stays(claim: Claim, now_s: float, *, has_live_lease: bool, min_age_s: int) -> bool:
    """Tell whether anything wants the object kept at wall time `now_s`."""
    if claim.expires_unix_s is not None and claim.expires_unix_s <= now_s:
        return False
    if claim.pinned or has_live_lease:
        return True
    return now_s - claim.created_unix_s < min_age_s


# ---------------------------------------------------------------------------- signed leases


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A signed lease as it is kept, and for how long."""

    lease: Statement
    keep_until: int
    """Unix seconds. A release stays until what it ended would have run out, or anybody could hand
    the older lease on again."""


class Verdict(Enum):
    """What becomes of a lease that comes in."""

    TAKEN = "taken"
    SAME = "same"
    """It is the one that is held."""
    OLDER = "older"
    """The one that is held counts: answer with it."""


def settle(held: HeldLease | None, offered: Statement) -> tuple[Verdict, HeldLease]:
    """Return what is to be kept once a checked lease of an owner about a blob has come in."""
    assert offered.kind is Kind.LEASE, "leases are settled among leases"
    if held is None:
        return Verdict.TAKEN, HeldLease(offered, offered.expires)
    assert held.lease.signer == offered.signer, "each owner's lease stands by itself"
    if not offered.beats(held.lease):
        same = offered.encoded == held.lease.encoded
        return (Verdict.SAME if same else Verdict.OLDER), held
    return Verdict.TAKEN, HeldLease(offered, max(offered.expires, held.keep_until))


def renew(
    identity: Identity, network: bytes, digest: bytes, *, before: Statement | None, unix_s: float,
    life_s: int,
) -> Statement:  # fmt: skip
    """Return our next lease of a blob: it beats `before`, even when the clock went back."""
    issued = _next_issued(before, unix_s)
    return state(
        Kind.LEASE, identity, network, digest, issued=issued, expires=issued + life_s
    )  # fmt: skip


def release(
    identity: Identity, network: bytes, digest: bytes, *, before: Statement | None, unix_s: float
) -> Statement:
    """Return the lease that ends ours at once wherever it arrives."""
    issued = _next_issued(before, unix_s)
    return state(Kind.LEASE, identity, network, digest, issued=issued, expires=issued)


def _next_issued(before: Statement | None, unix_s: float) -> int:
    return max(int(unix_s), 0 if before is None else before.issued + 1)


def renewal_due_s(lease: Statement) -> float:
    """Return when to renew one of our leases, in unix seconds: after a third of its life, spread by
    blob."""
    life_s = lease.expires - lease.issued
    draw = purpose_digest("schedule", lease.digest + lease.signer.key)[:4]
    jitter = int.from_bytes(draw, "big") / 2**32
    return lease.issued + life_s * (_RENEW_AFTER + _RENEW_JITTER * jitter)


# ---------------------------------------------------------------------------- quotas


def share_cost(*, block_bytes: int, stripe_count: int) -> int:
    """Return what a share counts against quotas: its blocks, its leaf list, and what is kept
    about it. Of a small blob: its bytes, and no stripes."""
    return block_bytes + stripe_count * _LEAF_BYTES + _SHARE_OVERHEAD_BYTES


class Quotas:
    """What others' shares take here, in all and by owner.

    total_bytes: the space that this node offers. owner_bytes: how much of it one owner may have.
    owners_max: how many owners are told apart; a new one beyond that is refused. Costs are those
    of `share_cost`; a share that has several owners counts for each and once in all.
    """

    def __init__(self, *, total_bytes: int, owner_bytes: int, owners_max: int = OWNERS_MAX) -> None:
        self.total_bytes, self.owner_bytes = total_bytes, owner_bytes
        self._owners_max = owners_max
        self.used_bytes = 0
        self.refused = 0
        self._by_owner: dict[bytes, int] = {}

    def used_by(self, owner: bytes) -> int:
        """Return what an owner's shares take."""
        return self._by_owner.get(owner, 0)

    @property
    def room_bytes(self) -> int:
        """What is left in all."""
        return max(self.total_bytes - self.used_bytes, 0)

    def may_take(self, owner: bytes, cost: int, *, is_new: bool = True) -> bool:
        """Tell whether a share of that cost may be kept for an owner; a no is counted.

        is_new: False when the share is here already, for another owner.
        """
        known = owner in self._by_owner or len(self._by_owner) < self._owners_max
        fits = known and self.used_by(owner) + cost <= self.owner_bytes
        if fits and not (is_new and cost > self.room_bytes):
            return True
        self.refused += 1
        return False

    def add(self, owner: bytes, cost: int, *, is_new: bool = True) -> None:
        """Count a share that is kept, as `may_take` allowed or as it was found at the start."""
        self._by_owner[owner] = self.used_by(owner) + cost
        self.used_bytes += cost if is_new else 0

    def remove(self, owner: bytes, cost: int, *, is_gone: bool = True) -> None:
        """Count that a share is no longer kept for an owner; is_gone: nor for anybody."""
        left = self.used_by(owner) - cost
        assert left >= 0, "what is removed was added"
        if left:
            self._by_owner[owner] = left
        else:
            self._by_owner.pop(owner, None)
        self.used_bytes -= cost if is_gone else 0
