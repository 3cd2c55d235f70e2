"""The upkeep of what this node holds: neighbours are told, and sent what they lack.

`dht/replicas.py` decides; here it gets its answers, and peers theirs.
Source: docs/reference/upkeep.md, "Replicas".
"""

from collections.abc import Iterable
from typing import Final

from molia.base import limits
from molia.base.now import Now
from molia.dht import held
from molia.dht.asking import Asks, Reply
from molia.dht.contact import Contact
from molia.dht.hub import Family, Hub
from molia.dht.ports import Asker
from molia.dht.quotas import Buckets
from molia.dht.replicas import AskPull, ReplicaRepair
from molia.dht.serving import BAD, REFUSED, Serving
from molia.dht.telling import Push, Tell
from molia.wire import messages
from molia.wire.dht_messages import AddProvider, Digest, DigestReply, Pull, Pulled, Put
from molia.wire.messages import Number
from molia.wire.transport import Answer, Handler

BUSY: Final[Answer] = (
    int(Number.BUSY), messages.encode(messages.Busy(retry_after_ms=1_000, effort_bits=0))
)  # fmt: skip
_EACH: Final = limits.PROVIDERS_PER_MESSAGE_MAX


class Keeping:
    """The replicas of what the node holds, at one worker's share of its neighbours."""

    def __init__(self, hub: Hub, asks: Asks, serving: Serving) -> None:
        self._hub, self._asks, self._serving = hub, asks, serving
        self._repairs: dict[int, ReplicaRepair] = {}
        """By family on which others reach this node."""
        self._unix_s = 0.0
        self._digests = Buckets(
            rate=limits.DIGESTS_PER_S, burst=limits.DIGESTS_BURST,
            table_max=limits.REPAIR_NEIGHBOURS_MAX,
        )  # fmt: skip
        """By neighbour; strangers share one."""
        self.handlers: dict[int, Handler] = {
            Number.DIGEST: self._on_digest,
            Number.PULL: self._on_pull,
        }

    # ------------------------------------------------------------------ facts

    def on_own(self, family: int, now: Now) -> None:
        """Begin, or begin anew, where others reach this node; a client has no such duty."""
        side = self._hub.families[family]
        self._repairs.pop(family, None)
        if side.own is not None and self._hub.config.has_duties:

            def in_region(center: int, radius: int) -> list[Contact]:
                return self._of_share(side.table.in_region(center, radius))

            self._repairs[family] = ReplicaRepair(
                side.own_id, self._hub.shelf, in_region,
                self._summary, entropy=self._hub.entropy, now_s=now.mono_s,
            )  # fmt: skip
            self._arm(now)

    def _of_share(self, contacts: list[Contact]) -> list[Contact]:
        """Return the neighbours that this worker tells, of all the node's."""
        index, count = self._hub.share
        return contacts if count == 1 else [c for c in contacts if c.id % count == index]

    def on_joined(self, family: int, now: Now, *, is_healed: bool) -> None:
        """Ask neighbours for what this node is to hold; after a split, tell them as well."""
        repair = self._repairs.get(family)
        if repair is not None:
            if is_healed:
                repair.on_healed(now.mono_s)
            else:
                repair.on_joined(now.mono_s)
            self._arm(now)

    def on_egress(self, sent_bytes: int, now: Now) -> None:
        """Take all that the node has sent so far: a tenth of it may be repair."""
        for repair in self._repairs.values():
            repair.budget.on_egress(sent_bytes, now.mono_s)

    def on_timer(self, now: Now) -> None:
        """Do what is due."""
        self._unix_s = now.unix_s
        for family, repair in self._repairs.items():
            side = self._hub.families[family]
            repair.on_deadline(
                now.mono_s, radius=side.size.radius, churn_rate=side.table.churn_rate
            )
        self._follow(now)

    # ------------------------------------------------------------------ effects

    def _follow(self, now: Now) -> None:
        for repair in self._repairs.values():
            for effect in repair.take_effects():
                if isinstance(effect, Tell):
                    self._tell(repair, effect, now)
                elif isinstance(effect, Push):
                    self._push(repair, effect, now)
                else:
                    self._ask_pull(repair, effect, now)
        self._arm(now)

    def _arm(self, now: Now) -> None:
        dues = [repair.next_deadline_s() for repair in self._repairs.values()]
        if dues:
            self._hub.timers.set("keeping", max(min(dues), now.mono_s))

    def _tell(self, repair: ReplicaRepair, tell: Tell, now: Now) -> None:
        def done(reply: Reply, then: Now) -> None:
            told = messages.decode(reply.number, reply.body) if reply.number else None
            wanted = told.wanted if isinstance(told, DigestReply) else None
            repair.on_told(tell.contact, wanted, then.mono_s)
            self._arm(then)

        body = messages.encode(Digest(tell.digest))
        self._asks.ask(tell.contact, Number.DIGEST, body, done, now)

    def _push(self, repair: ReplicaRepair, push: Push, now: Now) -> None:
        """Send a row in as many messages as it takes, one after the other."""
        todo = list(self._messages(push, now))

        def next_one(then: Now, *, ok: bool) -> None:
            if not ok or not todo:
                repair.on_pushed(push.contact, then.mono_s, ok=ok)
                self._arm(then)
                return
            number, body = todo.pop(0)
            self._hub.counters.replicas_pushed += 1
            self._asks.ask(push.contact, number, body, done, then)

        def done(reply: Reply, then: Now) -> None:
            next_one(then, ok=reply.is_answer)

        next_one(now, ok=True)

    def _messages(self, push: Push, now: Now) -> Iterable[tuple[int, bytes]]:
        if push.kind == held.RECORD:
            record = held.record_in(push.row, unix_s=now.unix_s)
            return () if record is None else ((Number.PUT, messages.encode(Put(record))),)
        told = [each.record.encoded for each in held.entries(push.row, unix_s=now.unix_s)]
        return [
            (Number.ADD_PROVIDER, messages.encode(AddProvider(tuple(told[at : at + _EACH]))))
            for at in range(0, len(told), _EACH)
        ]

    def _ask_pull(self, repair: ReplicaRepair, ask: AskPull, now: Now) -> None:
        def done(reply: Reply, then: Now) -> None:
            told = messages.decode(reply.number, reply.body) if reply.number else None
            accepted = isinstance(told, Pulled) and told.accepted
            self._hub.counters.replicas_pulled += accepted
            repair.on_pulled(ask.contact, then.mono_s, accepted=accepted)
            self._arm(then)

        self._asks.ask(ask.contact, Number.PULL, messages.encode(Pull(ask.radius_bits)), done, now)

    def _summary(self, kind: int, row: bytes) -> bytes | None:
        return held.summary_of(kind, row, unix_s=self._unix_s)

    # ------------------------------------------------------------------ handlers

    def _on_digest(self, peer: Asker, _request_id: int, body: bytes, now: Now) -> Answer | None:
        side = self._serving.side(peer)
        if side is None:
            return REFUSED
        told = messages.decode(Number.DIGEST, body)
        if not isinstance(told, Digest):
            self._hub.counters.bad_requests += 1
            return BAD
        self._unix_s = now.unix_s
        repair = self._repair_of(side)
        key = b"" if peer.identity is None else peer.identity.key
        is_known = side.table.find(key) is not None
        if not self._digests.take(key if is_known else b"", now.mono_s):
            self._hub.counters.digests_refused += 1
            return BUSY
        wanted = b""
        if repair is not None:
            wanted = repair.wanted(told.entries, now.mono_s, claims=is_known)
        return Number.DIGEST_REPLY, messages.encode(DigestReply(wanted))

    def _on_pull(self, peer: Asker, _request_id: int, body: bytes, now: Now) -> Answer | None:
        side = self._serving.side(peer)
        if side is None or peer.identity is None:
            return REFUSED
        asked = messages.decode(Number.PULL, body)
        if not isinstance(asked, Pull):
            self._hub.counters.bad_requests += 1
            return BAD
        accepted = self._accepts(side, peer.identity.key, asked.radius_bits, now)
        return Number.PULLED, messages.encode(Pulled(accepted))

    def _repair_of(self, side: Family) -> ReplicaRepair | None:
        return next((r for f, r in self._repairs.items() if self._hub.families[f] is side), None)

    def _accepts(self, side: Family, key: bytes, radius_bits: int, now: Now) -> bool:
        """Tell whether an asker will be told: only who was verified here is."""
        contact, repair = side.table.find(key), self._repair_of(side)
        if contact is None or repair is None:
            return False
        accepted = repair.on_pull(contact, radius_bits, now.mono_s)
        self._arm(now)
        return accepted
