"""Small requests and their replies: a datagram each, with a retry of its own.

A request that is lost is sent again at its soft timeout; a reply counts only from the peer that
was asked, and a late one still counts. What may not happen twice is answered from memory when it
is asked twice. What does not fit into a datagram goes over a stream (`wire/transport.py`).
Source: docs/reference/requests.md.
"""

import struct
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush
from typing import Final, Generic, NamedTuple, TypeVar

from molia.base import limits
from molia.base.entropy import Entropy
from molia.base.errors import Busy
from molia.wire.rtt import RttTable

Peer = TypeVar("Peer", bound=Hashable)
REQUEST: Final = 2
"""Frame type: u64 id, u8 message number, the message."""
REPLY: Final = 4
"""Frame type: the id of the request that it answers, u8 number of the reply, the reply."""
HEAD: Final = struct.Struct("<BHQB")
"""Frame type, length of what follows the length, request id, message number."""
DOUBT_S: Final = 1.0
"""How often a peer that does not answer is doubted, until the request is over."""
_BODY_START: Final = HEAD.size - 3
_ID_MASK: Final = 2**64 - 1


class Outcome(Enum):
    """How a request ended."""

    REPLIED = "replied"
    TIMED_OUT = "timed out"
    PEER_LOST = "peer lost"


class Ended(NamedTuple, Generic[Peer]):
    """A request that ended. number, body: the reply; 0 and empty unless `outcome` is REPLIED."""

    request_id: int
    peer: Peer
    outcome: Outcome
    number: int = 0
    body: bytes = b""


def pack(kind: int, request_id: int, number: int, body: bytes) -> bytes:
    """Return the frame of a request or a reply."""
    return HEAD.pack(kind, _BODY_START + len(body), request_id, number) + body


@dataclass(slots=True)
class _Asked(Generic[Peer]):
    peer: Peer
    frame: bytes
    sent_s: float
    wait_s: float
    """The soft timeout of this try; it doubles with each."""
    until_s: float
    tries_max: int
    tries: int = 1


class Requests(Generic[Peer]):
    """The requests of this node that wait for a reply."""

    def __init__(self, entropy: Entropy) -> None:
        self.rtt: RttTable[Peer] = RttTable()
        self._next_id = int.from_bytes(entropy.token(8), "little")
        self._asked: dict[int, _Asked[Peer]] = {}
        self._due: list[tuple[float, int]] = []
        """A heap; an entry of a request that ended is passed over when it comes up."""
        self._per_peer: dict[Peer, int] = {}
        self._sends: list[tuple[Peer, bytes]] = []
        self._ended: list[Ended[Peer]] = []
        self._doubted: dict[Peer, None] = {}
        self.retried = self.timed_out = self.unexpected = 0

    def __len__(self) -> int:
        return len(self._asked)

    def count_to(self, peer: Peer) -> int:
        """Return how many requests wait for a reply of a peer."""
        return self._per_peer.get(peer, 0)

    def ask(
        self, peer: Peer, number: int, body: bytes, *, now_s: float,
        timeout_s: float | None = None, tries: int = limits.REQUEST_TRIES_MAX,
        is_on_its_way: bool = False,
    ) -> int:  # fmt: skip
        """Ask a peer; return the request's id, by which `take_ended` names it.

        timeout_s: until when a reply counts; by default what the network's own pace suggests.
        tries: how often it is sent at most; with 1, silence is no reason to doubt the session.
        is_on_its_way: the first try went out otherwise. Raises Busy when too many requests wait.
        """
        in_flight = self._per_peer.get(peer, 0)
        if len(self._asked) >= limits.REQUESTS_MAX or in_flight >= limits.REQUESTS_PER_PEER_MAX:
            raise Busy("too many requests wait for a reply")
        assert len(body) <= limits.DATAGRAM_BODY_MAX, "larger ones go over a stream"
        request_id = self._next_id
        self._next_id = (request_id + 1) & _ID_MASK
        wait_s = self.rtt.soft_timeout_s(peer)
        until_s = now_s + (self.rtt.hard_timeout_s() if timeout_s is None else timeout_s)
        frame = pack(REQUEST, request_id, number, body)
        asked = _Asked(peer, frame, now_s, wait_s, until_s, tries)
        self._asked[request_id] = asked
        self._per_peer[peer] = in_flight + 1
        if not is_on_its_way:
            self._sends.append((peer, asked.frame))
        if len(self._due) > 2 * limits.REQUESTS_MAX:
            self._due = sorted(entry for entry in self._due if entry[1] in self._asked)
        due_s = until_s if tries == 1 else min(now_s + wait_s, until_s)
        heappush(self._due, (due_s, request_id))
        return request_id

    def on_reply(
        self, peer: Peer, request_id: int, number: int, body: bytes, *, now_s: float
    ) -> None:
        """Take a reply; one that nobody waits for, or by somebody else, is counted and dropped."""
        asked = self._asked.get(request_id)
        if asked is None or asked.peer != peer:
            self.unexpected += 1
            return
        if asked.tries == 1:
            self.rtt.add(peer, max(0.0, now_s - asked.sent_s))
        self._forget(request_id, asked)
        self._ended.append(Ended(request_id, peer, Outcome.REPLIED, number, body))

    def send_again(self, request_id: int) -> None:
        """Send a request whose first try went nowhere; one that ended is fine."""
        asked = self._asked.get(request_id)
        if asked is not None:
            self._sends.append((asked.peer, asked.frame))

    def cancel(self, request_id: int) -> None:
        """Forget a request; one that ended is fine."""
        asked = self._asked.get(request_id)
        if asked is not None:
            self._forget(request_id, asked)

    @property
    def has_output(self) -> bool:
        """Tell whether `take_sends` or `take_ended` has something."""
        return bool(self._sends or self._ended)

    def on_peer_lost(self, peer: Peer, *, before_s: float = float("inf")) -> None:
        """End the requests to a peer that went away or began anew, those asked before a time."""
        if self._per_peer.get(peer):
            lost = [
                (request_id, asked)
                for request_id, asked in self._asked.items()
                if asked.peer == peer and asked.sent_s < before_s
            ]
            for request_id, asked in lost:
                self._end(request_id, asked, Outcome.PEER_LOST)

    def next_deadline_s(self) -> float | None:
        """Return when a request is late next."""
        due = self._due
        while due and due[0][1] not in self._asked:
            heappop(due)
        return due[0][0] if due else None

    def on_deadline(self, now_s: float) -> None:
        """Send again what is late, give up what is over."""
        due = self._due
        while due and due[0][0] <= now_s:
            _, request_id = heappop(due)
            asked = self._asked.get(request_id)
            if asked is not None:
                self._late(request_id, asked, now_s)

    def _late(self, request_id: int, asked: _Asked[Peer], now_s: float) -> None:
        if now_s >= asked.until_s:
            self.timed_out += 1
            self._end(request_id, asked, Outcome.TIMED_OUT)
            return
        if asked.tries < asked.tries_max:
            asked.tries += 1
            asked.wait_s *= 2
            self.retried += 1
            self._sends.append((asked.peer, asked.frame))
        else:
            asked.wait_s = DOUBT_S
            self._doubted[asked.peer] = None
        heappush(self._due, (min(asked.until_s, now_s + asked.wait_s), request_id))

    def take_sends(self) -> list[tuple[Peer, bytes]]:
        """Return the plaintexts that are to go out, and to whom."""
        sends, self._sends = self._sends, []
        return sends

    def take_doubted(self) -> list[Peer]:
        """Return the peers that have not answered any try of a request."""
        doubted, self._doubted = list(self._doubted), {}
        return doubted

    def take_ended(self) -> list[Ended[Peer]]:
        """Return what ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def _end(self, request_id: int, asked: _Asked[Peer], outcome: Outcome) -> None:
        self._forget(request_id, asked)
        self._ended.append(Ended(request_id, asked.peer, outcome))

    def _forget(self, request_id: int, asked: _Asked[Peer]) -> None:
        del self._asked[request_id]
        left = self._per_peer[asked.peer] - 1
        if left:
            self._per_peer[asked.peer] = left
        else:
            del self._per_peer[asked.peer]


class Answered(Generic[Peer]):
    """Replies to requests that must not be carried out twice, until they are old or many."""

    def __init__(self) -> None:
        self._replies: OrderedDict[tuple[Peer, int], tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._replies)

    def find(self, peer: Peer, request_id: int) -> bytes | None:
        """Return the reply that was given; empty while it is still being worked on."""
        found = self._replies.get((peer, request_id))
        return None if found is None else found[1]

    def note(self, peer: Peer, request_id: int, reply: bytes, *, now_s: float) -> None:
        """Remember a reply; empty when the work has only begun."""
        old = self._replies.pop((peer, request_id), None)
        self._bytes += len(reply) - (0 if old is None else len(old[1]))
        self._replies[peer, request_id] = (now_s, reply)
        while self._over(now_s):
            _, (_, gone) = self._replies.popitem(last=False)
            self._bytes -= len(gone)

    def _over(self, now_s: float) -> bool:
        if not self._replies:
            return False
        oldest_s = next(iter(self._replies.values()))[0]
        return (
            now_s - oldest_s > limits.ANSWERS_KEEP_S
            or len(self._replies) > limits.ANSWERS_MAX
            or self._bytes > limits.ANSWERS_BYTES_MAX
        )
