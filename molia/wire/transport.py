"""Requests and streams with every peer, over the sessions of one endpoint. A core.

What the pump drives, and what the DHT and the blobs talk through: `ask` for a small request,
`channel` for streams. Requests of others go to the `Server`, which answers at once or later.
Facts go in by calls, what happened comes out by `take_events`.
Source: docs/reference/requests.md, docs/reference/streams.md.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import ClassVar, Final

from molia.base import limits
from molia.base.crypto import Identity
from molia.base.entropy import Entropy
from molia.base.ids import PeerKey
from molia.base.limits import REQUEST_TRIES_MAX
from molia.base.now import Now
from molia.wire.channel import Channel, ChannelConfig
from molia.wire.cookies import Address, CookieSecret
from molia.wire.effects import (
    EarlyReply,
    PeerDown,
    PeerLeft,
    PeerUp,
    Rekeyed,
    Restarted,
    Roamed,
    Send,
    SolvePuzzle,
)
from molia.wire.endpoint import Endpoint
from molia.wire.frames import CLOSE, STREAMS, decode_frames, encode_frame, must_be_known
from molia.wire.gate import Admission, OpenAdmission
from molia.wire.handshake import EndpointConfig
from molia.wire.hello import REQUEST_SIZE_MAX
from molia.wire.messages import (
    EARLY,
    Busy,
    Close,
    CloseReason,
    Error,
    ErrorCode,
    Number,
    decode,
    encode,
)
from molia.wire.noise import Profile
from molia.wire.peer import WIREGUARD_TIMING, Peer
from molia.wire.requests import HEAD, REPLY, REQUEST, Answered, Ended, Outcome, Requests, pack
from molia.wire.scores import Offence, Standing
from molia.wire.stream_events import Event

Answer = tuple[int, bytes]
"""A reply's message number and its body."""
Handler = Callable[[Peer, int, bytes, Now], Answer | None]
"""Given who asks, the request's id, its body and the time: the answer, or None when it comes later
by `reply`. It must not block. Unless its number is among `once`, it may be asked the same twice."""

_ASKED_PER_S: Final = limits.PEER_REQUESTS_PER_S
_ASKED_BURST: Final = limits.PEER_REQUESTS_BURST
_BODY_AT: Final = HEAD.size
_REPLY_SIZE: Final = HEAD.size - 3
PENALTY_GAP_S: Final = 1.0
"""A flood is one offence a second, however many packets it has."""
SILENT_S: Final = 1.0
"""A peer that was heard within this is there, whatever became of a request."""
BURST: Final = limits.BURST_PACKETS_MAX
_UNKNOWN: Final = (
    int(Number.ERROR), encode(Error(code=ErrorCode.UNKNOWN_MESSAGE))
)  # fmt: skip
_BUSY: Final = (int(Number.BUSY), encode(Busy(retry_after_ms=1_000, effort_bits=0)))


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """Something happened on a stream with a peer."""

    peer: Peer
    event: Event
    channel: Channel
    """The stream's; the peer may have gone since, or have another."""


TransportEvent = PeerUp | PeerDown | PeerLeft | Roamed | SolvePuzzle | StreamEvent | Ended[Peer]


@dataclass(slots=True)
class TransportCounters:
    """What was asked, answered and refused."""

    requests_in: int = 0
    requests_unknown: int = 0
    requests_refused: int = 0
    """Requests of a peer that asks more than its share."""
    early_requests: int = 0
    malformed: int = 0
    """Sound packets whose frames are not: the session ends."""


class _Link:
    """What is kept for one peer while it is up."""

    __slots__ = ("allowance", "allowed_s", "channel", "penalised_s", "wake_s")

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.wake_s = float("inf")
        """When the channel is looked at next."""
        self.allowance, self.allowed_s = float(limits.PEER_REQUESTS_BURST), float("-inf")
        self.penalised_s = float("-inf")
        """When it was penalised last."""


class Transport:
    """One worker's conversations."""

    endpoint_type: ClassVar[type[Endpoint]] = Endpoint

    def __init__(
        self,
        profile: Profile,
        *,
        identity: Identity,
        entropy: Entropy,
        handlers: Mapping[int, Handler],
        once: Collection[int] = (),
        admission: Admission | None = None,
        secret: CookieSecret | None = None,
        config: EndpointConfig | None = None,
        channels: ChannelConfig | None = None,
    ) -> None:
        """handlers: by message number; what is not there is answered as unknown.

        once: numbers of what must not be carried out twice; a repeated one is answered from memory.
        """
        self.counters = TransportCounters()
        self._admission: Admission = admission or OpenAdmission()
        self.endpoint = self.endpoint_type(
            profile,
            static=identity.exchange_key,
            identity=identity.peer_key,
            entropy=entropy,
            handler=self,
            admission=self._admission,
            secret=secret,
            config=config,
        )
        self.datagram = self.endpoint.datagram
        """Takes one datagram; bytes returned go back to its sender. Not a method: that costs."""
        self.burst = self.endpoint.burst
        """Takes datagrams that came together from one sender; those returned go back to it."""
        self.requests: Requests[Peer] = Requests(entropy)
        self.answered: Answered[Peer] = Answered()
        self._identity, self._entropy = identity, entropy
        self._channels = channels or ChannelConfig()
        self._handlers, self._once = dict(handlers), frozenset(once)
        self._early: dict[tuple[Peer, bytes], deque[int]] = {}
        """Requests that ride in an initiation."""
        self._links: dict[Peer, _Link] = {}
        self._up: dict[Peer, None] = {}
        self._active: dict[Peer, None] = {}
        """Peers whose channel may have something to send, in turn."""
        self._wakes: list[tuple[float, int, Peer]] = []
        self._wake_count = 0
        self._events: list[TransportEvent] = []

    # ------------------------------------------------------------------ the pump's side

    def take_sends(self, now: Now) -> list[tuple[Sequence[bytes], Address]]:
        """Return the datagrams that are to go out, in order, and where to."""
        sends: list[tuple[Sequence[bytes], Address]] = []
        self._take_effects(sends, now)
        requests = self.requests.take_sends()
        if requests:
            for peer, plaintext in requests:
                self.endpoint.send(peer, plaintext, now)
            self._take_effects(sends, now)
        if self._active:
            self._take_streams(sends, now)
            self._take_effects(sends, now)
        return sends

    def next_deadline_s(self) -> float | None:
        """Return when `on_deadline` is to be called, in monotonic seconds."""
        due_s, request_s = self.endpoint.next_deadline_s(), self.requests.next_deadline_s()
        if due_s is None or (request_s is not None and request_s < due_s):
            due_s = request_s
        if self._wakes and (due_s is None or self._wakes[0][0] < due_s):
            due_s = self._wakes[0][0]
        return due_s

    @property
    def has_output(self) -> bool:
        """Tell whether `take_sends` or `take_events` may have something; cheaper than asking."""
        return bool(
            self._events or self._active or self.requests.has_output or self.endpoint.has_effects
        )

    def on_deadline(self, now: Now) -> None:
        """Do what is due."""
        self.endpoint.on_deadline(now)
        self.requests.on_deadline(now.mono_s)
        for peer in self.requests.take_doubted():
            if now.mono_s - peer.heard_s > SILENT_S:
                # it may have lost the session: a handshake tells sooner than the 15 s of silence
                self.endpoint.knock(peer, now)
        wakes = self._wakes
        while wakes and wakes[0][0] <= now.mono_s:
            due_s, _, peer = heappop(wakes)
            link = self._links.get(peer)
            if link is None or link.channel is None or link.wake_s != due_s:
                continue  # it was moved, or the peer is gone
            link.wake_s = float("inf")
            link.channel.on_deadline(now.mono_s)
            if link.channel.is_unanswered and now.mono_s - peer.heard_s > SILENT_S:
                self.endpoint.knock(peer, now)
            self._active[peer] = None

    # ------------------------------------------------------------------ the owner's side

    def serve(self, handlers: Mapping[int, Handler], *, once: Collection[int] = ()) -> None:
        """Answer these numbers too; both as at birth. For owners that need a transport to exist."""
        self._handlers.update(handlers)
        self._once |= frozenset(once)

    def connect(self, key: PeerKey, address: Address, now: Now) -> Peer | None:
        """Return the peer of a key, with a session or on its way to one; None: it is nobody's."""
        return self.endpoint.connect(key, address, now)

    def ask(
        self, peer: Peer, number: int, body: bytes, now: Now, *, timeout_s: float | None = None
    ) -> int:
        """Send a small request; `Ended` with the returned id says what came of it. Raises Busy."""
        return self.requests.ask(peer, number, body, now_s=now.mono_s, timeout_s=timeout_s)

    def ask_at(
        self, key: PeerKey, address: Address, number: int, body: bytes, now: Now, *,
        timeout_s: float | None = None, tries: int = REQUEST_TRIES_MAX,
    ) -> int | None:  # fmt: skip
        """Ask whoever has this key, there may be a session or not; as `ask`.

        To a stranger a harmless request rides in the first packet, and its answer in the second.
        None: the key is our own or nobody's. Raises Busy.
        """
        known, request = self.endpoint.find(key), None
        if known is None or known.usable(now.mono_s) is None:
            fits = number in EARLY and len(body) < REQUEST_SIZE_MAX
            request = bytes((number,)) + body if fits else None
        peer = self.endpoint.connect(key, address, now, request=request)
        if peer is None:
            return None
        request_id = self.requests.ask(
            peer, number, body, now_s=now.mono_s, timeout_s=timeout_s, tries=tries,
            is_on_its_way=request is not None,
        )  # fmt: skip
        if request is not None:
            self._early.setdefault((peer, request), deque()).append(request_id)
        return request_id

    def has_session(self, key: PeerKey, now: Now) -> bool:
        """Tell whether asking this peer costs no handshake."""
        peer = self.endpoint.find(key)
        return peer is not None and peer.usable(now.mono_s) is not None

    def reply(self, peer: Peer, request_id: int, answer: Answer, now: Now) -> None:
        """Answer a request for which a handler returned None; who has gone gets no answer."""
        if not peer.is_up:
            return
        packed = pack(REPLY, request_id, *answer)
        if self.answered.find(peer, request_id) is not None:
            self.answered.note(peer, request_id, packed, now_s=now.mono_s)
        self.endpoint.send(peer, packed, now)

    def channel(self, peer: Peer, now: Now) -> Channel:
        """Return the streams with a peer. After any call on it call `touch`, then flush."""
        link = self._link(peer)
        if link.channel is None:
            assert peer.identity is not None, "streams are of the molia profile"
            link.channel = Channel(
                self._channels,
                initiator=self._identity.peer_key.key < peer.identity.key,
                entropy=self._entropy,
                now_s=now.mono_s,
            )
        return link.channel

    def touch(self, peer: Peer) -> None:
        """Say that a peer's channel may have something to send."""
        self._active[peer] = None

    def take_events(self) -> list[TransportEvent]:
        """Return what happened since the last call."""
        events, self._events = self._events, []
        for ended in self.requests.take_ended():
            if ended.outcome is Outcome.TIMED_OUT:
                self._leave_alone(ended.peer)
            events.append(ended)
        return events

    def _leave_alone(self, peer: Peer) -> None:
        """Knock no more at an address that said nothing at all: it may be a third party's."""
        is_stranger = not peer.is_up and peer.current is None and peer.next is None
        has_spoken = peer.fresh_cookie(peer.started_s) or peer.effort.bits
        is_wanted = self.requests.count_to(peer) or peer in self._links or peer.is_configured
        if is_stranger and not has_spoken and not is_wanted:
            self._forget_early(peer)
            self.endpoint.close(peer)

    def _forget_early(self, peer: Peer) -> None:
        """Wait no more for an answer in a handshake that is over."""
        if peer.request is not None:
            self._early.pop((peer, peer.request), None)

    def close(self, peer: Peer, now: Now, reason: CloseReason = CloseReason.DONE) -> None:
        """End the session with a peer, and tell it."""
        if peer.usable(now.mono_s) is not None:  # else there is nobody to tell
            body = encode(Close(reason=reason))
            self.endpoint.send(peer, encode_frame(CLOSE, body), now)
        self.endpoint.close(peer)

    def close_all(self, now: Now) -> None:
        """Tell every peer that this node ends: they knock again at once if they want something."""
        for peer in list(self._up):
            self.close(peer, now, CloseReason.SHUTTING_DOWN)

    @property
    def peer_count(self) -> int:
        """How many peers have a session that both sides know."""
        return len(self._up)

    def up_peers(self) -> list[Peer]:
        """Return the peers that have such a session."""
        return list(self._up)

    # ------------------------------------------------------------------ what peers say

    def is_ignored(self, peer: Peer, now_s: float) -> bool:
        """Tell whether a peer's requests are not answered, by whatever session they come."""
        if peer.identity is None:
            return False
        return self._admission.standing(peer.identity, now_s) is not Standing.GOOD

    def on_plaintext(self, peer: Peer, plaintext: bytes, now: Now) -> bytes | None:
        """Take one packet's plaintext; return one to be sealed and sent back at once."""
        kind = plaintext[0]
        if kind == REQUEST and len(plaintext) >= HEAD.size:
            _, size, request_id, number = HEAD.unpack_from(plaintext)
            if size + 3 == len(plaintext):
                return self._on_request(peer, request_id, number, plaintext[_BODY_AT:], now)
        elif kind == REPLY and len(plaintext) >= HEAD.size:
            _, size, request_id, number = HEAD.unpack_from(plaintext)
            if size + 3 == len(plaintext):
                body = plaintext[HEAD.size :]
                self.requests.on_reply(peer, request_id, number, body, now_s=now.mono_s)
                return None
        elif kind in STREAMS:
            self._on_streams(peer, [plaintext], now)
            return None
        return self._on_mixed(peer, plaintext, now)

    def on_plaintexts(self, peer: Peer, plaintexts: list[bytes], now: Now) -> Sequence[bytes]:
        """Take those of a burst; return any number to be sent back at once."""
        if plaintexts[0][0] in STREAMS and plaintexts[-1][0] in STREAMS:
            kept = [plaintext for plaintext in plaintexts if plaintext[0] in STREAMS]
            self._on_streams(peer, kept, now)
            if len(kept) == len(plaintexts):
                return ()
            plaintexts = [plaintext for plaintext in plaintexts if plaintext[0] not in STREAMS]
        answers = [self.on_plaintext(peer, plaintext, now) for plaintext in plaintexts]
        return [answer for answer in answers if answer is not None]

    def is_wanted(self, peer: Peer) -> bool:
        """Tell whether a request or a stream waits for a session with a peer."""
        link = self._links.get(peer)
        return self.requests.count_to(peer) > 0 or (link is not None and link.channel is not None)

    def on_early(
        self, identity: PeerKey, address: Address, request: bytes, now: Now
    ) -> bytes | None:
        """Answer the request in an initiation: only what is harmless when it comes twice."""
        handler = self._handlers.get(request[0]) if request and request[0] in EARLY else None
        if handler is None:
            return None
        asker = Peer(b"", identity=identity, address=address, timing=WIREGUARD_TIMING)
        if self.is_ignored(asker, now.mono_s):
            return None
        self.counters.early_requests += 1
        answer = handler(asker, 0, request[1:], now)
        return None if answer is None else bytes((answer[0],)) + answer[1]

    def _on_request(
        self, peer: Peer, request_id: int, number: int, body: bytes, now: Now
    ) -> bytes | None:
        self.counters.requests_in += 1
        link = self._links.get(peer) or self._link(peer)
        now_s = now.mono_s
        allowance = link.allowance + (now_s - link.allowed_s) * _ASKED_PER_S
        link.allowed_s = now_s
        if allowance > _ASKED_BURST:
            allowance = _ASKED_BURST
        if allowance < 1.0 or self.is_ignored(peer, now_s):
            link.allowance = allowance
            return self._refuse(peer, link, request_id, now_s)
        link.allowance = allowance - 1.0
        handler = self._handlers.get(number)
        if handler is None:
            self.counters.requests_unknown += 1
            return pack(REPLY, request_id, *_UNKNOWN)
        if number in self._once:
            return self._answer_once(handler, peer, request_id, body, now)
        answer = handler(peer, request_id, body, now)
        if answer is None:
            return None
        number, body = answer
        return HEAD.pack(REPLY, _REPLY_SIZE + len(body), request_id, number) + body

    def _answer_once(
        self, handler: Handler, peer: Peer, request_id: int, body: bytes, now: Now
    ) -> bytes | None:
        """Answer what must not be carried out twice: a repeated one as the first time."""
        known = self.answered.find(peer, request_id)
        if known is not None:
            return known or None  # empty while it is being worked on
        self.answered.note(peer, request_id, b"", now_s=now.mono_s)
        answer = handler(peer, request_id, body, now)
        if answer is None:
            return None
        packed = pack(REPLY, request_id, *answer)
        self.answered.note(peer, request_id, packed, now_s=now.mono_s)
        return packed

    def _refuse(self, peer: Peer, link: _Link, request_id: int, now_s: float) -> bytes | None:
        """Tell a peer that asks more than its share to wait; one that does not is not heard."""
        self.counters.requests_refused += 1
        if self.is_ignored(peer, now_s):
            return None
        if now_s >= link.penalised_s + PENALTY_GAP_S:
            link.penalised_s = now_s
            if peer.identity is not None and peer.address is not None:
                self._admission.penalise(peer.identity, peer.address, Offence.FLOOD, now_s)
        return pack(REPLY, request_id, *_BUSY)

    def _on_mixed(self, peer: Peer, plaintext: bytes, now: Now) -> bytes | None:
        """Take a packet of several frames, or of frames seldom seen."""
        frames = decode_frames(plaintext)
        if frames is None:
            self._end(peer)
            return None
        answers: list[bytes] = []
        streams: list[bytes] = []
        for kind, body in frames:
            if kind in STREAMS:
                streams.append(encode_frame(kind, body))
            elif kind in (REQUEST, REPLY):
                if len(body) < HEAD.size - 3:
                    self._end(peer)
                    return None
                answer = self.on_plaintext(peer, encode_frame(kind, body), now)
                if answer is not None:
                    answers.append(answer)
            elif kind == CLOSE:
                said = decode(Number.CLOSE, body)
                if isinstance(said, Close) and said.reason == CloseReason.SHUTTING_DOWN:
                    self._events.append(PeerLeft(peer))
                self.endpoint.close(peer)
                return None
            elif must_be_known(kind):
                self._end(peer)
                return None
        if streams:
            self._on_streams(peer, [b"".join(streams)], now)
        for answer in answers[1:]:
            self.endpoint.send(peer, answer, now)
        return answers[0] if answers else None

    def _end(self, peer: Peer) -> None:
        """Close a session with a peer that does not keep to the protocol."""
        self.counters.malformed += 1
        self.endpoint.close(peer)

    # ------------------------------------------------------------------ streams

    def _link(self, peer: Peer) -> _Link:
        link = self._links.get(peer)
        if link is None:
            link = self._links[peer] = _Link()
        return link

    def _on_streams(self, peer: Peer, payloads: list[bytes], now: Now) -> None:
        channel = self.channel(peer, now)
        channel.on_payloads(payloads, now.mono_s)
        self._active[peer] = None

    def _take_streams(self, sends: list[tuple[Sequence[bytes], Address]], now: Now) -> None:
        """Let each channel with something to say send a few bursts, in turn."""
        active, self._active = self._active, {}
        for peer in active:
            link = self._links.get(peer)
            if link is None or link.channel is None:
                continue
            self._take_channel(peer, link, link.channel, sends, now)

    def _take_channel(
        self, peer: Peer, link: _Link, channel: Channel,
        sends: list[tuple[Sequence[bytes], Address]], now: Now,
    ) -> None:  # fmt: skip
        for event in channel.take_events():
            self._events.append(StreamEvent(peer, event, channel))
        if peer.usable(now.mono_s) is None:
            self.endpoint.knock(peer, now)
        elif peer.address is not None:
            for _ in range(limits.CHANNEL_BURSTS_MAX):
                payloads = channel.take_payloads(now.mono_s, BURST)
                if not payloads:
                    break
                packets = self.endpoint.seal_many(peer, payloads, now)
                if packets:
                    sends.append((packets, peer.address))
            else:
                self._active[peer] = None
        if channel.broken is not None and peer in self._links:
            self.endpoint.close(peer)
            return
        self._arm(peer, link, now)

    def _arm(self, peer: Peer, link: _Link, now: Now) -> None:
        assert link.channel is not None
        due_s = now.mono_s if peer in self._active else link.channel.next_deadline_s()
        if due_s is not None and peer.usable(now.mono_s) is None:
            due_s = max(due_s, now.mono_s + SILENT_S)  # keys that come wake it
        if due_s is not None and due_s < link.wake_s:
            link.wake_s = due_s
            self._wake_count += 1
            if len(self._wakes) > 4 * len(self._links) + limits.STREAMS_MAX:
                self._wakes = sorted(w for w in self._wakes if self._is_live(w[0], w[2]))
            heappush(self._wakes, (due_s, self._wake_count, peer))

    def _is_live(self, due_s: float, peer: Peer) -> bool:
        link = self._links.get(peer)
        return link is not None and link.wake_s == due_s

    # ------------------------------------------------------------------ effects

    def _take_effects(self, sends: list[tuple[Sequence[bytes], Address]], now: Now) -> None:
        for effect in self.endpoint.take_effects():
            if isinstance(effect, Send):
                sends.append((effect.packets, effect.address))
            elif isinstance(effect, PeerDown):
                self._up.pop(effect.peer, None)
                self._forget_early(effect.peer)
                self._on_down(effect.peer)
                self._events.append(effect)
            elif isinstance(effect, Restarted):
                self._on_down(effect.peer, effect.since_s)
            elif isinstance(effect, Roamed):
                link = self._links.get(effect.peer)
                if link is not None and link.channel is not None:
                    link.channel.on_path_changed(now.mono_s)
                self._events.append(effect)
            elif isinstance(effect, PeerUp):
                self._up[effect.peer] = None
                self._events.append(effect)
                self._active[effect.peer] = None
            elif isinstance(effect, Rekeyed):
                self._active[effect.peer] = None  # its streams may have waited for keys
            elif isinstance(effect, SolvePuzzle):
                self._events.append(effect)
            elif isinstance(effect, EarlyReply):
                self._on_early_reply(effect, now)

    def _on_early_reply(self, told: EarlyReply, now: Now) -> None:
        """Take what became of a request in our first packet; without an answer it goes again."""
        waiting = self._early.get((told.peer, told.request))
        if not waiting:
            return
        request_id = waiting.popleft()
        if not waiting:
            del self._early[told.peer, told.request]
        if told.reply:
            self.requests.on_reply(
                told.peer, request_id, told.reply[0], told.reply[1:], now_s=now.mono_s
            )
        else:
            self.requests.send_again(request_id)

    def _on_down(self, peer: Peer, since_s: float = float("inf")) -> None:
        """Forget what belonged to a session that is over; requests from `since_s` on do not."""
        self.requests.on_peer_lost(peer, before_s=since_s)
        link = self._links.pop(peer, None)
        self._active.pop(peer, None)
        if link is not None and link.channel is not None:
            link.channel.close()
            for event in link.channel.take_events():
                self._events.append(StreamEvent(peer, event, link.channel))
