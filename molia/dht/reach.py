"""Whether others can reach this node, and where: told by those who tried, of several networks.

A node asks a contact to have it dialled; the contact passes that on to a third node, of another
network, which pings the asker at the address that its session came from. Nobody is ever dialled
but the asker itself. Where enough networks agree, the node serves under that address.
Source: docs/reference/dht.md, "Reachability".
"""

from collections import Counter
from typing import Final

from molia.base import limits
from molia.base.now import Now
from molia.dht.asking import Asks, Reply
from molia.dht.contact import Contact
from molia.dht.effects import Reachable
from molia.dht.hub import IPV4, IPV6, Family, Hub
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
"""Networks that must have failed to reach a node before it takes itself for a client again."""


class _Trial:
    """One attempt of a family to find out."""

    def __init__(self) -> None:
        self.open = 0
        self.reached: dict[bytes, Address] = {}
        """By the network of who said so: the address at which the node was reached."""
        self.failed: dict[bytes, None] = {}


class Reachability:
    """What one node knows of itself from outside."""

    def __init__(
        self, hub: Hub, asks: Asks, serving: Serving, joining: Joining, keeping: Keeping
    ) -> None:
        self._hub, self._asks, self._serving = hub, asks, serving
        self._joining, self._keeping = joining, keeping
        self._trials: dict[int, _Trial] = {}
        self._is_fixed = {IPV4: False, IPV6: False}
        self._seen: dict[bytes, Address] = {}
        """Where contacts of each network see this node; the newest last."""
        self._dialling = 0
        serving.handlers[Number.REACH] = self._on_reach
        serving.handlers[Number.DIAL] = self._on_dial

    def start(self, now: Now) -> None:
        """Begin to look, a little later, when contacts are known."""
        self._hub.timers.set("reach", now.mono_s + 1.0)

    def fix(self, family: int, own: Contact, now: Now) -> None:
        """Take the owner's word for where this node is reached."""
        self._is_fixed[family] = True
        self._become(family, own, now)

    def on_pong(self, reply: Reply, pong: Pong, now: Now) -> None:
        """Take note of where a peer sees this node; on a local network that is proof enough."""
        family = IPV6 if ":" in pong.seen[0] else IPV4
        packed = pack_host(pong.seen[0])
        if packed is None or self._is_fixed[family]:
            return
        seen_locally = is_local(packed) and reply.contact.is_local
        if not is_local(packed):
            self._seen.pop(reply.contact.group, None)
            self._seen[reply.contact.group] = pong.seen
            if len(self._seen) > limits.DHT_SEEN_MAX:
                del self._seen[next(iter(self._seen))]
        elif seen_locally and self._hub.families[family].own is None:
            own = self._hub.space.contact(self._hub.identity.key, pong.seen)
            if own is not None:
                self._become(family, own, now)

    # ------------------------------------------------------------------ finding out

    def on_timer(self, now: Now) -> None:
        """Ask contacts of several networks to have this node dialled."""
        config = self._hub.config
        is_known = any(side.own is not None for side in self._hub.families.values())
        wait_s = config.reach_again_s if is_known else config.reach_s
        self._hub.timers.set("reach", now.mono_s + self._hub.jitter(wait_s))
        for family, side in self._hub.families.items():
            is_settled = self._is_fixed[family] or (side.own is not None and side.own.is_local)
            if not is_settled and family not in self._trials:
                self._try(family, side, now)

    def _try(self, family: int, side: Family, now: Now) -> None:
        """Begin a trial with contacts of distinct networks, none of them local."""
        asked: dict[bytes, Contact] = {}
        for contact in side.table.random(4 * ASKED_AT_ONCE):
            if not contact.is_local and contact.group in self._seen:
                asked.setdefault(contact.group, contact)
        for contact in side.table.random(4 * ASKED_AT_ONCE):
            if not contact.is_local and contact.group not in self._seen:
                self._asks.ping(contact, _ignore, now)  # to be told where it sees us
        if len(asked) < self._hub.config.reach_groups:
            self._hub.timers.set("reach", now.mono_s + 2.0 + self._hub.below(1024) / 1024)
            return
        trial = self._trials[family] = _Trial()
        body = messages.encode(Reach(self._hub.entropy.token(8)))
        for contact in list(asked.values())[:ASKED_AT_ONCE]:
            trial.open += 1

            def done(reply: Reply, then: Now) -> None:
                self._on_reached(family, trial, reply, then)

            self._asks.ask(contact, Number.REACH, body, done, now, timeout_s=REACH_TIMEOUT_S)

    def _on_reached(self, family: int, trial: _Trial, reply: Reply, now: Now) -> None:
        trial.open -= 1
        told = messages.decode(reply.number, reply.body) if reply.number else None
        group = reply.contact.group
        if isinstance(told, Reached) and told.code == DialCode.REACHED and group in self._seen:
            trial.reached[group] = self._seen[group]
        elif isinstance(told, Reached) and told.code == DialCode.SILENT:
            trial.failed[group] = None
        if not trial.open:
            del self._trials[family]
            self._judge(family, trial, now)

    def _judge(self, family: int, trial: _Trial, now: Now) -> None:
        """Decide by what the networks agree on; without enough of them nothing changes."""
        votes = Counter(trial.reached.values())
        address, count = votes.most_common(1)[0] if votes else (None, 0)
        if address is not None and count >= self._hub.config.reach_groups:
            own = self._hub.space.contact(self._hub.identity.key, address)
            if own is not None:
                self._become(family, own, now)
        elif len(trial.failed) >= FAILURES_MAX and len(trial.failed) > count:
            self._become(family, None, now)

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
