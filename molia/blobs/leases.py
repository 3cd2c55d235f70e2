"""Which objects may go: a sweep over leases and what else wants a blob kept. A core.

An object stays while anything wants it: a pin, a lease that has not run out, or its youth. It goes
when nothing does, or when the time has come that its put named (`expires`), pinned or not.
Source: docs/reference/store-format.md, the LEASE row.
"""

from dataclasses import dataclass

from molia.base.ids import ObjectId
from molia.base.now import Now


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
