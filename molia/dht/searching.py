"""Lookups that run: each probe a request, each reply what its lookup makes of it.

A lookup decides whom to ask (`dht/lookup.py`); here it is asked, its answer is read and judged, and
the end is told to whoever began it.
Source: docs/reference/lookups.md; docs/reference/dht.md, "Blame".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from molia.base import limits
from molia.base.now import Now
from molia.dht.asking import Asks, Reply
from molia.dht.blame import Blame
from molia.dht.contact import Contact
from molia.dht.effects import Traced
from molia.dht.hub import Hub, family_of
from molia.dht.lookup import Lookup
from molia.dht.outcome import End, Goal, LookupResult, Probe
from molia.wire import messages
from molia.wire.dht_messages import SALT_SIZE, FindRegion
from molia.wire.messages import FindNode, Number

NEAR_SEEDS: Final = 40
OLD_SEEDS: Final = 20
Found: TypeAlias = LookupResult
OnFound: TypeAlias = Callable[[Found, Now], None]
NOTHING: Final = LookupResult(
    end=End.STOPPED, closest=(), heard=(), responders=(), values=(), probes=0, answers=0,
    failures=0, late=0, is_attacked=False, took_s=0.0,
)  # fmt: skip
"""The result of a lookup that found no place among those that run."""


class Query(Protocol):
    """What is asked of those who may have the answer, and how it is read."""

    def ask(self, contact: Contact) -> tuple[int, bytes]:
        """Return the request for a contact near the target: its number and body."""
        ...

    def read(self, reply: Reply, now: Now) -> object | None:
        """Return the value in a reply; None when there is none, or none that holds."""
        ...


@dataclass(slots=True)
class _Search:
    lookup: Lookup
    query: Query | None
    done: OnFound
    trace: int | None
    referrers: dict[Contact, Contact] = field(default_factory=dict)
    """Who named a contact first, of contacts that never answered."""


class Searches:
    """The lookups of one node."""

    def __init__(self, hub: Hub, asks: Asks) -> None:
        self._hub, self._asks = hub, asks
        self._blame = Blame(hub)
        self._running: dict[int, _Search] = {}
        self._next_id = 0
        self._refused: list[OnFound] = []
        self._pumped: list[int] = []
        """Lookups that have just begun."""

    def __len__(self) -> int:
        return len(self._running)

    def find(
        self, target: int, done: OnFound, now: Now, *, family: int | None = None,
        trace: int | None = None,
    ) -> None:  # fmt: skip
        """Look for the nodes closest to a target."""
        self.run(Goal.FIND, target, None, done, now, family=family, trace=trace)

    def run(
        self, goal: Goal, target: int, query: Query | None, done: OnFound, now: Now, *,
        family: int | None = None, trace: int | None = None, radius: int | None = None,
    ) -> None:  # fmt: skip
        """Begin a lookup; `done` is called once with its result, never at once.

        radius: of the region, where it is not the usual one.
        """
        if len(self._running) >= limits.DHT_LOOKUPS_MAX:
            self._hub.counters.lookups_refused += 1
            self._refused.append(done)
            return
        side = self._hub.pick_family(family)
        near = side.table.nearest(target, NEAR_SEEDS)
        known = frozenset(near)
        old = [contact for contact in side.table.oldest(NEAR_SEEDS + OLD_SEEDS)
               if contact not in known]  # fmt: skip
        lookup = self._hub.config.lookup_class(
            goal, target, [*near, *old[:OLD_SEEDS]], config=self._hub.config.lookup,
            entropy=self._hub.entropy, pace=self._hub.pace, now_s=now.mono_s,
            size=side.size if radius is None else side.size.with_radius(radius),
            own_key=self._hub.identity, traced=trace is not None, more_seeds=side.table.random,
        )  # fmt: skip
        self._hub.counters.lookups += 1
        self._next_id += 1
        self._running[self._next_id] = _Search(lookup, query, done, trace)
        self._pumped.append(self._next_id)

    # ------------------------------------------------------------------ time

    def next_deadline_s(self) -> float | None:
        """Return when a lookup wants to be woken."""
        dues = [search.lookup.next_deadline_s() for search in self._running.values()]
        return min((due_s for due_s in dues if due_s is not None), default=None)

    def on_deadline(self, now: Now) -> None:
        """Let the lookups look at the clock, and tell those that were refused."""
        for search_id, search in list(self._running.items()):
            due_s = search.lookup.next_deadline_s()
            if due_s is not None and due_s <= now.mono_s:
                search.lookup.on_deadline(now.mono_s)
                self._pump(search_id, now)
        self.settle(now)

    def settle(self, now: Now) -> None:
        """Let the lookups that have just begun ask, and tell those that may not run."""
        pumped, self._pumped = self._pumped, []
        for search_id in pumped:
            self._pump(search_id, now)
        refused, self._refused = self._refused, []
        for done in refused:
            done(NOTHING, now)

    @property
    def is_unsettled(self) -> bool:
        """Whether `settle` has more to do at once."""
        return bool(self._refused or self._pumped)

    # ------------------------------------------------------------------ probes

    def _pump(self, search_id: int, now: Now) -> None:
        """Send what a lookup wants asked; end it when it is done."""
        search = self._running.get(search_id)
        if search is None:
            return
        for probe in search.lookup.take_probes():
            self._probe(search_id, search, probe, now)
        if search.trace is not None:
            for step in search.lookup.take_steps():
                self._hub.emit(Traced(search.trace, step))
        if search.lookup.is_done:
            del self._running[search_id]
            result = search.lookup.result
            self._hub.counters.attacks += result.is_attacked
            search.done(result, now)

    def _probe(self, search_id: int, search: _Search, probe: Probe, now: Now) -> None:
        number, body = self._request(search, probe)
        self._hub.counters.lookup_requests += 1

        referrer = search.referrers.pop(probe.contact, None)

        def done(reply: Reply, then: Now) -> None:
            self._judge(referrer, reply)
            self._on_reply(search_id, reply, then)

        self._asks.ask(probe.contact, number, body, done, now)

    def _request(self, search: _Search, probe: Probe) -> tuple[int, bytes]:
        """Return what a node is asked; in the region for others in it, each time another part.

        The salt is drawn for each probe: who gathers around the target is not named more often.
        """
        lookup = search.lookup
        target = lookup.target_for(probe.contact)
        if probe.asks and search.query is not None:
            return search.query.ask(probe.contact)
        if probe.asks and lookup.goal is Goal.REGION:
            bits = max(1, (lookup.radius - 1).bit_length())
            salt = self._hub.entropy.token(SALT_SIZE)
            asked = FindRegion(center=target, radius_bits=bits, salt=salt)
            return Number.FIND_REGION, messages.encode(asked)
        return Number.FIND_NODE, messages.encode(FindNode(target))

    def _judge(self, referrer: Contact | None, reply: Reply) -> None:
        """Take note of whether a contact lives, and who named it."""
        if reply.was_sent:
            self._blame.on_outcome(lives=bool(reply.number))
            if referrer is not None:
                self._blame.judge(referrer, lives=bool(reply.number))

    def _on_reply(self, search_id: int, reply: Reply, now: Now) -> None:
        search = self._running.get(search_id)
        if search is None:
            return
        if not reply.is_answer:
            search.lookup.on_failed(reply.contact, now.mono_s, was_asked=reply.was_sent)
        else:
            self._hub.pace.add(reply.contact, reply.rtt_s)
            closer = self._closer(search, reply)
            value = None if search.query is None else search.query.read(reply, now)
            search.lookup.on_reply(reply.contact, closer, value, now.mono_s)
        self._pump(search_id, now)

    def _closer(self, search: _Search, reply: Reply) -> Sequence[Contact]:
        """Return the contacts that a reply names: of the asked one's family, and possible."""
        told = messages.decode(reply.number, reply.body)
        if told is None:
            self._hub.counters.bad_replies += 1
            return ()
        named = getattr(told, "contacts", ())
        family = family_of(reply.contact.address)
        closer = [
            contact
            for contact in self._hub.contacts_of(named, reply.contact)
            if family_of(contact.address) == family
        ]
        for contact in closer:
            if not self._asks.unproved.is_proved(contact):
                search.referrers.setdefault(contact, reply.contact)
        return closer
