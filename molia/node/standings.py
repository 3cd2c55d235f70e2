"""How a blob stands, from what is known of who has what: plain functions for `node.keeping`.

A node that has all of a blob for itself, its publisher for one, counts for as many shares as an
even layout gives it: that all others may go while it stays is no comfort to who wants to be rid of
it. A small blob's copies are numbered, those that are here first.
Source: docs/reference/audit-and-repair.md, "Watching".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.blobs.elastic import Supplement
from molia.blobs.geometry import Geometry
from molia.blobs.placement import Place
from molia.blobs.standing import Holding, Presence, Standing
from molia.node.watched import Watched


@lru_cache(maxsize=1_024)
def _stored_shares(size: int) -> tuple[int, ...]:
    """Return the shares that a blob of `size` bytes has; asked for each holder at each look."""
    return Geometry.of(size).stored_shares


@dataclass(frozen=True, slots=True)
class Here:
    """What this node has of a blob."""

    cid: Cid
    size: int
    manifest: bytes
    shares: tuple[int, ...]
    """Kept for others."""
    is_whole: bool
    """The user here keeps all of it."""
    supplement: bytes = b""
    """What lists the roots of shares from 14 on, if one of them is here."""

    @property
    def added_roots(self) -> tuple[bytes, ...]:
        """The roots of shares from 14 on, as far as they are known here."""
        found = Supplement.decode(self.supplement)
        return () if found is None or found.cid != self.cid else found.roots

    @property
    def stored(self) -> tuple[int, ...]:
        """The shares that the manifest lists; one with empty blocks only is none."""
        if self.cid.codec is Codec.RAW:
            return (limits.WHOLE_SHARE,)
        return _stored_shares(self.size)

    def has_place(self, share: int) -> bool:
        """Tell whether a blob may have this share: one of the manifest, or one that was added."""
        added = range(limits.TOTAL_SHARES, limits.TOTAL_SHARES + limits.ADDED_SHARES_MAX)
        return share in self.stored or (self.cid.codec is Codec.MANIFEST and share in added)


@dataclass(slots=True)
class Facts:
    """What is known at this moment."""

    here: Here
    watched: Watched
    presence: dict[bytes, bool] = field(default_factory=dict)
    """Whether each holder answers."""
    denied: frozenset[Place] = frozenset()
    """What a holder said that it has no more."""
    absences_s: Mapping[bytes, float] = field(default_factory=dict)
    wanted: int = 0
    """How many shares, or copies, the blob shall have; 0: as many as any."""

    def presence_of(self, place: Place) -> Presence:
        """Return what is known of one share."""
        if place in self.watched.lost or place in self.denied:
            return Presence.LOST
        return Presence.HERE if self.presence.get(place.key) else Presence.OFFLINE

    def holders_of(self, share: int) -> list[bytes]:
        """Return the others that keep a share for somebody, answer, and have not lost it."""
        return [
            key for key, seen in self.watched.holders.items()
            if share in seen.shares
            and not seen.is_whole
            and self.presence_of(Place(share, key)) is Presence.HERE
        ]  # fmt: skip

    def held(self) -> dict[bytes, tuple[int, ...]]:
        """Return the shares that others keep for somebody, answer for, and have not lost."""
        found: dict[bytes, tuple[int, ...]] = {}
        for key, seen in self.watched.holders.items():
            places = [Place(share, key) for share in seen.shares if self.here.has_place(share)]
            kept = [each.share for each in places if self.presence_of(each) is Presence.HERE]
            if kept and not seen.is_whole:
                found[key] = tuple(kept)
        return found

    def added(self) -> int:
        """Return up to which number shares were added: 14 where none was."""
        last = [*self.here.shares]
        for seen in self.watched.holders.values():
            last += [] if seen.is_whole else seen.shares
        known = [
            share for share in last if share >= limits.TOTAL_SHARES and self.here.has_place(share)
        ]
        return max(known, default=limits.TOTAL_SHARES - 1) + 1

    def wholes(self) -> list[bytes]:
        """Return the others that have all of the blob for themselves, answering or not.

        One that answers that it has it no more is none.
        """
        gone = {place.key for place in self.denied}
        holders = self.watched.holders
        return [key for key in holders if holders[key].is_whole and key not in gone]


def places_of(facts: Facts, own: bytes) -> list[Place]:
    """Return what lies where, ours included; not what nodes have for themselves."""
    here, watched = facts.here, facts.watched
    found = [Place(share, own) for share in here.shares]
    if here.cid.codec is Codec.RAW:
        found = [Place(limits.WHOLE_SHARE, own)]
        return found + [Place(limits.WHOLE_SHARE, key) for key in watched.holders]
    wholes = facts.wholes()
    for key, seen in watched.holders.items():
        if key not in wholes:
            found += [Place(share, key) for share in seen.shares if here.has_place(share)]
    return found


def standing_of(facts: Facts, own: bytes) -> Standing:
    """Return how the blob stands."""
    if facts.here.cid.codec is Codec.RAW:
        return _of_copies(facts, own)
    holdings = [_holding(facts, place, own) for place in places_of(facts, own)]
    known = {h.share for h in holdings}
    reachable = {h.share for h in holdings if h.presence is Presence.HERE}
    stored = facts.here.stored
    names = {own, *facts.watched.holders}
    part = -(-len(stored) // max(1, len(names)))
    for key in [*([own] if facts.here.is_whole else []), *facts.wholes()]:
        is_here = key == own or bool(facts.presence.get(key))
        fresh = [share for share in stored if share not in known]
        if is_here:
            fresh += [share for share in stored if share in known and share not in reachable]
        mine = fresh[:part] or [stored[0]]
        presence = Presence.HERE if is_here else Presence.OFFLINE
        holdings += [
            Holding(
                share=share, key=key, presence=presence,
                longest_absence_s=facts.absences_s.get(key, 0.0),
            )
            for share in mine
        ]  # fmt: skip
        known.update(mine)
        reachable.update(mine if is_here else ())
    empty = [share for share in range(limits.TOTAL_SHARES) if share not in stored]
    holdings += [Holding(share=share, key=own, presence=Presence.HERE) for share in empty]
    return Standing(holdings=tuple(holdings), shares=max(facts.wanted, limits.TOTAL_SHARES))


def _holding(facts: Facts, place: Place, own: bytes) -> Holding:
    presence = Presence.HERE if place.key == own else facts.presence_of(place)
    return Holding(
        share=place.share, key=place.key, presence=presence,
        longest_absence_s=facts.absences_s.get(place.key, 0.0),
    )  # fmt: skip


def _of_copies(facts: Facts, own: bytes) -> Standing:
    order = (Presence.HERE, Presence.OFFLINE, Presence.LOST)
    copies = [_holding(facts, place, own) for place in places_of(facts, own)]
    copies.sort(key=lambda holding: order.index(holding.presence))
    numbered = [
        Holding(
            share=number, key=each.key, presence=each.presence,
            longest_absence_s=each.longest_absence_s,
        )
        for number, each in enumerate(copies)
    ]  # fmt: skip
    shares = max(facts.wanted, limits.COPIES_MIN)
    return Standing(holdings=tuple(numbered), shares=shares, needed=1)
