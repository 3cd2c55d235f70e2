"""The state machine of one peer: three sessions, its timers, its address. Decides; sends nothing.

A responder must not use new keys before the initiator's first packet under them, and what was
sealed under the old ones may still be on its way, so there are three slots: previous, current and
next. Timers are instants; one that is off is `NEVER`. The endpoint asks `due_s` and calls then.
Source: the WireGuard paper, section 6; docs/reference/packets.md, "Timers".
"""

from dataclasses import dataclass
from typing import Final

from molia.base.crypto import ExchangeKey
from molia.base.ids import PeerKey
from molia.base.limits import WAITING_BYTES_MAX, WAITING_PACKETS_MAX
from molia.wire.cookies import COOKIE_LIFE_S, Address
from molia.wire.noise import NO_PSK, Initiator
from molia.wire.puzzle import NO_EFFORT
from molia.wire.session import REJECT_AFTER_S, Session

NEVER: Final = float("inf")
RETRY_S: Final = 5.0
RETRY_JITTER_S: Final = 0.333
GIVE_UP_S: Final = 90.0
KEEPALIVE_S: Final = 10.0
SILENCE_S: Final = KEEPALIVE_S + RETRY_S
FORGET_S: Final = 3 * REJECT_AFTER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When keys are renewed. The defaults are WireGuard's; tests shorten them."""

    rekey_on_send_s: float = 120.0
    rekey_on_receive_s: float = REJECT_AFTER_S - SILENCE_S
    retry_s: float = RETRY_S
    """Between two initiations to one peer."""


WIREGUARD_TIMING: Final = Timing()


@dataclass(slots=True, repr=False)
class Pending:
    """An initiation of ours that waits for its answer."""

    noise: Initiator
    index: bytes


class Peer:
    """One peer, or one worker of it: each worker of a node keeps sessions of its own."""

    __slots__ = (
        "address", "answered_at", "challenge", "challenged_s", "cookie", "cookie_s", "credit",
        "current", "effort", "features", "first_s", "forget_due_s", "handshake_due_s", "heard_s",
        "hurried_s", "identity", "is_configured", "is_up", "keepalive_due_s", "last_mac1", "life",
        "next", "next_life",
        "pending", "persistent_due_s", "persistent_s", "previous", "proof", "proved", "psk",
        "rekey_heard_s", "rekey_sent_s", "request", "silence_due_s", "solving", "stamped",
        "started_s", "static", "their_life", "timing", "waiting", "wake_s", "worker",
    )  # fmt: skip

    def __init__(
        self, static: bytes, *, identity: PeerKey | None, address: Address | None, timing: Timing,
        psk: bytes = NO_PSK, worker: int = 0,
    ) -> None:  # fmt: skip
        self.static, self.identity, self.psk, self.worker = static, identity, psk, worker
        self.timing = timing
        self.address = address
        """Where to send to; it follows authenticated packets."""
        self.proved = True
        """False while nothing showed that the peer itself is at `address`."""
        self.credit = 0
        """Bytes that an unproved address may still be sent."""
        self.challenge, self.challenged_s = b"", -NEVER
        self.answered_at: Address | None = None
        self.previous: Session | None = None
        self.current: Session | None = None
        self.next: Session | None = None
        self.pending: Pending | None = None
        self.is_up = self.is_configured = False
        self.rekey_sent_s = self.rekey_heard_s = NEVER
        """When traffic that is sent or heard calls for new keys."""
        self.last_mac1 = b""
        """Of our last handshake message: a cookie reply is bound to it."""
        self.stamped = b""
        """The timestamp of our last initiation."""
        self.solving: ExchangeKey | None = None
        """The ephemeral key that a puzzle is being solved for."""
        self.cookie, self.cookie_s = b"", -NEVER
        self.effort = NO_EFFORT
        self.features, self.proof = 0, b""
        self.life = self.their_life = self.next_life = b""
        """Names of what we and the peer remember of each other, and of what `next` will bring."""
        self.request: bytes | None = None
        """Early data for the next initiation."""
        self.waiting: list[bytes] = []
        self.persistent_s = 0.0
        self.started_s = self.first_s = self.hurried_s = self.heard_s = -NEVER
        self.handshake_due_s = self.keepalive_due_s = self.silence_due_s = NEVER
        self.persistent_due_s = self.forget_due_s = NEVER
        self.wake_s = NEVER
        """When the endpoint will look at this peer."""

    def __repr__(self) -> str:
        return f"Peer({self.identity.short if self.identity else self.static.hex()[:8]})"

    @property
    def key(self) -> bytes:
        """What the peer is found by: its static key and its worker."""
        return self.static + bytes((self.worker,))

    # -- sessions

    def usable(self, now_s: float) -> Session | None:
        """Return the session to send under."""
        session = self.current
        if session is not None and session.is_alive(now_s):
            return session
        return None

    @property
    def has_sessions(self) -> bool:
        """Whether anything was ever agreed with the peer that is still kept."""
        return (self.previous or self.current or self.next) is not None

    def install(self, session: Session) -> list[Session]:
        """Take the session of a finished handshake; return those that it drives out."""
        self.forget_due_s = session.created_s + FORGET_S
        if not session.is_initiator:
            out = [self.next, self.previous]
            self.next, self.previous = session, None
        elif self.next is not None:
            out = [self.previous, self.current]
            self.previous, self.current, self.next = self.next, session, None
        else:
            out = [self.previous]
            self.previous, self.current = self.current, session
        if session.is_initiator:
            self._on_fresh_keys()
        return [old for old in out if old]

    def confirm(self, session: Session) -> list[Session]:
        """Move the next session up, for its first packet came; return what it drives out."""
        assert session is self.next, "only the next session waits for this"
        out, self.previous = self.previous, self.current
        self.current, self.next = session, None
        self._on_fresh_keys()
        return [out] if out else []

    def _on_fresh_keys(self) -> None:
        """Say when these keys are to be renewed: only who initiated renews them by their age."""
        session = self.current
        assert session is not None, "fresh keys are current"
        if self.previous is not None:
            self.previous.cool()
        born_s, timing = session.created_s, self.timing
        ours = session.is_initiator
        self.rekey_sent_s = born_s + timing.rekey_on_send_s if ours else NEVER
        self.rekey_heard_s = born_s + timing.rekey_on_receive_s if ours else NEVER

    def drop_sessions(self) -> list[Session]:
        """Empty the three slots; return what was in them."""
        slots = (self.previous, self.current, self.next)
        self.previous = self.current = self.next = None
        self.forget_due_s = self.rekey_sent_s = self.rekey_heard_s = NEVER
        return [session for session in slots if session]

    # -- traffic

    def on_sent(self, now_s: float, *, data: bool) -> None:
        """Note that an authenticated packet went out; `data`: with something in it."""
        self.keepalive_due_s = NEVER
        if data and self.silence_due_s == NEVER:
            self.silence_due_s = now_s + SILENCE_S
        if self.persistent_s:
            self.persistent_due_s = now_s + self.persistent_s

    def on_heard(self, now_s: float, *, data: bool) -> None:
        """Note that an authenticated packet came in."""
        self.heard_s = now_s
        self.silence_due_s = NEVER
        if data and self.keepalive_due_s == NEVER:
            self.keepalive_due_s = now_s + KEEPALIVE_S
        if self.persistent_s:
            self.persistent_due_s = now_s + self.persistent_s

    def queue(self, plaintext: bytes) -> bool:
        """Keep a plaintext until there are keys; False when there is no room."""
        size = sum(map(len, self.waiting)) + len(plaintext)
        if len(self.waiting) >= WAITING_PACKETS_MAX or size > WAITING_BYTES_MAX:
            return False
        self.waiting.append(plaintext)
        return True

    # -- our handshakes

    def may_initiate(self, now_s: float) -> bool:
        """Tell whether an initiation may go out: one per 5 s, and to proved addresses only."""
        return (
            self.address is not None
            and self.proved
            and now_s - self.started_s >= self.timing.retry_s
        )

    def fresh_cookie(self, now_s: float) -> bytes:
        """Return the cookie that the peer gave us; b"" when there is none or it is old."""
        return self.cookie if now_s - self.cookie_s < COOKIE_LIFE_S else b""

    def due_s(self) -> float:
        """Return the earliest timer."""
        return min(
            self.handshake_due_s, self.keepalive_due_s, self.silence_due_s,
            self.persistent_due_s, self.forget_due_s,
        )  # fmt: skip

    def quiet(self) -> None:
        """Turn all timers off."""
        self.handshake_due_s = self.keepalive_due_s = self.silence_due_s = NEVER
        self.persistent_due_s = self.forget_due_s = NEVER
