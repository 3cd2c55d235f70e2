"""When an owner signs and puts its mutable records again. A core.

Each record is put every 8 h. Near the end of its day period it is put at once more, since it then
lies at two locations: this period's and the next's. Waiting is reckoned on the monotonic clock, so
a wall clock that jumps moves nothing but the periods.
Source: docs/reference/upkeep.md, "Own records"; docs/reference/ids.md.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final

from molia.base.entropy import Entropy
from molia.base.hashing import blake3_digest
from molia.base.limits import (
    OWN_RECORD_NAME_MAX,
    OWN_RECORDS_MAX,
    REPUBLISH_FLIGHT_MAX,
    REPUBLISH_GAP_S,
)
from molia.base.now import Now
from molia.dht.blinding import EDGE_S, PERIOD_S
from molia.dht.jitter import between

REPEAT_S: Final = 8 * 3_600.0
EDGE_SPREAD_S: Final = 3_000.0
"""Over so long the puts for a next period are spread: readers ask there an hour before it."""
RETRY_FIRST_S, RETRY_MAX_S = 30.0, 3_600.0
LOST_S: Final = 600.0
"""A put that nobody reported the end of has failed."""
JUMP_S: Final = 60.0
_VERSION: Final = 1
_HEAD = struct.Struct("<BI")
_ROW = struct.Struct("<IIdddIIB")
_CHECK_SIZE: Final = 8


def period_of(unix_s: float, offset_s: int) -> int:
    """Return the number of the day period at a moment, for a key with this offset."""
    return int(unix_s + offset_s) // PERIOD_S


@dataclass(slots=True)
class _Plan:
    """One record: what was stored when, and when it is next due (monotonic)."""

    offset_s: int
    lifetime_s: int
    stored_unix_s: float = 0.0
    first_period: int = 0
    last_period: int = 0
    failures: int = 0
    repeat_s: float = 0.0
    due_s: float = 0.0

    def covers(self, unix_s: float) -> bool:
        """Tell whether the record lies where readers look for it at this moment."""
        now, soon = self._periods(unix_s)
        return self.first_period <= now and soon <= self.last_period

    def _periods(self, unix_s: float) -> tuple[int, int]:
        return period_of(unix_s, self.offset_s), period_of(unix_s + EDGE_S, self.offset_s)

    def on_put(self, unix_s: float) -> None:
        """Remember where a put that began at this moment stores the record."""
        self.first_period, self.last_period = self._periods(unix_s)

    def edge_unix_s(self) -> int:
        """Return the moment from which one more period must hold the record."""
        return (self.last_period + 1) * PERIOD_S - self.offset_s - EDGE_S

    def is_ending(self, unix_s: float) -> bool:
        """Tell whether the record is in the last third of its life."""
        return self.stored_unix_s + self.lifetime_s - unix_s < self.lifetime_s / 3


class Republisher:
    """The schedule of a node's own mutable records.

    A record is known by a name of its owner's choice (`RecordAddress` in bytes, say); which
    locations a put goes to follows from the moment, see `blinding.locations`.
    """

    def __init__(self, *, entropy: Entropy) -> None:
        self._entropy = entropy
        self._plans: dict[bytes, _Plan] = {}
        self._heap: list[tuple[float, bytes]] = []
        self._flying: dict[bytes, Now] = {}
        """Names handed out, oldest first, with the moment of it."""
        self._free_s = 0.0
        self._seen: Now | None = None
        self.jumps = 0
        """How often the wall clock was seen to jump."""
        self.failures = 0
        """Puts that failed."""

    def __len__(self) -> int:
        return len(self._plans)

    def add(
        self, name: bytes, now: Now, *, offset_s: int, lifetime_s: int = PERIOD_S,
        is_stored: bool = False,
    ) -> bool:  # fmt: skip
        """Keep a record alive from now on; False when there are too many.

        offset_s: `blinding.period_offset_s` of its key. lifetime_s: how long a signature of it is
        valid. is_stored: it has just been put; otherwise it is due at once. One that is known
        already keeps its schedule.
        """
        assert 0 < len(name) <= OWN_RECORD_NAME_MAX, "a name is short"
        assert 0 <= offset_s < PERIOD_S, "an offset lies within a day"
        if name not in self._plans:
            if len(self._plans) >= OWN_RECORDS_MAX:
                return False
            self._plans[name] = _Plan(offset_s, max(1, lifetime_s))
            self._wait_until(name, now.mono_s)
        if is_stored:
            self.on_done(name, now, ok=True)
        return True

    def remove(self, name: bytes) -> None:
        """Let a record expire."""
        self._plans.pop(name, None)
        self._flying.pop(name, None)

    def due(self, now: Now) -> list[bytes]:
        """Return the records to sign and put now; each is out until `on_done`.

        At most `REPUBLISH_FLIGHT_MAX` are out at once, and more than that never begin together.
        """
        self._notice_jump(now)
        for name in self._lost(now.mono_s):
            self.on_done(name, now, ok=False)
        names: list[bytes] = []
        while self._top() is not None and self._heap[0][0] <= now.mono_s and self._has_room(now):
            _, name = heappop(self._heap)
            self._flying[name] = now
            self._free_s = max(self._free_s, now.mono_s) + REPUBLISH_GAP_S
            names.append(name)
        return names

    def on_done(self, name: bytes, now: Now, *, ok: bool) -> None:
        """Take the end of a put: enough nodes stored the record, or not."""
        began = self._flying.pop(name, now)
        plan = self._plans.get(name)
        if plan is None:
            return
        if not ok:
            self.failures += 1
            plan.failures = min(plan.failures + 1, 255)
            wait_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(plan.failures - 1, 10))
            self._wait_until(name, now.mono_s + wait_s * between(self._entropy, 0.5, 1.0))
            return
        plan.failures, plan.stored_unix_s = 0, now.unix_s
        plan.on_put(began.unix_s)
        repeat_s = min(REPEAT_S, plan.lifetime_s / 3)
        plan.repeat_s = now.mono_s + repeat_s * between(self._entropy, 0.85, 1.0)
        self._schedule(name, plan, now)

    def next_deadline_s(self) -> float | None:
        """Return when `due` has something to give."""
        if len(self._flying) >= REPUBLISH_FLIGHT_MAX:
            return next(iter(self._flying.values())).mono_s + LOST_S
        top = self._top()
        times = [] if top is None else [max(top, self._free_s - self._burst_s())]
        times += [began.mono_s + LOST_S for began in list(self._flying.values())[:1]]
        return min(times, default=None)

    # -- the order of things

    def _top(self) -> float | None:
        """Return when the next record is due, after throwing away what was planned anew."""
        while self._heap:
            due_s, name = self._heap[0]
            plan = self._plans.get(name)
            if plan is not None and plan.due_s == due_s and name not in self._flying:
                return due_s
            heappop(self._heap)
        return None

    def _has_room(self, now: Now) -> bool:
        return (
            len(self._flying) < REPUBLISH_FLIGHT_MAX
            and self._free_s - self._burst_s() <= now.mono_s
        )

    @staticmethod
    def _burst_s() -> float:
        return (REPUBLISH_FLIGHT_MAX - 1) * REPUBLISH_GAP_S

    def _lost(self, now_s: float) -> list[bytes]:
        return [name for name, began in self._flying.items() if began.mono_s + LOST_S <= now_s]

    def _wait_until(self, name: bytes, due_s: float) -> None:
        self._plans[name].due_s = due_s
        heappush(self._heap, (due_s, name))
        if len(self._heap) > 2 * len(self._plans) + 64:
            kept = ((p.due_s, n) for n, p in self._plans.items() if n not in self._flying)
            self._heap = list(kept)
            heapify(self._heap)

    def _schedule(self, name: bytes, plan: _Plan, now: Now) -> None:
        """Plan a record's next put: when its 8 h are over, or an edge or its end comes first."""
        due_s = plan.repeat_s
        if plan.covers(now.unix_s) and not plan.is_ending(now.unix_s):
            edge_s = now.mono_s + plan.edge_unix_s() - now.unix_s
            due_s = min(due_s, edge_s + between(self._entropy, 0.0, EDGE_SPREAD_S))
        else:
            due_s = min(due_s, now.mono_s + between(self._entropy, 0.0, JUMP_S))
        self._wait_until(name, due_s)

    def _notice_jump(self, now: Now) -> None:
        """Plan all anew when the wall clock went another way than time did."""
        seen, self._seen = self._seen, now
        if seen is None:
            return
        if abs((now.unix_s - seen.unix_s) - (now.mono_s - seen.mono_s)) > JUMP_S:
            self.jumps += 1
            for name, plan in self._plans.items():
                if not plan.failures and plan.stored_unix_s and name not in self._flying:
                    self._schedule(name, plan, now)

    # -- over restarts

    def encode(self, now: Now) -> bytes:
        """Return the schedule as bytes, for `restore`.

        Layout: docs/reference/upkeep.md, "Saved schedules".
        """
        rows = [self._row(name, plan, now) for name, plan in self._plans.items()]
        body = _HEAD.pack(_VERSION, len(rows)) + b"".join(rows)
        return body + blake3_digest(body)[:_CHECK_SIZE]

    @staticmethod
    def _row(name: bytes, plan: _Plan, now: Now) -> bytes:
        to_unix_s = now.unix_s - now.mono_s
        return bytes((len(name),)) + name + _ROW.pack(
            plan.offset_s, plan.lifetime_s, plan.stored_unix_s, plan.repeat_s + to_unix_s,
            plan.due_s + to_unix_s, plan.first_period, plan.last_period, plan.failures,
        )  # fmt: skip

    def restore(self, state: bytes, now: Now) -> bool:
        """Take up a saved schedule; False, and nothing taken, when the bytes are not one.

        Records that a node knows of otherwise are added as well: `add` leaves these alone.
        """
        rows = list(_rows(state))
        if not rows or rows[-1] is not None:
            return False
        for row in rows[:-1]:
            assert row is not None, "only the last row is the mark of the end"
            name, plan = row
            wait_s = plan.due_s - now.unix_s
            plan.repeat_s += now.mono_s - now.unix_s
            plan.repeat_s = min(plan.repeat_s, now.mono_s + REPEAT_S)
            self._plans[name] = plan
            if plan.stored_unix_s and not plan.failures:
                self._schedule(name, plan, now)
            else:
                self._wait_until(name, now.mono_s + min(max(wait_s, 0.0), RETRY_MAX_S))
        return True


def _rows(state: bytes) -> Iterator[tuple[bytes, _Plan] | None]:
    """Yield the rows of a saved schedule, then None; without the None it is broken."""
    body, check = state[:-_CHECK_SIZE], state[-_CHECK_SIZE:]
    if len(body) < _HEAD.size or blake3_digest(body)[:_CHECK_SIZE] != check:
        return
    version, count = _HEAD.unpack_from(body)
    if version != _VERSION or count > OWN_RECORDS_MAX:
        return
    at = _HEAD.size
    for _ in range(count):
        stop = at + 1 + body[at] if at < len(body) else at
        if not 1 < stop - at <= OWN_RECORD_NAME_MAX + 1 or stop + _ROW.size > len(body):
            return
        offset, life, stored, repeat, due, first, last, failures = _ROW.unpack_from(body, stop)
        if offset >= PERIOD_S or not life or not all(map(_is_time, (stored, repeat, due))):
            return
        yield body[at + 1 : stop], _Plan(offset, life, stored, first, last, failures, repeat, due)
        at = stop + _ROW.size
    if at == len(body):
        yield None


def _is_time(unix_s: float) -> bool:
    return -(2.0**40) <= unix_s < 2.0**40  # false for what is no number
