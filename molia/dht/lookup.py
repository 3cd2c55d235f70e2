"""A lookup: whom to ask, whom next, and when there is nothing more to learn.

A core: `take_probes` says what to send, `on_reply`, `on_failed` and `on_deadline` take what
happened. It always ends: probes, candidates and time are bounded.
Source: docs/reference/lookups.md.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Final

from molia.base import limits
from molia.base.entropy import Entropy
from molia.base.ids import PeerKey
from molia.dht.blur import blurred, real_bits, region_bits
from molia.dht.candidates import (
    ANSWERED,
    ASKED,
    FAILED,
    HEARD,
    HELD,
    SLOW,
    Candidate,
    Candidates,
)
from molia.dht.contact import ID_BITS, Contact
from molia.dht.outcome import End, Goal, LookupConfig, LookupResult, Probe, Step
from molia.dht.pace import Pace
from molia.dht.size import K, SizeEstimate

BETA: Final = 3
"""FIND ends when so many of the closest known have answered; GET gives up nearest-first then."""
DENSE_MIN: Final = 12
"""Answers in the region with which it counts as covered."""
DENSE_MAX: Final = 43
"""More contacts in the region than this are not by chance: 24 + 4 sqrt(24)."""
OPINIONS: Final = 12
"""Answers from outside the region, each about another place of it, with which nobody who
surrounds a key can hide the rest of its region."""
QUORUM: Final = 3
RESEEDS_MAX: Final = 2
RESEED_CONTACTS: Final = 12
PUT_OFF_MAX: Final = 4
"""Contacts put off for their network that a find asks after all, since nobody nearer answered."""
_NARROW: Final = 1 << ID_BITS - 4
"""A region of more than a sixteenth of the space is most of the network."""
_HURRY_AFTER_S: Final = 0.4
_HURRY_STEP_S: Final = 0.05
_TARGET_BYTES: Final = ID_BITS // 8

Timer = tuple[float, int, Candidate, bool]
"""When, a serial number, whom, and whether the answer is then given up."""


class Lookup:
    """One lookup of a target."""

    def __init__(
        self, goal: Goal, target: int, seeds: Sequence[Contact], *, config: LookupConfig,
        entropy: Entropy, size: SizeEstimate, pace: Pace, now_s: float,
        own_key: PeerKey | None = None, traced: bool = False,
        more_seeds: Callable[[int], Iterable[Contact]] | None = None,
    ) -> None:  # fmt: skip
        """Begin; nothing is asked before `take_probes`.

        seeds: 40 verified contacts nearest to the target, then 20 of the others, oldest first.
        more_seeds: up to so many verified contacts at random, for when the seeds led nowhere.
        """
        self.goal, self.target = goal, target
        self._config, self._pace, self._more_seeds = config, pace, more_seeds
        own = None if own_key is None else own_key.key
        self._candidates = Candidates(target, size.radius, own, entropy)
        self._real = target.to_bytes(_TARGET_BYTES, "big")
        self._entropy = entropy
        self._hidden = self._blur(real_bits(size.nodes))
        self._started_s = self._now_s = now_s
        self._is_walk = goal in (Goal.COLLECT, Goal.REGION)
        self._flights: dict[bytes, Candidate] = {}
        self._timers: list[Timer] = []
        self._answered: list[int] = []
        self._again: deque[Candidate] = deque()
        self._values: list[tuple[Contact, object]] = []
        self._near_answered = self._near_in_flight = self._slow = self._misses = self._opinions = 0
        self._probes = self._failures = self._late = self._turn = self._serial = 0
        self._reseeds, self._is_widened = 0, False
        self._put_off_left = PUT_OFF_MAX
        self._end: End | None = None
        self._steps: list[Step] | None = [] if traced else None
        self.steps_dropped = 0
        self._candidates.seed(seeds)
        self._look_around()
        self._settle()

    # ------------------------------------------------------------------ doors

    @property
    def is_done(self) -> bool:
        """Whether it has ended; late replies change nothing any more."""
        return self._end is not None

    @property
    def radius(self) -> int:
        """Distance within which a contact lies in the region."""
        return self._candidates.radius

    @property
    def values(self) -> Sequence[tuple[Contact, object]]:
        """Values so far, with who gave them."""
        return self._values

    def target_for(self, contact: Contact) -> bytes:
        """Return the target to tell a node: to those outside the region, which region it is.

        A walk draws another place of the region each time: those who crowd around the target are
        not the closest to it.
        """
        if contact.id ^ self.target < self._candidates.radius:
            return self._real
        if self._is_walk:
            return self._blur(region_bits(self._candidates.radius))
        return self._hidden

    def feeds_pace(self, contact: Contact) -> bool:
        """Tell whether a round trip to it says what is usual: give `Pace` no others.

        Who surrounds a key could make all lookups of it slow; in a small network that is everybody.
        """
        return (
            contact.id ^ self.target >= self._candidates.radius or self._candidates.radius > _NARROW
        )

    def take_probes(self, limit: int = limits.LOOKUP_FLIGHT_MAX) -> list[Probe]:
        """Return the requests to send now, at most `limit`; each ends in a reply or a failure."""
        probes: list[Probe] = []
        if self._end is not None:
            return probes
        slots = min(limit, self._slots() - len(self._flights))
        while len(probes) < slots:
            candidate = self._choose()
            if candidate is None:
                break
            probes.append(self._ask(candidate))
        self._settle()
        return probes

    def on_reply(
        self, contact: Contact, closer: Sequence[Contact], value: object | None, now_s: float
    ) -> None:
        """Take an answer. closer: contacts it names, without impossible ones.

        value: what it holds, verified; None when it holds nothing or was not asked.
        """
        self._now_s = now_s
        candidate = self._candidates.by_contact.get(contact.encoded)
        if self._end is not None or candidate is None or not self._land(candidate):
            return
        self._count_answer(candidate)
        self._opinions += self._is_walk and not candidate.is_near
        self._candidates.hear(
            closer, candidate.path, nearest=not self._is_walk or self.goal is Goal.FIND
        )
        if self._steps is not None:
            self._step("answered", contact, f"named {len(closer)}")
        if value is not None:
            self._take_value(contact, value)
        elif candidate.asks:
            self._misses += 1
        self._look_around()
        self._look_back()
        self._settle()

    def on_failed(self, contact: Contact, now_s: float, *, was_asked: bool = True) -> None:
        """Take that a peer gives no answer, or a refusal.

        was_asked: False if it could not be asked; then it may be there as well as not.
        """
        self._now_s = now_s
        candidate = self._candidates.by_contact.get(contact.encoded)
        if self._end is None and candidate is not None and candidate.state in (ASKED, SLOW):
            self._fail(candidate, was_asked=was_asked)
            self._look_back()
            self._settle()

    def next_deadline_s(self) -> float | None:
        """Return when to call `on_deadline`; None once it is done."""
        if self._end is not None:
            return None
        timers = self._timers
        while timers and timers[0][2].state != (SLOW if timers[0][3] else ASKED):
            heappop(timers)
        last_s = self._started_s + self._config.deadline_s
        return min(last_s, timers[0][0]) if timers else last_s

    def on_deadline(self, now_s: float) -> None:
        """Take that time has passed: late peers free their slots, lost ones fail."""
        self._now_s = now_s
        while self._end is None and self._timers and self._timers[0][0] <= now_s:
            _, _, candidate, is_hard = heappop(self._timers)
            if is_hard and candidate.state == SLOW:
                self._fail(candidate)
            elif not is_hard and candidate.state == ASKED:
                self._slow_down(candidate)
        if self._end is None and now_s >= self._started_s + self._config.deadline_s:
            self._finish(End.DEADLINE)
        self._look_back()
        self._settle()

    def stop(self, now_s: float) -> None:
        """End it: the caller has enough."""
        self._now_s = now_s
        if self._end is None:
            self._finish(End.STOPPED)

    def take_steps(self) -> list[Step]:
        """Return what happened since the last call; empty unless traced."""
        steps, self._steps = self._steps, None if self._steps is None else []
        return steps or []

    @property
    def result(self) -> LookupResult:
        """What came of it; call it once it is done."""
        assert self._end is not None, "a lookup that goes on has no result"
        candidates = self._candidates
        return LookupResult(
            end=self._end,
            closest=candidates.closest(K, ANSWERED),
            heard=candidates.closest(K, HEARD, ASKED, SLOW, ANSWERED, HELD),
            responders=candidates.closest(None, ANSWERED, near=True),
            values=tuple(self._values),
            probes=self._probes,
            answers=len(self._answered),
            failures=self._failures,
            late=self._late,
            is_attacked=candidates.near_heard > DENSE_MAX,
            took_s=self._now_s - self._started_s,
        )

    # ------------------------------------------------------------------ asking

    def _blur(self, bits: int) -> bytes:
        target = blurred(self.target, bits=bits, entropy=self._entropy)
        return target.to_bytes(_TARGET_BYTES, "big")

    def _slots(self) -> int:
        """Return how many requests may wait for answers that are not late yet."""
        is_inside = self._near_answered > 0 or (self._is_walk and self._near_in_flight > 0)
        slots = self._config.region_parallelism if is_inside else self._config.parallelism
        if self._candidates.is_open:
            slots *= 2
        hurried_s = self._now_s - self._started_s - _HURRY_AFTER_S
        if hurried_s > 0:  # whoever answers as late as it may shall not set the pace
            slots += int(hurried_s / _HURRY_STEP_S)
        return min(slots, limits.LOOKUP_FLIGHT_MAX)

    def _cap(self) -> int:
        if not self._candidates.is_open:
            return limits.LOOKUP_PROBES_MAX
        if self.goal is Goal.REGION:
            return limits.LOOKUP_ATTACKED_WRITE_PROBES_MAX
        return limits.LOOKUP_ATTACKED_READ_PROBES_MAX

    def _ask(self, candidate: Candidate) -> Probe:
        contact = candidate.contact
        self._candidates.on_asked(candidate)
        candidate.asks = candidate.is_near
        self._flights[contact.encoded] = candidate
        self._near_in_flight += candidate.is_near
        self._probes += 1
        soft_s = self._pace.soft_s(contact, hurried=self._candidates.is_open)
        self._time(candidate, soft_s, is_hard=False)
        if self._steps is not None:
            self._step("asked", contact, "in the region" if candidate.is_near else "on the way")
        return Probe(contact, candidate.asks)

    def _time(self, candidate: Candidate, wait_s: float, *, is_hard: bool) -> None:
        self._serial += 1
        heappush(self._timers, (self._now_s + wait_s, self._serial, candidate, is_hard))

    def _choose(self) -> Candidate | None:
        """Return whom to ask next; None when there is nobody, or somebody to be waited for."""
        if self._probes >= self._cap():
            return None
        while self._again:
            candidate = self._again.popleft()
            if candidate.state == ANSWERED or self._candidates.may_ask(candidate):
                return candidate
        if not self._is_walk:
            return self._candidates.nearest() or self._fall_back()
        return self._choose_in_region()

    def _choose_in_region(self) -> Candidate | None:
        """Two of three at random in the region, one the nearest to it of the next path."""
        near = self._candidates.in_region()
        if near is None:
            if self._candidates.is_open or not self._is_enough(len(self._flights)):
                return self._candidates.of_next_path() or self._last_resort()
            return self._rest_of_region()
        self._turn = (self._turn + 1) % 3
        if self._turn == 0:
            return self._candidates.of_next_path() or near
        return near

    def _is_enough(self, in_flight: int) -> bool:
        """Tell whether the region counts as covered once all known in it have answered."""
        near = self._near_in_flight if in_flight else 0
        opinions = self._opinions + in_flight - near
        return self._near_answered + near >= DENSE_MIN and opinions >= OPINIONS

    def _last_resort(self) -> Candidate | None:
        if self._candidates.is_open or self._near_answered < DENSE_MIN:
            return self._fall_back()
        return self._rest_of_region()

    def _rest_of_region(self) -> Candidate | None:
        """Return one of those put off, since a value may lie with them alone."""
        is_read = self.goal in (Goal.GET, Goal.GET_QUORUM)
        if is_read and not self._flights and self._candidates.take_deferred():
            return self._candidates.in_region()
        return None

    def _fall_back(self) -> Candidate | None:
        """Return one of those put off, of fresh seeds, or of a wider region, in this order."""
        if self._flights:
            return None
        self._is_walk = True
        candidates = self._candidates
        while True:
            if candidates.take_deferred() or candidates.take_deferred(far=True):
                pass
            elif self._more_seeds is not None and self._reseeds < RESEEDS_MAX:
                self._reseeds += 1
                self._again.extend(candidates.seed(self._more_seeds(RESEED_CONTACTS)))
            elif not self._is_widened:
                self._widen()
            else:
                return None
            while self._again:
                candidate = self._again.popleft()
                if candidate.state == ANSWERED or candidates.may_ask(candidate):
                    return candidate
            candidate_or_none = candidates.in_region() or candidates.of_next_path()
            if candidate_or_none is not None:
                return candidate_or_none

    def _widen(self) -> None:
        """Take the closest there are for the region: it was reckoned too small."""
        self._is_widened = True
        new = self._candidates.widen()
        self._near_answered += sum(candidate.has_answered for candidate in new)
        if self.goal not in (Goal.FIND, Goal.REGION):
            self._again.extend(c for c in new if c.state == ANSWERED)
        if self._steps is not None and new:
            self._step("widened", None, f"{len(new)} more in the region")

    # ------------------------------------------------------------------ what happened

    def _land(self, candidate: Candidate) -> bool:
        """Take a candidate out of the air; tell whether an answer of it was asked for."""
        if candidate.state == ASKED:
            del self._flights[candidate.contact.encoded]
            self._near_in_flight -= candidate.asks
        elif candidate.state == SLOW:
            self._slow -= 1
        elif candidate.state != FAILED:
            return False
        candidate.state = ANSWERED
        return True

    def _count_answer(self, candidate: Candidate) -> None:
        if not candidate.has_answered:
            candidate.has_answered = True
            insort(self._answered, candidate.distance)
            self._near_answered += candidate.is_near

    def _fail(self, candidate: Candidate, *, was_asked: bool = True) -> None:
        self._land(candidate)
        self._candidates.on_failed(candidate)
        if not was_asked:
            candidate.state = HELD
        self._failures += 1
        if self._steps is not None:
            self._step("failed", candidate.contact, "")

    def _slow_down(self, candidate: Candidate) -> None:
        self._land(candidate)
        candidate.state = SLOW
        self._slow += 1
        self._late += 1
        self._time(candidate, self._pace.hard_s(), is_hard=True)
        if self._steps is not None:
            self._step("late", candidate.contact, "")

    def _take_value(self, contact: Contact, value: object) -> None:
        self._values.append((contact, value))
        if self._steps is not None:
            self._step("value", contact, "")
        if self.goal is Goal.GET:
            self._finish(End.FOUND)
        elif self.goal is Goal.GET_QUORUM:
            groups = dict.fromkeys(holder.group for holder, _ in self._values)
            if len(groups) >= QUORUM:
                self._finish(End.FOUND)

    def _look_around(self) -> None:
        """Change the way of going about it if the region looks odd, or the nearest had nothing."""
        dense = self._candidates.near_heard > DENSE_MAX
        if dense and not self._candidates.is_open and self.goal is not Goal.FIND:
            self._candidates.open()
            self._walk_region("more nodes in the region than there can be")
        elif not self._is_walk and self._has_closest():
            if self.goal is not Goal.FIND:
                self._walk_region("the closest have nothing")
            elif dense or self._candidates.near_heard < DENSE_MIN:
                self._walk_region("too many or too few in the region")
        elif not self._is_walk and self._misses >= BETA:
            self._walk_region("the nearest have nothing")

    def _look_back(self) -> None:
        """Before a find ends, take up whom it put off though they lie closer than who answered."""
        if self.goal is not Goal.FIND or self._end is not None or not self._put_off_left:
            return
        if self._answered and (self._is_found() or (self._is_walk and self._is_covered())):
            bar = self._answered[min(BETA, len(self._answered)) - 1]
            taken = self._candidates.take_nearer(bar, self._put_off_left)
            self._put_off_left -= len(taken)
            self._again.extend(taken)

    def _walk_region(self, why: str) -> None:
        self._is_walk = True
        if self._steps is not None:
            self._step("mode", None, why)

    # ------------------------------------------------------------------ ending

    def _has_closest(self) -> bool:
        """Tell whether the closest known that are not late have answered."""
        if not self._answered:
            return False
        bar = self._answered[min(BETA, len(self._answered)) - 1]
        if len(self._answered) < BETA:
            return not self._flights and self._candidates.nearest() is None
        for candidate in self._flights.values():
            if candidate.distance < bar:
                return False
        nearest = self._candidates.nearest()
        return nearest is None or nearest.distance > bar

    def _settle(self) -> None:
        """End it if there is nothing more to learn."""
        if self._end is not None:
            return
        if self.goal is Goal.FIND and self._is_found():
            self._finish(End.FOUND)
        elif self._is_walk and self._is_covered():
            self._finish(End.COVERED)
        elif not self._flights and not self._must_wait():
            self._end_idle()

    def _is_found(self) -> bool:
        if self._answered and self._answered[0] == 0:
            return True
        heard = self._candidates.near_heard
        is_even = DENSE_MIN <= heard <= DENSE_MAX or self._near_answered >= DENSE_MIN
        return is_even and self._has_closest()

    def _is_covered(self) -> bool:
        """Tell whether all of the region was asked and enough of it has answered.

        Of an attacked one that says nothing: it is walked until there is nobody left to ask.
        """
        if self._candidates.is_open:
            return False
        if not self._is_enough(0) or self._near_in_flight or self._again:
            return False
        if self._candidates.in_region() is not None:
            return False
        if self.goal in (Goal.GET, Goal.GET_QUORUM):
            return not self._slow and self._rest_of_region() is None and not self._flights
        return True

    def _must_wait(self) -> bool:
        """Tell whether a late answer could still make a difference."""
        if self.goal is Goal.FIND:
            return self._slow > 0 and len(self._answered) < BETA
        is_read = self.goal in (Goal.GET, Goal.GET_QUORUM)
        return self._slow > 0 and (is_read or self._near_answered < DENSE_MIN)

    def _end_idle(self) -> None:
        if self._probes >= self._cap():
            self._finish(End.CAPPED)
            return
        candidate = self._choose()
        if candidate is None:
            is_enough = self._near_answered >= DENSE_MIN
            self._finish(End.COVERED if is_enough else End.EXHAUSTED)
        elif candidate.state != HEARD or not candidate.is_near:
            self._again.appendleft(candidate)

    def _finish(self, end: End) -> None:
        self._end = end
        self._timers.clear()
        if self._steps is not None:
            self._step("ended", None, end.value)

    def _step(self, kind: str, contact: Contact | None, detail: str) -> None:
        assert self._steps is not None
        if len(self._steps) < limits.LOOKUP_STEPS_MAX:
            self._steps.append(Step(kind, contact, self._now_s, detail))
        else:
            self.steps_dropped += 1
