"""How holders keep records replicated while nodes come and go. A core.

A holder tells each neighbour that is new to it what it holds of the neighbour's region, and puts
there what the neighbour lacks. All holders do so, one after the other by their distance: the first
does the work, the others find nothing lacking. A node that is new itself asks three neighbours.
Source: docs/reference/upkeep.md, "Replicas".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from molia.base.entropy import Entropy
from molia.base.limits import (
    REPAIR_ASKS_MAX,
    REPAIR_CLAIMS_MAX,
    REPAIR_NEIGHBOURS_MAX,
)
from molia.dht.budget import RepairBudget
from molia.dht.contact import ID_BITS, Contact
from molia.dht.digest import Ahead, SummaryOf, is_wanted
from molia.dht.held import Summary, summaries_in, wanted_bits
from molia.dht.jitter import between
from molia.dht.ports import Shelf
from molia.dht.sweep import tile_bits
from molia.dht.telling import Push, Tell, Telling

LOOK_S: Final = 15.0
"""How often the neighbourhood is looked at."""
MATURE_S: Final = 30.0
"""A node counts as a replica after this: many go again within seconds."""
INTERVAL_MIN_S, INTERVAL_MAX_S = 60.0, 3_600.0
AGAIN_S: Final = 3_600.0
"""A neighbour that stays is told once more after this."""
GROWN: Final = 1.25
"""And when regions have become so much wider, since it then holds more."""
SLOTS: Final = 20
"""Places in the order of holders that one interval has room for."""
CLAIM_S: Final = 20.0
"""How long a row may be on its way before it is wanted of the next who offers it."""
ASKED_AT_ONCE: Final = 3
ASK_AGAIN_S: Final = 5.0
PULL_EVERY_S: Final = 60.0
HYSTERESIS: Final = 2
_SPACE: Final = 1 << ID_BITS

InRegion: TypeAlias = Callable[[int, int], Sequence[Contact]]
"""Gives the verified contacts within a radius of a centre: `Table.in_region`."""


class AskPull(NamedTuple):
    """Send a PULL; its reply goes to `on_pulled`."""

    contact: Contact
    radius_bits: int


Effect: TypeAlias = Tell | Push | AskPull


def repair_interval_s(churn_rate: float) -> float:
    """Return how long to wait between two rounds, given the share of nodes that go in a second.

    At 0.6 of a session's mean, 1 in 10 million records has lost all 20 holders between rounds.
    """
    if churn_rate <= 0:
        return INTERVAL_MAX_S
    return min(max(0.6 / churn_rate, INTERVAL_MIN_S), INTERVAL_MAX_S)


def is_ours(loc: bytes, own_id: int, radius: int) -> bool:
    """Tell whether a node should still hold a location: up to twice the region's radius.

    What is further away may go first when room is short; else it stays until it expires.
    """
    return int.from_bytes(loc, "big") ^ own_id < HYSTERESIS * radius


@dataclass(slots=True)
class _Neighbour:
    since_s: float
    told_s: float | None = None
    told_radius: int = 0
    pulled_s: float | None = None

    def is_due(self, radius: int, now_s: float) -> bool:
        """Tell whether it must be told what we hold."""
        if self.told_s is None:
            return now_s - self.since_s >= MATURE_S
        return now_s - self.told_s >= AGAIN_S or radius > GROWN * self.told_radius


class ReplicaRepair:
    """The upkeep of what one node holds. Drive it by `on_deadline`, `take_effects`.

    Replies to a `Tell` go to `on_told`, the end of a `Push` to `on_pushed`, as of `Telling`.
    """

    def __init__(
        self, own_id: int, shelf: Shelf, in_region: InRegion, summary_of: SummaryOf, *,
        entropy: Entropy, now_s: float,
    ) -> None:  # fmt: skip
        self._own_id, self._shelf, self._in_region = own_id, shelf, in_region
        self._summary_of, self._entropy = summary_of, entropy
        self._neighbours: dict[int, _Neighbour] = {}
        self._near: list[Contact] = []
        self._claims: dict[Summary, float] = {}
        """Entries that a neighbour was asked to put, oldest first, and until when we wait."""
        self._effects: list[AskPull] = []
        self._radius = self._round_radius = _SPACE
        self._look_s = now_s
        self._round_s = now_s + MATURE_S
        self._asks_left = 0
        self._asked: dict[int, bool] = {}
        """Whom we asked for our range, and whether the answer is still to come."""
        self._ask_s = 0.0
        self.budget = RepairBudget(now_s)
        self._telling = Telling(shelf, summary_of, self.budget)
        self.on_told, self.on_pushed = self._telling.on_told, self._telling.on_pushed
        self.rounds = self.refused_pulls = 0

    @property
    def counts(self) -> dict[str, int]:
        """What was done so far, by name."""
        return {"rounds": self.rounds, "digests": self._telling.told, "bytes": self.budget.spent,
                "pushes": self._telling.pushed, "refused_pulls": self.refused_pulls}  # fmt: skip

    def take_effects(self) -> list[Effect]:
        """Return what to send since the last call."""
        effects, self._effects = self._effects, []
        return [*effects, *self._telling.take_effects()]

    def next_deadline_s(self) -> float:
        """Return when to call `on_deadline`."""
        times = (self._look_s, self._telling.next_deadline_s(), self._ask_due_s())
        return min(at for at in times if at is not None)

    def _ask_due_s(self) -> float | None:
        return self._ask_s if self._asks_left else None

    def on_deadline(self, now_s: float, *, radius: int, churn_rate: float) -> None:
        """Do what is due. radius: of a region now; churn_rate: as the table measures it."""
        self._radius = min(radius, _SPACE)
        if now_s >= self._look_s:
            self._look_s = now_s + LOOK_S * between(self._entropy, 0.9, 1.1)
            self._look(now_s)
            is_urgent = self._radius > GROWN * self._round_radius
            if is_urgent or now_s >= self._round_s:
                self._begin_round(repair_interval_s(churn_rate), now_s, is_urgent=is_urgent)
        if self._asks_left and now_s >= self._ask_s:
            self._ask(now_s)
        self._telling.on_deadline(now_s)
        for contact, told_radius in self._telling.take_finished():
            neighbour = self._neighbours.get(contact.id)
            if neighbour is not None:
                neighbour.told_s, neighbour.told_radius = now_s, told_radius

    # -- a node that is new, here and elsewhere

    def on_joined(self, now_s: float) -> None:
        """Ask for our range: our first lookup is done, or a partition has healed."""
        self._asks_left, self._asked = ASKED_AT_ONCE, {}
        self._ask_s = now_s + between(self._entropy, 0.5, 2.0)

    def on_healed(self, now_s: float) -> None:
        """Tell all neighbours anew and ask for our range: the network was in two parts."""
        for neighbour in self._neighbours.values():
            neighbour.told_s, neighbour.since_s = None, now_s - MATURE_S
        self._look_s, self._round_radius = now_s, 0
        self.on_joined(now_s)

    def on_pulled(self, contact: Contact, now_s: float, *, accepted: bool) -> None:
        """Take the answer to an `AskPull`; not accepted, or none: the next neighbour is asked."""
        if self._asked.get(contact.id):
            self._asked[contact.id] = False
            if not accepted and len(self._asked) < REPAIR_ASKS_MAX:
                self._asks_left += 1
                self._ask_s = now_s

    def on_pull(self, contact: Contact, radius_bits: int, now_s: float) -> bool:
        """Tell a verified contact that is new what we hold of its region; False: we will not."""
        neighbour = self._neighbours.get(contact.id) or _Neighbour(now_s)
        is_early = neighbour.pulled_s is not None and now_s - neighbour.pulled_s < PULL_EVERY_S
        radius = min(HYSTERESIS * self._radius, 1 << radius_bits)
        if (
            is_early
            or not self._is_neighbour(contact)
            or not self._has_room(contact)
            or not self._telling.begin(contact, radius, now_s)
        ):
            self.refused_pulls += 1
            return False
        neighbour.pulled_s = now_s
        self._neighbours[contact.id] = neighbour
        return True

    def _has_room(self, contact: Contact) -> bool:
        is_known = contact.id in self._neighbours
        return is_known or len(self._neighbours) < REPAIR_NEIGHBOURS_MAX

    def _is_neighbour(self, contact: Contact) -> bool:
        return contact.id ^ self._own_id < self._reach()

    def _reach(self) -> int:
        """Return how far away a node may be with which we share a location."""
        return min(2 << (ID_BITS - tile_bits(self._radius)), _SPACE)

    def _ask(self, now_s: float) -> None:
        """Ask the nearest that were not asked yet; later, while there is none."""
        own_id = self._own_id
        near = sorted(self._in_region(own_id, self._reach()), key=lambda c: c.id ^ own_id)
        left = [c for c in near if c.id not in self._asked and c.id != own_id]
        for contact in left[: min(self._asks_left, REPAIR_ASKS_MAX - len(self._asked))]:
            self._asks_left -= 1
            self._asked[contact.id] = True
            bits = ID_BITS - tile_bits(self._radius)
            self._effects.append(AskPull(contact, max(1, bits)))
        if len(self._asked) >= REPAIR_ASKS_MAX or (self._asked and not left):
            self._asks_left = 0
        self._ask_s = now_s + ASK_AGAIN_S

    # -- rounds

    def _look(self, now_s: float) -> None:
        """Note who is near: newcomers from now on, who went is forgotten."""
        own_id, known = self._own_id, self._neighbours
        near = sorted(self._in_region(own_id, self._reach()), key=lambda c: c.id ^ own_id)
        near = [c for c in near if c.id != own_id][:REPAIR_NEIGHBOURS_MAX]
        self._neighbours = {c.id: known.get(c.id) or _Neighbour(now_s) for c in near}
        self._near = near

    def _begin_round(self, interval_s: float, now_s: float, *, is_urgent: bool) -> None:
        """Begin to tell those who are due, each holder at its place in the order."""
        self.rounds += 1
        self._round_s = now_s + interval_s * between(self._entropy, 0.9, 1.1)
        self._round_radius = self._radius
        if is_urgent:
            interval_s = INTERVAL_MIN_S
        grown = [n for n, it in self._neighbours.items() if now_s - it.since_s >= MATURE_S]
        for contact in self._near:
            neighbour = self._neighbours[contact.id]
            if neighbour.is_due(self._radius, now_s):
                slots = self._rank(contact, grown) + 1
                wait_s = slots * interval_s / SLOTS * between(self._entropy, 0.5, 1.5)
                self._telling.begin(contact, self._radius, now_s + wait_s)

    def _rank(self, contact: Contact, grown: Sequence[int]) -> int:
        """Return how many grown neighbours are closer to a contact than we are."""
        center, own = contact.id, self._own_id ^ contact.id
        return sum([0 < n ^ center < own for n in grown])

    # -- being told

    def wanted(self, digest: bytes, now_s: float, *, claims: bool = True) -> bytes:
        """Return the bitmap of what we lack of a neighbour's DIGEST.

        What is already on its way from one neighbour is not wanted of another: so three that were
        asked for our range share the work. claims: whether it may be counted on to put what it
        offers; a stranger who only says so must not keep others from it.
        """
        rows = Ahead(self._shelf)
        return wanted_bits(
            [self._is_wanted(one, rows, now_s, claims=claims) for one in summaries_in(digest)]
        )

    def _is_wanted(self, one: Summary, rows: Ahead, now_s: float, *, claims: bool) -> bool:
        is_lacking = is_wanted(
            one, rows, own_id=self._own_id, radius=self._radius, summary_of=self._summary_of
        )
        return is_lacking and not rows.is_spent and (not claims or self._claim(one, now_s))

    def _claim(self, one: Summary, now_s: float) -> bool:
        """Tell whether a row is on its way from nobody else; it is from now on."""
        claims = self._claims
        while claims and (len(claims) >= REPAIR_CLAIMS_MAX or _first(claims) <= now_s):
            del claims[next(iter(claims))]
        if one in claims:
            return False
        claims[one] = now_s + CLAIM_S
        return True


def _first(claims: dict[Summary, float]) -> float:
    return next(iter(claims.values()))
