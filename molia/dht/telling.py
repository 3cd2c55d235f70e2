"""Telling neighbours what we hold of their regions, and putting there what they lack. A core.

Each neighbour is a job of its own: a digest of up to 80 rows, its answer, the rows that are wanted,
and so on to the end of its region. All jobs share one budget of bytes.
Source: docs/reference/upkeep.md, "Replicas".
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from molia.base.limits import (
    DIGEST_ENTRIES_MAX,
    REPAIR_JOBS_MAX,
    REPAIR_PUSHES_MAX,
    REPAIR_SCAN_MAX,
)
from molia.dht.budget import RepairBudget
from molia.dht.contact import ID_BITS, Contact
from molia.dht.digest import KINDS, SummaryOf, entry
from molia.dht.held import Summary, digest_of, wanted_in
from molia.dht.ports import Shelf
from molia.dht.sweep import tile_bits
from molia.wire.dht_messages import DIGEST_ENTRY_SIZE

ANSWER_S: Final = 30.0
PUSH_FAILURES_MAX: Final = 3
MESSAGE_BYTES: Final = 80
"""What a message costs beside its body: packet, frame, and the answer's share."""


class Tell(NamedTuple):
    """Send a DIGEST with these entries; its reply goes to `on_told`."""

    contact: Contact
    digest: bytes


class Push(NamedTuple):
    """Put a row at a neighbour, as PUT or ADD_PROVIDER; then call `on_pushed`."""

    contact: Contact
    kind: int
    loc: bytes
    row: bytes


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


class Telling:
    """The neighbours that are being told; bounded in number, rows a step, and bytes a second."""

    def __init__(self, shelf: Shelf, summary_of: SummaryOf, budget: RepairBudget) -> None:
        self._shelf, self._summary_of, self._budget = shelf, summary_of, budget
        self._jobs: dict[int, _Job] = {}
        self._effects: list[Tell | Push] = []
        self._finished: list[tuple[Contact, int]] = []
        self.told = self.pushed = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def begin(self, contact: Contact, radius: int, due_s: float) -> bool:
        """Tell a neighbour, from a moment on, what we hold within a radius of it.

        False: it is being told already, or too many are.
        """
        if len(self._jobs) >= REPAIR_JOBS_MAX or contact.id in self._jobs:
            return False
        job = self._jobs[contact.id] = _Job(contact, radius, due_s, kind_index=-1)
        job.next_kind()
        return True

    def next_deadline_s(self) -> float | None:
        """Return when to call `on_deadline`; None while nobody is being told."""
        return min((job.due_s for job in self._jobs.values()), default=None)

    def on_deadline(self, now_s: float) -> None:
        """Do the next bit of each job that is due."""
        for job in [job for job in self._jobs.values() if job.due_s <= now_s]:
            self._step(job, now_s)

    def take_effects(self) -> list[Tell | Push]:
        """Return what to send since the last call."""
        effects, self._effects = self._effects, []
        return effects

    def take_finished(self) -> list[tuple[Contact, int]]:
        """Return who was told all since the last call, and within which radius."""
        finished, self._finished = self._finished, []
        return finished

    def on_told(self, contact: Contact, bitmap: bytes | None, now_s: float) -> None:
        """Take the reply to a DIGEST; None: there was none."""
        job = self._jobs.get(contact.id)
        if job is None or not job.told:
            return
        if bitmap is None:
            del self._jobs[contact.id]
            return
        wanted = wanted_in(bitmap, len(job.told))
        job.lacking.extend(
            row for row, is_lacking in zip(job.told, wanted, strict=True) if is_lacking
        )
        job.told, job.due_s = [], now_s

    def on_pushed(self, contact: Contact, now_s: float, *, ok: bool) -> None:
        """Take the end of a `Push`; ok: it was answered, whatever the answer."""
        job = self._jobs.get(contact.id)
        if job is None or not job.pushes:
            return
        job.pushes -= 1
        job.failures += not ok
        job.due_s = now_s
        if job.failures >= PUSH_FAILURES_MAX:
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
            if not self._budget.is_open(now_s):
                job.due_s = self._budget.open_s(now_s)
                return
            self._push(job, now_s)
        if not job.lacking and not job.pushes:
            self._list_more(job, now_s)

    def _push(self, job: _Job, now_s: float) -> None:
        kind, loc = job.lacking.popleft()
        row = self._shelf.read(kind, loc)
        if row is not None:
            self._effects.append(Push(job.contact, kind, loc, row))
            self._budget.spend(len(row) + MESSAGE_BYTES, now_s)
            job.pushes += 1
            job.expect(now_s)
            self.pushed += 1

    def _list_more(self, job: _Job, now_s: float) -> None:
        """Send the next DIGEST; at the end, note that the neighbour knows all."""
        if not self._budget.is_open(now_s):
            job.due_s = self._budget.open_s(now_s)
            return
        entries = self._entries(job) if job.kind_index < len(KINDS) else []
        if entries:
            self._effects.append(Tell(job.contact, digest_of(entries)))
            self._budget.spend(len(entries) * DIGEST_ENTRY_SIZE + MESSAGE_BYTES, now_s)
            job.expect(now_s)
            self.told += 1
        elif job.kind_index >= len(KINDS):
            del self._jobs[job.contact.id]
            self._finished.append((job.contact, job.radius))
        else:
            job.due_s = now_s  # nothing in this part: the next one is looked at

    def _entries(self, job: _Job) -> list[Summary]:
        """Return the next entries for a neighbour, after a bounded number of rows."""
        entries: list[Summary] = []
        kind, seen, stop = KINDS[job.kind_index], 0, job.stop
        start = job.at.to_bytes(ID_BITS // 8, "big")
        for loc in self._shelf.locations(kind, start, REPAIR_SCAN_MAX):
            location = int.from_bytes(loc, "big")
            if location >= stop or len(entries) == DIGEST_ENTRIES_MAX:
                break
            seen, job.at = seen + 1, location + 1
            row = self._shelf.read(kind, loc) if location ^ job.contact.id < job.radius else None
            one = None if row is None else entry(kind, loc, row, self._summary_of)
            if one is not None:
                entries.append(one)
                job.told.append((kind, loc))
        if job.at >= stop or (seen < REPAIR_SCAN_MAX and len(entries) < DIGEST_ENTRIES_MAX):
            job.next_kind()
        return entries
