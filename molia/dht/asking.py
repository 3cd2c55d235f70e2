"""Requests to contacts: bounded, slow where a third party could be hurt, and never without an end.

Everything that the engine asks goes through here, so that one place keeps the bounds, tells the
routing table who answers, and knows who never did.
Source: docs/reference/dht.md, "Asking".
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias, TypeVar

from molia.base import limits
from molia.base.errors import Busy
from molia.base.now import Now
from molia.dht.contact import Contact
from molia.dht.hub import Hub
from molia.dht.ports import Asker
from molia.dht.unproved import Unproved
from molia.wire import messages
from molia.wire.messages import ErrorCode, Number, Pong
from molia.wire.requests import Ended, Outcome

UNPROVED_TIMEOUT_S: Final = 4.5
"""Below the 5 s after which a handshake begins again: one packet is all that a stranger gets."""


class Reply(NamedTuple):
    """What became of a request."""

    contact: Contact
    number: int
    """Of the reply; 0 when none came."""
    body: bytes
    rtt_s: float
    """Handshake included, if there was one; how long it was waited for when none came."""
    was_sent: bool = True
    """False: it failed here, and says nothing of the contact."""

    @property
    def is_answer(self) -> bool:
        """Whether the peer did what it was asked."""
        return self.number not in _NO_ANSWER


AnyAsker = TypeVar("AnyAsker", bound=Asker)
Done: TypeAlias = Callable[[Reply, Now], None]
_REPEATED: Final = frozenset({int(Number.PING), int(Number.FIND_NODE)})
"""What the engine asks again by itself, or asks others as well."""
_NO_ANSWER: Final = frozenset({0, int(Number.ERROR), int(Number.BUSY)})


class _Ask(NamedTuple):
    contact: Contact
    number: int
    body: bytes
    done: Done
    timeout_s: float | None
    tries: int
    at_s: float


class Asks:
    """The requests of this node that are on their way, and those that wait for their turn."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.on_pong: Callable[[Reply, Pong, Now], None] = _nothing
        """Is told of every PONG, by whoever puts itself here."""
        self.unproved = Unproved(per_group=hub.config.unproved_per_group, workers=hub.share[1])
        self._hinted: dict[Contact, None] = {}
        """Contacts that are said to serve and are asked themselves."""
        self._written: dict[str, None] = {}
        """Hosts that were sent something; the last one last."""
        self._knocking: dict[Contact, list[_Ask]] = {}
        """Strangers that were asked, and what they are to be asked if they answer."""
        self._flying: dict[int, _Ask] = {}
        self._waiting: deque[_Ask] = deque()
        self._failed: deque[_Ask] = deque()
        """Those that failed at once; told by `settle`, so that nobody is called back in a call."""

    def __len__(self) -> int:
        return len(self._flying) + len(self._waiting)

    def ask(
        self, contact: Contact, number: int, body: bytes, done: Done, now: Now, *,
        timeout_s: float | None = None, tries: int | None = None, is_trusted: bool = False,
    ) -> None:  # fmt: skip
        """Ask a contact; `done` is called once, whatever comes of it, and never at once.

        tries: how often it is sent at most, if there is a session; None: by what is asked.
        is_trusted: nobody but this node's owner named the address, so it needs no protection.
        """
        if tries is None:
            tries = limits.DHT_ASK_TRIES if number in _REPEATED else limits.REQUEST_TRIES_MAX
        asked = _Ask(contact, int(number), body, done, timeout_s, tries, now.mono_s)
        if contact in self._knocking and self._knock_with(asked):
            return
        if not is_trusted and not self.unproved.may(contact, now.mono_s):
            self._hub.counters.unproved_held += 1
            self._failed.append(asked)
        elif is_trusted or len(self._flying) < limits.DHT_ASKS_MAX:
            self._send(asked, now, is_trusted=is_trusted)
        elif len(self._waiting) < limits.DHT_ASKS_WAITING_MAX:
            self._waiting.append(asked)
        else:
            self._hub.counters.queue_dropped += 1
            self._failed.append(asked)

    def _knock_with(self, asked: _Ask) -> bool:
        """Let a request wait for what becomes of the first one to a stranger."""
        others = self._knocking[asked.contact]
        if len(others) >= limits.DHT_KNOCKS_MAX:
            return False
        others.append(asked)
        return True

    def ping(
        self, contact: Contact, done: Done, now: Now, *, tries: int | None = None,
        is_trusted: bool = False,
    ) -> None:  # fmt: skip
        """Ask a contact whether it is there and serves, and tell it whether this node does."""
        body = messages.encode(messages.Ping(serves=self._hub.serves(contact.address)))
        self.ask(
            contact, Number.PING, body, done, now, tries=tries, is_trusted=is_trusted
        )  # fmt: skip

    def hint(self, contact: Contact, now: Now) -> None:
        """Take it that somebody serves: if there is room for it in the table, ask it."""
        counters = self._hub.counters
        counters.hints += 1
        if contact.key == self._hub.identity or contact in self._hinted:
            return
        if not self._hub.table_of(contact.address).wants(contact, now.mono_s):
            return
        if len(self._hinted) >= limits.DHT_HINTS_MAX:
            counters.hints_dropped += 1
            return
        self._hinted[contact] = None
        self.ping(contact, self._on_hinted, now)

    def _on_hinted(self, reply: Reply, _now: Now) -> None:
        del self._hinted[reply.contact]

    def on_ended(self, ended: Ended[AnyAsker], now: Now) -> bool:
        """Take what became of a request; False: it is none of ours."""
        asked = self._flying.pop(ended.request_id, None)
        if asked is None:
            return False
        reply = Reply(asked.contact, ended.number, ended.body, now.mono_s - asked.at_s)
        if ended.outcome is Outcome.REPLIED and not _is_at(ended.peer, asked.contact):
            reply = reply._replace(number=0, body=b"")
            self._on_elsewhere(asked.contact, ended.peer, now)
        elif ended.outcome is Outcome.REPLIED:
            self._hub.counters.answered += 1
            self._on_reply(reply, now)
        else:
            self._hub.counters.failed += 1
            self._hub.table_of(asked.contact.address).on_miss(asked.contact, now.mono_s)
        self._end_knock(asked.contact)
        asked.done(reply, now)
        return True

    def _end_knock(self, contact: Contact) -> None:
        others = self._knocking.pop(contact, None)
        if others:
            (self._waiting if self.unproved.is_proved(contact) else self._failed).extend(others)

    def settle(self, now: Now) -> None:
        """Send what has waited, and tell of what failed at once."""
        for _ in range(limits.DHT_ASKS_WAITING_MAX):
            if self._failed:
                asked = self._failed.popleft()
                asked.done(Reply(asked.contact, 0, b"", 0.0, was_sent=False), now)
            elif self._waiting and len(self._flying) < limits.DHT_ASKS_MAX:
                self._send(self._waiting.popleft(), now)
            else:
                return

    @property
    def is_unsettled(self) -> bool:
        """Whether `settle` has more to do at once."""
        can_send = self._waiting and len(self._flying) < limits.DHT_ASKS_MAX
        return bool(self._failed or can_send)

    def has_written_to(self, contact: Contact) -> bool:
        """Tell whether this node ever sent something to the host of a contact."""
        return contact.address[0] in self._written

    def _send(self, asked: _Ask, now: Now, *, is_trusted: bool = False) -> None:
        contact, timeout_s = asked.contact, asked.timeout_s
        if contact in self._knocking and self._knock_with(asked):
            return
        if not self.unproved.is_proved(contact):
            if not self.unproved.spend(contact, now.mono_s) and not is_trusted:
                self._hub.counters.unproved_held += 1
                self._failed.append(asked)
                return
            timeout_s = min(timeout_s or UNPROVED_TIMEOUT_S, UNPROVED_TIMEOUT_S)
        try:
            request_id = self._hub.wire.ask_at(
                contact.key, contact.address, asked.number, asked.body, now,
                timeout_s=timeout_s, tries=asked.tries,
            )  # fmt: skip
        except Busy:
            request_id = None
        if request_id is None:
            self._hub.counters.queue_dropped += 1
            self._failed.append(asked)
            return
        self._hub.counters.asked += 1
        self._note_written(contact)
        if not self.unproved.is_proved(contact):
            self._knocking.setdefault(contact, [])
        self._flying[request_id] = asked._replace(at_s=now.mono_s)

    def _note_written(self, contact: Contact) -> None:
        host = contact.address[0]
        self._written.pop(host, None)
        self._written[host] = None
        if len(self._written) > limits.DHT_PROVED_MAX:
            del self._written[next(iter(self._written))]

    def _on_elsewhere(self, contact: Contact, peer: Asker, now: Now) -> None:
        """Take that a peer has a session from another place: it is not where it was asked.

        Positions follow from addresses, so that its answer must not count for the one it was named
        at: nobody stands at a place by words alone.
        """
        hub = self._hub
        hub.counters.answers_elsewhere += 1
        hub.table_of(contact.address).on_miss(contact, now.mono_s)
        if peer.address is not None:
            found = hub.space.contact(contact.key.key, (peer.address[0], peer.address[1]))
            if found is not None:
                self.hint(found, now)

    def _on_reply(self, reply: Reply, now: Now) -> None:
        """Tell the table what a reply shows of who gave it."""
        hub, contact = self._hub, reply.contact
        self.unproved.prove(contact)
        table = hub.table_of(contact.address)
        if not reply.is_answer:
            hub.counters.refused += 1
            if _is_client(reply):
                table.on_gone(contact, now.mono_s)
            else:
                table.on_alive(contact, now.mono_s)
            return
        pong = self._heed_pong(reply, now) if reply.number == Number.PONG else None
        if reply.number == Number.PONG and (pong is None or not pong.serves):
            table.on_gone(contact, now.mono_s)
            return
        if hub.entrance.lets_in(contact, b"" if pong is None else pong.proof, now):
            hub.on_verified(contact, reply.rtt_s, now)
            return
        hub.counters.contacts_unadmitted += 1
        if pong is None:
            self.hint(contact, now)  # a PONG shows its proof

    def _heed_pong(self, reply: Reply, now: Now) -> Pong | None:
        """Return a PONG that was passed on; None when it is none."""
        pong = messages.decode(reply.number, reply.body)
        if not isinstance(pong, Pong):
            self._hub.counters.bad_replies += 1
            return None
        self.on_pong(reply, pong, now)
        return pong


def _is_at(peer: Asker, contact: Contact) -> bool:
    return peer.address is not None and tuple(peer.address[:2]) == contact.address


def _is_client(reply: Reply) -> bool:
    told = messages.decode(reply.number, reply.body) if reply.number == Number.ERROR else None
    return isinstance(told, messages.Error) and told.code == ErrorCode.REFUSED


def _nothing(reply: Reply, pong: Pong, now: Now) -> None:
    """Nobody wants to know."""
