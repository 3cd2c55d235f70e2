"""The textbook's lookup, for comparison: the nearest first, until the k nearest have answered.

No region, no origins, no networks counted, nothing put off, no attack noticed: what a cluster of
liars next to a key does to it is why `dht/lookup.py` is as it is.
Source: Maymounkov and Mazières, "Kademlia" (2002), section 2.3.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Sequence

from molia.base import limits
from molia.base.entropy import Entropy
from molia.base.ids import PeerKey
from molia.dht.contact import ID_BITS, Contact
from molia.dht.lookup import Lookup
from molia.dht.outcome import End, Goal, LookupConfig, LookupResult, Probe, Step
from molia.dht.pace import Pace
from molia.dht.size import K, SizeEstimate

_HEARD, _ASKED, _LATE, _ANSWERED, _FAILED = range(5)


class PlainLookup(Lookup):
    """One lookup; the doors are those of `Lookup`."""

    def __init__(
        self, goal: Goal, target: int, seeds: Sequence[Contact], *, config: LookupConfig,
        entropy: Entropy, size: SizeEstimate, pace: Pace, now_s: float,  # noqa: ARG002 - as `Lookup`
        own_key: PeerKey | None = None, traced: bool = False,  # noqa: ARG002 - as `Lookup`
        more_seeds: Callable[[int], Iterable[Contact]] | None = None,  # noqa: ARG002 - as `Lookup`
    ) -> None:  # fmt: skip
        """Begin; of what `Lookup` is given, the estimate, the dice and more seeds are not used."""
        self.goal, self.target = goal, target
        self._real_target = target.to_bytes(ID_BITS // 8, "big")
        self._settings, self._paces, self._own = config, pace, own_key
        self._begun_s = self._at_s = now_s
        self._known: list[tuple[int, int, Contact]] = []
        """By distance; the number in between keeps contacts from being compared."""
        self._states: dict[bytes, int] = {}
        self._due_s: dict[Contact, float] = {}
        self._found: list[tuple[Contact, object]] = []
        self._asked_count = self._late_count = 0
        self._ended: End | None = None
        for contact in seeds:
            self._hear(contact)
        self._look()

    @property
    def is_done(self) -> bool:
        """Whether it has ended."""
        return self._ended is not None

    def target_for(self, contact: Contact) -> bytes:  # noqa: ARG002 - all are told
        """Return the target: everybody is told it."""
        return self._real_target

    def take_probes(self, limit: int = limits.LOOKUP_FLIGHT_MAX) -> list[Probe]:
        """Return the requests to send now."""
        probes: list[Probe] = []
        flying = sum(state == _ASKED for state in self._states.values())
        while self._ended is None and len(probes) < limit:
            contact = self._next()
            if contact is None or flying + len(probes) >= self._settings.parallelism:
                break
            self._states[contact.encoded] = _ASKED
            self._due_s[contact] = self._at_s + self._paces.soft_s(contact)
            self._asked_count += 1
            probes.append(Probe(contact, asks=self.goal is not Goal.REGION))
        self._look()
        return probes

    def on_reply(
        self, contact: Contact, closer: Sequence[Contact], value: object | None, now_s: float
    ) -> None:
        """Take an answer."""
        self._at_s = now_s
        if self._ended is not None or self._states.get(contact.encoded) not in (_ASKED, _LATE):
            return
        self._end_wait(contact, _ANSWERED)
        for each in closer[: 2 * K]:
            self._hear(each)
        if value is not None:
            self._found.append((contact, value))
        self._look()

    def on_failed(
        self,
        contact: Contact,
        now_s: float,
        *,
        was_asked: bool = True,  # noqa: ARG002 - as `Lookup`
    ) -> None:
        """Take that a peer gives no answer."""
        self._at_s = now_s
        if self._states.get(contact.encoded) in (_ASKED, _LATE):
            self._end_wait(contact, _FAILED)
            self._look()

    def next_deadline_s(self) -> float | None:
        """Return when to call `on_deadline`."""
        if self._ended is not None:
            return None
        return min([self._begun_s + self._settings.deadline_s, *self._due_s.values()])

    def on_deadline(self, now_s: float) -> None:
        """Take that time has passed."""
        self._at_s = now_s
        for contact in [c for c, due_s in self._due_s.items() if due_s <= now_s]:
            if self._states[contact.encoded] == _ASKED:
                self._states[contact.encoded] = _LATE
                self._due_s[contact] = now_s + self._paces.hard_s()
                self._late_count += 1
            else:
                self._end_wait(contact, _FAILED)
        if self._ended is None and now_s >= self._begun_s + self._settings.deadline_s:
            self._ended = End.DEADLINE
        self._look()

    def take_steps(self) -> list[Step]:
        """Return nothing: it is not traced."""
        return []

    @property
    def result(self) -> LookupResult:
        """What came of it."""
        assert self._ended is not None, "a lookup that goes on has no result"
        answered = self._of(_ANSWERED)[:K]
        failures = sum(state == _FAILED for state in self._states.values())
        return LookupResult(
            end=self._ended, closest=answered, heard=answered, responders=answered,
            values=tuple(self._found), probes=self._asked_count, answers=len(self._of(_ANSWERED)),
            failures=failures, late=self._late_count, is_attacked=False,
            took_s=self._at_s - self._begun_s,
        )  # fmt: skip

    # ------------------------------------------------------------------ within

    def _hear(self, contact: Contact) -> None:
        if contact.encoded in self._states or contact.key == self._own:
            return
        if len(self._states) < limits.LOOKUP_CANDIDATES_MAX:
            self._states[contact.encoded] = _HEARD
            insort(self._known, (contact.id ^ self.target, len(self._states), contact))

    def _end_wait(self, contact: Contact, state: int) -> None:
        self._states[contact.encoded] = state
        self._due_s.pop(contact, None)

    def _of(self, *states: int) -> tuple[Contact, ...]:
        return tuple(c for _, _, c in self._known if self._states[c.encoded] in states)

    def _next(self) -> Contact | None:
        """Return the nearest that was not asked, of the K nearest that did not fail."""
        nearest = self._of(_HEARD, _ASKED, _LATE, _ANSWERED)[:K]
        return next((c for c in nearest if self._states[c.encoded] == _HEARD), None)

    def _look(self) -> None:
        """End it when there is nothing more to do."""
        if self._ended is not None:
            return
        if self._found and self.goal is Goal.GET:
            self._ended = End.FOUND
        elif not self._due_s and self._next() is None:
            self._ended = End.COVERED
