"""How holders keep records replicated while nodes come and go. A core.

A holder tells each neighbour that is new to it what it holds of the neighbour's region, and puts
there what the neighbour lacks. All holders do so, one after the other by their distance: the first
does the work, the others find nothing lacking. A node that is new itself asks three neighbours.
Source: docs/reference/upkeep.md, "Replicas".
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from molia.base.entropy import Entropy
from molia.base.limits import (
    DIGEST_ENTRIES_MAX,
    REPAIR_ASKS_MAX,
    REPAIR_JOBS_MAX,
    REPAIR_NEIGHBOURS_MAX,
    REPAIR_PUSHES_MAX,
    REPAIR_SCAN_MAX,
)
from molia.dht.budget import RepairBudget
from molia.dht.contact import ID_BITS, Contact
from molia.dht.digest import KINDS, Summary, entry, wanted, wanted_places
from molia.dht.jitter import between
from molia.dht.ports import Shelf
from molia.dht.sweep import tile_bits
from molia.wire.dht_messages import DIGEST_ENTRY_SIZE

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
ANSWER_S: Final = 30.0
ASKED_AT_ONCE: Final = 3
ASK_AGAIN_S: Final = 5.0
PULL_EVERY_S: Final = 60.0
HYSTERESIS: Final = 2
MESSAGE_BYTES: Final = 80
"""What a message costs beside its body: packet, frame, and the answer's share."""
_SPACE: Final = 1 << ID_BITS

InRegion: TypeAlias = Callable[[int, int], Sequence[Contact]]
"""Gives the verified contacts within a radius of a centre: `Table.in_region`."""


class Tell(NamedTuple):
    """Send a DIGEST; its reply goes to `on_told`."""

    contact: Contact
    entries: bytes


class Push(NamedTuple):
    """Put a row at a neighbour, as PUT or ADD_PROVIDER; then call `on_pushed`."""

    contact: Contact
    kind: int
    loc: bytes
    row: bytes


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


@dataclass(slots=True)
class _Job:
    """One neighbour that is being told, row by row from the start of its tile to its end."""

    contact: Contact
    radius: int
    due_s: float
    at: int = 0
    """Where the next row is looked for."""
    kind_index: int = 0
    told: list[tuple[int, bytes]] = field(default_factory=list)
    """What the DIGEST under way lists; empty when there is none."""
    lacking: deque[tuple[int, bytes]] = field(default_factory=deque)
    pushes: int = 0
    failures: int = 0
    answer_s: float = 0.0
    """Until then an answer must have come, when one is waited for."""

    def expect(self, now_s: float) -> None:
        """Wait for an answer from now on."""
        self.answer_s = self.due_s = now_s + ANSWER_S

    def next_kind(self) -> None:
        """Go back to the tile's start, for the next kind of rows."""
        self.kind_index += 1
        self.at = self.contact.id // self.size * self.size

    @property
    def size(self) -> int:
        """The number of locations in the tile."""
        return 1 << (ID_BITS - tile_bits(self.radius))

    @property
    def stop(self) -> int:
        """The tile's end."""
        return self.contact.id // self.size * self.size + self.size


class ReplicaRepair:
    """The upkeep of what one node holds. Drive it by `on_deadline`, `take_effects`."""

    def __init__(
        self, own_id: int, shelf: Shelf, in_region: InRegion, summary: Summary, *,
        entropy: Entropy, now_s: float,
    ) -> None:  # fmt: skip
        self._own_id, self._shelf, self._in_region = own_id, shelf, in_region
        self._summary, self._entropy = summary, entropy
        self._neighbours: dict[int, _Neighbour] = {}
        self._near: list[Contact] = []
        self._jobs: dict[int, _Job] = {}
        self._effects: list[Effect] = []
        self._radius = self._round_radius = _SPACE
        self._look_s = now_s
        self._round_s = now_s + MATURE_S
        self._asks_left = 0
        self._asked: dict[int, bool] = {}
        """Whom we asked for our range, and whether the answer is still to come."""
        self._ask_s = 0.0
        self.budget = RepairBudget(now_s)
        self.rounds = self.pushed = self.told = self.refused_pulls = 0

    def take_effects(self) -> list[Effect]:
        """Return what to send since the last call."""
        effects, self._effects = self._effects, []
        return effects

    def next_deadline_s(self) -> float:
        """Return when to call `on_deadline`."""
        times = [self._look_s, *(job.due_s for job in self._jobs.values())]
        if self._asks_left:
            times.append(self._ask_s)
        return min(times)

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
        for job in [job for job in self._jobs.values() if job.due_s <= now_s]:
            self._step(job, now_s)

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
            or not self._begin(contact, radius, now_s)
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
        for contact in self._near:
            neighbour = self._neighbours[contact.id]
            if neighbour.is_due(self._radius, now_s):
                slots = self._rank(contact, now_s) + 1
                wait_s = slots * interval_s / SLOTS * between(self._entropy, 0.5, 1.5)
                self._begin(contact, self._radius, now_s + wait_s)

    def _rank(self, contact: Contact, now_s: float) -> int:
        """Return how many grown neighbours are closer to a contact than we are."""
        center, own = contact.id, self._own_id ^ contact.id
        grown = (n for n, it in self._neighbours.items() if now_s - it.since_s >= MATURE_S)
        return sum(0 < n ^ center < own for n in grown)

    def _begin(self, contact: Contact, radius: int, due_s: float) -> bool:
        if len(self._jobs) >= REPAIR_JOBS_MAX or contact.id in self._jobs:
            return False
        job = self._jobs[contact.id] = _Job(contact, radius, due_s, kind_index=-1)
        job.next_kind()
        return True

    # -- telling one neighbour

    def on_told(self, contact: Contact, bitmap: bytes | None, now_s: float) -> None:
        """Take the reply to a DIGEST; None: there was none."""
        job = self._jobs.get(contact.id)
        if job is None or not job.told:
            return
        if bitmap is None:
            del self._jobs[contact.id]
            return
        job.lacking.extend(job.told[n] for n in wanted_places(bitmap, len(job.told)))
        job.told, job.due_s = [], now_s

    def on_pushed(self, contact: Contact, now_s: float, *, ok: bool) -> None:
        """Take the end of a `Push`; ok: it was answered, whatever the answer."""
        job = self._jobs.get(contact.id)
        if job is None or not job.pushes:
            return
        job.pushes -= 1
        job.failures += not ok
        job.due_s = now_s
        if job.failures >= 3:
            del self._jobs[contact.id]

    def _step(self, job: _Job, now_s: float) -> None:
        """Do the next bit of a job: push what is lacking, or list more."""
        if (job.told or job.pushes) and now_s >= job.answer_s:
            del self._jobs[job.contact.id]
            return
        job.due_s = job.answer_s
        if job.told:
            return
        while job.lacking and job.pushes < REPAIR_PUSHES_MAX:
            if not self.budget.is_open(now_s):
                job.due_s = self.budget.open_s(now_s)
                return
            self._push(job, now_s)
        if not job.lacking and not job.pushes:
            self._list_more(job, now_s)

    def _push(self, job: _Job, now_s: float) -> None:
        kind, loc = job.lacking.popleft()
        row = self._shelf.read(kind, loc)
        if row is not None:
            self._effects.append(Push(job.contact, kind, loc, row))
            self.budget.spend(len(row) + MESSAGE_BYTES, now_s)
            job.pushes += 1
            job.expect(now_s)
            self.pushed += 1

    def _list_more(self, job: _Job, now_s: float) -> None:
        """Send the next DIGEST; at the end, note that the neighbour knows all."""
        if not self.budget.is_open(now_s):
            job.due_s = self.budget.open_s(now_s)
            return
        entries = self._entries(job) if job.kind_index < len(KINDS) else []
        if entries:
            self._effects.append(Tell(job.contact, b"".join(entries)))
            self.budget.spend(len(entries) * DIGEST_ENTRY_SIZE + MESSAGE_BYTES, now_s)
            job.expect(now_s)
            self.told += 1
        elif job.kind_index >= len(KINDS):
            del self._jobs[job.contact.id]
            neighbour = self._neighbours.get(job.contact.id)
            if neighbour is not None:
                neighbour.told_s, neighbour.told_radius = now_s, job.radius
        else:
            job.due_s = now_s  # nothing in this part: the next one is looked at

    def _entries(self, job: _Job) -> list[bytes]:
        """Return the next entries for a neighbour, after a bounded number of rows."""
        entries: list[bytes] = []
        kind, seen, stop = KINDS[job.kind_index], 0, job.stop
        start = job.at.to_bytes(ID_BITS // 8, "big")
        for loc in self._shelf.locations(kind, start, REPAIR_SCAN_MAX):
            location = int.from_bytes(loc, "big")
            if location >= stop or len(entries) == DIGEST_ENTRIES_MAX:
                break
            seen, job.at = seen + 1, location + 1
            row = self._shelf.read(kind, loc) if location ^ job.contact.id < job.radius else None
            if row is not None:
                entries.append(entry(kind, loc, row, self._summary))
                job.told.append((kind, loc))
        if job.at >= stop or (seen < REPAIR_SCAN_MAX and len(entries) < DIGEST_ENTRIES_MAX):
            job.next_kind()
        return entries

    def wanted(self, entries: bytes) -> bytes:
        """Return the bitmap of what we lack of a neighbour's DIGEST."""
        return wanted(
            entries, self._shelf, own_id=self._own_id, radius=self._radius, summary=self._summary
        )
