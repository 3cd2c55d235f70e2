"""Whether others can reach this node, and where: shown by those who did, of several networks.

A node asks a contact to have it dialled; the contact passes that on to a third node, of another
network, which pings the asker at the address that its session came from. Nobody is ever dialled
but the asker itself. What counts is the ping: it came from where the node never sent anything, so
no box in between was waiting for it. Where enough networks got through, and see the node at the
same address, it serves under that address.
Source: docs/reference/dht.md, "Reachability".
"""

from collections import Counter, OrderedDict
from typing import Final

from molia.base import limits
from molia.base.now import Now
from molia.dht.asking import Asks, Reply
from molia.dht.contact import Contact
from molia.dht.effects import Reachable
from molia.dht.hub import IPV4, IPV6, Family, Hub, family_of
from molia.dht.joining import Joining
from molia.dht.keeping import Keeping
from molia.dht.ports import Asker
from molia.dht.serving import BAD, REFUSED, Serving, address_of
from molia.wire import messages
from molia.wire.addresses import Address, is_local, pack_host
from molia.wire.dht_messages import Dial, DialCode, Dialed, Reach, Reached
from molia.wire.messages import Number, Pong
from molia.wire.transport import Answer

DIAL_TRIES: Final = 3
"""Third nodes that are asked before the asker is told to come later."""
DIAL_TIMEOUT_S: Final = 5.0
REACH_TIMEOUT_S: Final = 4 * DIAL_TIMEOUT_S
ASKED_AT_ONCE: Final = 5
FAILURES_MAX: Final = 3
"""Third nodes that must have got no answer before a node takes itself for a client again."""
EVIDENCE_S: Final = 600.0
FIRST_S: Final = 0.25
"""How soon a node that knows nobody yet looks again whom it could ask."""
FIRST_MAX_S: Final = 5.0


class Reachability:
    """What one node knows of itself from outside."""

    def __init__(
        self, hub: Hub, asks: Asks, serving: Serving, joining: Joining, keeping: Keeping
    ) -> None:
        self._hub, self._asks, self._serving = hub, asks, serving
        self._joining, self._keeping = joining, keeping
        self._is_fixed = dict.fromkeys((IPV4, IPV6), not hub.config.may_serve)
        self._seen: dict[bytes, Address] = {}
        """Where contacts of each network see this node; the newest last."""
        self._got_through: OrderedDict[bytes, float] = OrderedDict()
        """Networks from which a ping came that nobody was waiting for, and when."""
        self._silent: dict[int, int] = {}
        """By family: third nodes that got no answer, in the trial that runs."""
        self._open = 0
        self._wait_s = FIRST_S
        self._dialling = 0
        serving.on_ping = self._on_ping
        serving.handlers[Number.REACH] = self._on_reach
        serving.handlers[Number.DIAL] = self._on_dial

    def start(self, now: Now) -> None:
        """Begin to look, a little later, when contacts are known."""
        self._hub.timers.set("reach", now.mono_s + FIRST_S)

    def fix(self, family: int, own: Contact, now: Now) -> None:
        """Take the owner's word for where this node is reached."""
        self._is_fixed[family] = True
        self._become(family, own, now)

    def on_pong(self, reply: Reply, pong: Pong, now: Now) -> None:
        """Take note of where a peer sees this node; on a local network that is proof enough."""
        family = family_of(pong.seen)
        packed = pack_host(pong.seen[0])
        if packed is None or self._is_fixed[family]:
            return
        seen_locally = is_local(packed) and reply.contact.is_local
        if not is_local(packed):
            self._seen.pop(reply.contact.group, None)
            self._seen[reply.contact.group] = pong.seen
            if len(self._seen) > limits.DHT_SEEN_MAX:
                del self._seen[next(iter(self._seen))]
            own = self._hub.families[family].own
            if own is None or own.address != pong.seen:  # else it says what is known
                self._judge(family, now)
        elif seen_locally and self._hub.families[family].own is None:
            own = self._hub.space.contact(self._hub.identity.key, pong.seen)
            if own is not None:
                self._become(family, own, now)

    # ------------------------------------------------------------------ finding out

    def on_timer(self, now: Now) -> None:
        """Ask contacts to have this node dialled, early: while there are nodes it never met."""
        config = self._hub.config
        is_known, has_asked = True, False
        for family, side in self._hub.families.items():
            is_settled = self._is_fixed[family] or (side.own is not None and side.own.is_local)
            if not is_settled and side.table.size:
                is_known = is_known and side.own is not None
                has_asked = self._ask_around(family, side, now) or has_asked
        if has_asked:
            self._wait_s = config.reach_again_s if is_known else config.reach_s
        else:
            self._wait_s = min(2 * self._wait_s, FIRST_MAX_S)
        self._hub.timers.set("reach", now.mono_s + self._hub.jitter(self._wait_s))

    def _ask_around(self, family: int, side: Family, now: Now) -> bool:
        some = [c for c in side.table.random(2 * ASKED_AT_ONCE) if not c.is_local]
        if not some or self._open:
            return bool(some)
        self._silent[family] = 0
        for turn in range(ASKED_AT_ONCE):
            self._open += 1
            body = messages.encode(Reach(self._hub.entropy.token(8)))

            def done(reply: Reply, then: Now) -> None:
                self._on_reached(family, reply, then)

            contact = some[turn % len(some)]
            self._asks.ask(contact, Number.REACH, body, done, now, timeout_s=REACH_TIMEOUT_S)
        return True

    def _on_reached(self, family: int, reply: Reply, now: Now) -> None:
        """Take what a contact says: only where nobody got through does it count."""
        self._open -= 1
        told = messages.decode(reply.number, reply.body) if reply.number else None
        self._silent[family] += isinstance(told, Reached) and told.code == DialCode.SILENT
        is_known = self._hub.families[family].own is not None and not self._is_fixed[family]
        if not self._open and is_known and self._silent[family] >= FAILURES_MAX:
            self._forget_old(now)
            if not self._got_through:
                self._become(family, None, now)

    def _on_ping(self, contact: Contact, now: Now) -> None:
        """Take note of a ping from where this node never sent anything, and ask what it sees."""
        family = family_of(contact.address)
        if self._is_fixed[family] or contact.is_local or self._asks.has_written_to(contact):
            return
        self._got_through.pop(contact.group, None)
        self._got_through[contact.group] = now.mono_s
        if len(self._got_through) > limits.DHT_SEEN_MAX:
            self._got_through.popitem(last=False)
        if self._hub.families[family].own is None:
            self._asks.ping(contact, _ignore, now)

    def _forget_old(self, now: Now) -> None:
        got = self._got_through
        while got and next(iter(got.values())) < now.mono_s - EVIDENCE_S:
            got.popitem(last=False)

    def _judge(self, family: int, now: Now) -> None:
        """Serve where enough networks got through and see this node at one address."""
        self._forget_old(now)
        seen = [self._seen[group] for group in self._got_through if group in self._seen]
        votes = Counter(address for address in seen if family_of(address) == family)
        address, count = votes.most_common(1)[0] if votes else (None, 0)
        if address is not None and count >= self._hub.config.reach_groups:
            own = self._hub.space.contact(self._hub.identity.key, address)
            if own is not None:
                self._become(family, own, now)

    def _become(self, family: int, own: Contact | None, now: Now) -> None:
        """Serve under an address from now on, or be a client."""
        if own == self._hub.families[family].own:
            return
        self._hub.set_own(family, own, now)
        self._keeping.on_own(family, now)
        self._hub.emit(Reachable(own is not None, None if own is None else own.address))
        if own is not None:
            self._joining.on_reachable(now)

    # ------------------------------------------------------------------ for others

    def _on_reach(self, peer: Asker, request_id: int, body: bytes, now: Now) -> Answer | None:
        """Ask a node of a third network to dial whoever asks, where its session comes from."""
        side = self._serving.side(peer)
        if side is None or peer.address is None or peer.identity is None:
            return REFUSED
        asked = messages.decode(Number.REACH, body)
        asker = self._hub.space.contact(peer.identity.key, address_of(peer.address))
        if not isinstance(asked, Reach) or asker is None:
            self._hub.counters.bad_requests += 1
            return BAD
        if self._dialling >= limits.DHT_DIALS_MAX:
            self._hub.counters.dials_refused += 1
            return Number.REACHED, messages.encode(Reached(DialCode.LATER))
        self._dialling += 1
        avoided = {asker.group, side.own.group if side.own is not None else b""}
        self._pass_on(peer, request_id, asker, asked.nonce, avoided, DIAL_TRIES, now)
        return None

    def _pass_on(
        self, peer: Asker, request_id: int, asker: Contact, nonce: bytes, avoided: set[bytes],
        tries: int, now: Now,
    ) -> None:  # fmt: skip
        table = self._hub.table_of(asker.address)
        third = next((c for c in table.random(ASKED_AT_ONCE) if c.group not in avoided), None)
        if third is None or not tries:
            self._end_reach(peer, request_id, DialCode.LATER, now)
            return
        body = messages.encode(Dial(key=asker.key.key, address=asker.address, nonce=nonce))

        def done(reply: Reply, then: Now) -> None:
            told = messages.decode(reply.number, reply.body) if reply.number else None
            if isinstance(told, Dialed) and told.code in (DialCode.REACHED, DialCode.SILENT):
                self._end_reach(peer, request_id, DialCode(told.code), then)
            else:
                avoided.add(reply.contact.group)
                self._pass_on(peer, request_id, asker, nonce, avoided, tries - 1, then)

        timeout_s = 2 * DIAL_TIMEOUT_S
        self._asks.ask(third, Number.DIAL, body, done, now, timeout_s=timeout_s)

    def _end_reach(self, peer: Asker, request_id: int, code: DialCode, now: Now) -> None:
        self._dialling -= 1
        self._hub.wire.reply(
            peer, request_id, (Number.REACHED, messages.encode(Reached(code))), now
        )  # fmt: skip

    def _on_dial(self, peer: Asker, request_id: int, body: bytes, now: Now) -> Answer | None:
        """Ping a node that never heard of us, unless a session with it would make that no proof."""
        if self._serving.side(peer) is None:
            return REFUSED
        asked = messages.decode(Number.DIAL, body)
        if not isinstance(asked, Dial):
            self._hub.counters.bad_requests += 1
            return BAD
        contact = self._hub.space.contact(asked.key, asked.address)
        if (
            contact is None
            or contact.key == self._hub.identity
            or contact.is_local
            or self._hub.wire.has_session(contact.key, now)
            or not self._asks.unproved.may(contact, now.mono_s)
            or self._asks.unproved.is_proved(contact)
        ):
            self._hub.counters.dials_refused += 1
            return Number.DIALED, messages.encode(Dialed(DialCode.REFUSED))
        self._hub.counters.dials += 1

        def done(reply: Reply, then: Now) -> None:
            code = DialCode.REACHED if reply.number == Number.PONG else DialCode.SILENT
            code = code if reply.was_sent else DialCode.LATER
            told = (Number.DIALED, messages.encode(Dialed(code)))
            self._hub.wire.reply(peer, request_id, told, then)

        self._asks.ping(contact, done, now)
        return None


def _ignore(reply: Reply, now: Now) -> None:
    """A PONG is looked at where it arrives."""
