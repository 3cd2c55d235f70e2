"""One blob's shares on their way to their holders: the job behind a put and a repair. A core.

It finds holders, makes a plan, offers, sends, and plans again whenever something changed, with
what is placed or under way taken as held: so a holder that fails or crawls is replaced and nothing
else starts anew. `cursor` can be saved at any time; a job that goes on from one asks its holders
what they have. Bytes are the shell's matter: it sends a share when told to and says how it went.
Source: docs/reference/distribution.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Final

from molia.base.deadlines import DeadlineTable
from molia.base.limits import HOLDER_CANDIDATES_MAX, PROVIDER_RECORD_SIZE_MAX, SHARE_STREAMS_MAX
from molia.blobs.placement import Candidate, Plan, losses_survived

_SHARE_TRIES_MAX: Final = 2
_KEY_SIZE: Final = 32
_PLACED_MAX: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionConfig:
    """How patient a job is."""

    streams: int = 16
    """Shares under way at once."""
    offer_s: float = 5.0
    """How long an offer may go unanswered."""
    stall_s: float = 15.0
    """How long a share may make no progress."""
    slow_factor: float = 4.0
    """A share that takes this much longer than the median of those that are done is too slow."""
    slow_min_s: float = 10.0
    """No share is too slow before this."""
    rounds: int = 3
    """How often holders are looked for."""
    round_s: float = 2.0
    """The wait before holders are looked for again; it doubles."""
    announce_tries: int = 3


@dataclass(frozen=True, slots=True)
class FindHolders:
    """Find nodes that offer space and give them to `on_candidates`, our own node among them."""

    count: int
    known: tuple[bytes, ...]
    """Nodes to ask for what they have (HAVE) and to include if they answer."""


@dataclass(frozen=True, slots=True)
class OfferShares:
    """Ask a node whether it keeps these; answer with `on_offered`, or nothing."""

    key: bytes
    shares: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SendShare:
    """Send a share from a stripe on; say `on_progress` and in the end `on_sent`."""

    key: bytes
    share: int
    first_stripe: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give up sending this: the holder was too slow. It may still say that it has it."""

    key: bytes
    share: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A share has come to rest."""

    key: bytes
    share: int
    placed: int
    total: int
    holders: int


@dataclass(frozen=True, slots=True)
class Announce:
    """Store these provider records with one walk, then say `on_announced`."""

    records: tuple[bytes, ...]
    unknown: tuple[tuple[bytes, int], ...] = ()
    """Nodes that gave none, each with a share that it had before: ask them for it, and store
    theirs too. Our own node may be among them."""


@dataclass(frozen=True, slots=True)
class Done:
    """All shares lie where the plan wants them."""

    survives: int
    holders: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Degraded:
    """The job ends with less than was asked for: too few nodes, or too little room."""

    survives: int
    """-1 when what was placed cannot be read back by itself."""
    holders: tuple[bytes, ...]
    unplaced: tuple[int, ...]
    reason: str


Effect = FindHolders | OfferShares | SendShare | Cancel | Placed | Announce | Done | Degraded
Planner = Callable[[Sequence[Candidate]], Plan]
"""`plan_shares` or `plan_copies` of one blob."""


@dataclass(slots=True)
class _Node:
    candidate: Candidate
    placed: dict[int, bytes] = field(default_factory=dict)
    """Share -> the node's provider record, or b""."""
    offered: tuple[int, ...] = ()
    ready: list[int] = field(default_factory=list)
    """Accepted, and waiting for a stream."""
    sending: dict[int, "_Sending"] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)
    is_out: bool = False
    """Gets nothing more."""

    def held(self) -> tuple[int, ...]:
        under_way = (*self.offered, *self.ready, *self.sending)
        return tuple(sorted(dict.fromkeys((*self.candidate.held, *self.placed, *under_way))))


@dataclass(slots=True)
class _Sending:
    started_s: float
    stripes: int


class Distribution:
    """One job.

    planner: what makes the plan. share_bytes: what a share takes of a holder's room. floor: losses
    to survive, for the outcome. cursor: of an earlier run. `start` gives the first effect.
    """

    def __init__(
        self, planner: Planner, *, shares: Sequence[int], share_bytes: int, needed: int,
        floor: int = 0, config: DistributionConfig | None = None,
        cursor: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self._planner, self._total, self._needed = planner, len(shares), needed
        self._shares, self._share_bytes, self._floor = tuple(shares), share_bytes, floor
        self.config = config or DistributionConfig()
        assert 1 <= self.config.streams <= SHARE_STREAMS_MAX, "streams have a bound"
        self._nodes: dict[bytes, _Node] = {}
        self._before = _from_cursor(cursor, self._shares)
        self._deadlines: DeadlineTable[tuple[str, bytes, int]] = DeadlineTable()
        self._effects: list[Effect] = []
        self._took_s: list[float] = []
        self._rounds = self._announced = 0
        self._promised = -1
        self._is_finding = self._is_announcing = self.is_over = False
        self.replaced = 0
        """Holders that failed or were too slow."""

    # ------------------------------------------------------------------ doors

    def start(self, *, now_s: float) -> None:
        """Begin, or go on."""
        self._find(now_s)

    def take_effects(self) -> list[Effect]:
        """Return what is to be done now, once."""
        effects, self._effects = self._effects, []
        return effects

    def next_deadline_s(self) -> float | None:
        """Return when `on_deadline` is to be called; None while there is nothing to wait for."""
        return self._deadlines.next_s()

    def on_candidates(self, candidates: Sequence[Candidate], *, now_s: float) -> None:
        """Take what was found, in order of preference; at most 200. Who is missing is gone."""
        if self.is_over or not self._is_finding:
            return
        self._is_finding = False
        found = candidates[:HOLDER_CANDIDATES_MAX]
        before, self._nodes = self._nodes, {}
        for candidate in found:
            node = before.get(candidate.key) or _Node(candidate)
            node.candidate = candidate
            earlier = self._before.get(candidate.key, {})
            node.placed |= {s: record for s, record in earlier.items() if s in candidate.held}
            self._nodes[candidate.key] = node
        for key, node in before.items():
            if key not in self._nodes and (node.sending or node.offered):
                self._nodes[key] = node  # what is under way ends by itself
        self._step(now_s)

    def on_offered(
        self, key: bytes, *, accepted: Sequence[int], kept: Sequence[int], now_s: float
    ) -> None:
        """Take the answer to an offer. What was neither accepted nor kept goes elsewhere."""
        node = self._nodes.get(key)
        if self.is_over or node is None or not node.offered:
            return
        self._deadlines.clear(("offer", key, 0))
        offered, node.offered = node.offered, ()
        node.ready += [share for share in offered if share in accepted and share not in kept]
        for share in offered:
            if share in kept:
                self._place(key, node, share, b"")
        node.is_out |= not all(share in accepted or share in kept for share in offered)
        self._step(now_s)

    def on_progress(self, key: bytes, share: int, *, stripes: int, now_s: float) -> None:
        """Take that so many stripes of a share, from the first on, have been acknowledged."""
        sending = self._sending(key, share)
        if sending is not None and stripes > sending.stripes:
            sending.stripes = stripes
            self._watch(key, share, sending, now_s)

    def on_sent(
        self, key: bytes, share: int, *, is_kept: bool, stripes: int = 0, record: bytes = b"",
        may_retry: bool = False, now_s: float,
    ) -> None:  # fmt: skip
        """Take how sending a share ended.

        record: the holder's provider record. may_retry: the stream broke, and `stripes` of the
        share are there; else the holder does not want it.
        """
        node = self._nodes.get(key)
        if self.is_over or node is None:
            return
        sending = node.sending.pop(share, None)
        self._deadlines.clear(("send", key, share))
        if is_kept:
            if sending is not None:
                self._took_s.append(now_s - sending.started_s)
            self._place(key, node, share, record)
        elif sending is not None:
            if may_retry and node.tries.get(share, 0) < _SHARE_TRIES_MAX and not node.is_out:
                self._send(key, node, share, stripes, now_s)
            else:
                self._drop(node)
        self._step(now_s)

    def on_announced(self, *, is_stored: bool, now_s: float) -> None:
        """Take whether the provider records were stored."""
        if self.is_over or not self._is_announcing:
            return
        self._is_announcing = False
        if is_stored or self._announced >= self.config.announce_tries:
            self._end(is_announced=is_stored)
        else:
            self._deadlines.set(("announce", b"", 0), now_s + self.config.round_s)

    def on_deadline(self, *, now_s: float) -> None:
        """Take that it is `now_s`: who is late is replaced."""
        for what, key, share in self._deadlines.take_due(now_s):
            node = self._nodes.get(key)
            if what == "find":
                self._find_or_go_on(now_s)
            elif what == "announce":
                self._announce()
            elif node is not None and what == "offer":
                node.offered = ()
                self._drop(node)
            elif node is not None and share in node.sending:
                del node.sending[share]
                self._effects.append(Cancel(key, share))
                self._drop(node)
        self._step(now_s)

    # ------------------------------------------------------------------ what is known

    @property
    def survives(self) -> int:
        """How many of the nodes that have shares now may vanish."""
        holdings = self._holdings()
        return losses_survived([shares for _, shares in holdings], needed=self._needed)

    @property
    def cursor(self) -> dict[str, Any]:
        """Where to go on, as JSON values: what lies where."""
        rows = [
            [key.hex(), share, record.hex()]
            for key, node in self._nodes.items()
            for share, record in sorted(node.placed.items())
        ]
        if not self._nodes:
            rows = [
                [key.hex(), share, record.hex()]
                for key, some in self._before.items()
                for share, record in sorted(some.items())
            ]
        return {"placed": rows}

    @property
    def holdings(self) -> dict[bytes, tuple[int, ...]]:
        """What lies where for certain, our own node included."""
        return {key: tuple(shares) for key, shares in self._holdings()}

    def _holdings(self) -> list[tuple[bytes, list[int]]]:
        """Return what lies where for certain."""
        found = []
        for key, node in self._nodes.items():
            shares = sorted(dict.fromkeys((*node.candidate.held, *node.placed)))
            wanted = [share for share in shares if share in self._shares]
            if wanted:
                found.append((key, wanted))
        return found

    # ------------------------------------------------------------------ steps

    def _find(self, now_s: float) -> None:
        self._rounds += 1
        self._is_finding = True
        known = dict.fromkeys((*self._before, *(k for k, n in self._nodes.items() if n.placed)))
        self._effects.append(FindHolders(2 * self._total, tuple(known)))
        self._deadlines.set(("find", b"", 0), now_s + self.config.round_s * 2**self._rounds * 5)

    def _find_or_go_on(self, now_s: float) -> None:
        """Look again; when nobody answered often enough, end with what there is."""
        if self._is_finding and self._rounds >= self.config.rounds:
            self._is_finding = False
        else:
            self._find(now_s)

    def _step(self, now_s: float) -> None:
        """Plan with what is held or under way, and do what is missing."""
        if self.is_over or self._is_finding or self._is_announcing:
            return
        self._deadlines.clear(("find", b"", 0))
        plan = self._planner([self._as_candidate(node) for node in self._nodes.values()])
        self._promised = max(self._promised, plan.survives)
        for key, node in self._nodes.items():
            moves = tuple(p.share for p in plan.moves if p.key == key)
            if moves and not node.offered:
                node.offered = moves
                self._effects.append(OfferShares(key, moves))
                self._deadlines.set(("offer", key, 0), now_s + self.config.offer_s)
        self._send_ready(now_s)
        if not any(n.offered or n.ready or n.sending for n in self._nodes.values()):
            self._settle(plan, now_s)

    def _as_candidate(self, node: _Node) -> Candidate:
        held = node.held()
        fresh = len(held) - len(node.candidate.held)
        room = node.candidate.room_bytes - fresh * self._share_bytes
        return replace(node.candidate, held=held, room_bytes=0 if node.is_out else max(room, 0))

    def _send_ready(self, now_s: float) -> None:
        under_way = sum(len(node.sending) for node in self._nodes.values())
        for key, node in self._nodes.items():
            if node.ready and not node.sending and under_way < self.config.streams:
                self._send(key, node, node.ready.pop(0), 0, now_s)
                under_way += 1

    def _send(self, key: bytes, node: _Node, share: int, stripe: int, now_s: float) -> None:
        node.tries[share] = node.tries.get(share, 0) + 1
        sending = node.sending[share] = _Sending(now_s, stripe)
        self._effects.append(SendShare(key, share, stripe))
        self._watch(key, share, sending, now_s)

    def _watch(self, key: bytes, share: int, sending: _Sending, now_s: float) -> None:
        """Set when the share is given up: without progress, or when it is far slower than most."""
        until_s = now_s + self.config.stall_s
        if 2 * len(self._took_s) >= self._total:
            usual_s = max(median(self._took_s) * self.config.slow_factor, self.config.slow_min_s)
            until_s = max(min(until_s, sending.started_s + usual_s), now_s)
        self._deadlines.set(("send", key, share), until_s)

    def _sending(self, key: bytes, share: int) -> _Sending | None:
        node = self._nodes.get(key)
        return None if node is None else node.sending.get(share)

    def _place(self, key: bytes, node: _Node, share: int, record: bytes) -> None:
        node.placed[share] = record or node.placed.get(share, b"")
        holdings = self._holdings()
        placed = len(dict.fromkeys(share for _, shares in holdings for share in shares))
        self._effects.append(Placed(key, share, placed, self._total, len(holdings)))

    def _drop(self, node: _Node) -> None:
        """Give a node nothing more; what it has stays, what it was to get goes elsewhere."""
        if not node.is_out:
            self.replaced += 1
        node.is_out = True
        node.ready.clear()

    def _settle(self, plan: Plan, now_s: float) -> None:
        """Nothing is under way: look for more nodes if that may help, else announce."""
        is_short = bool(plan.unplaced) or self.survives < max(self._promised, self._floor)
        has_lost = any(node.is_out for node in self._nodes.values()) or bool(plan.unplaced)
        if is_short and has_lost and self._rounds < self.config.rounds:
            wait_s = self.config.round_s * 2 ** (self._rounds - 1)
            self._deadlines.set(("find", b"", 0), now_s + wait_s)
        else:
            self._announce()

    def _announce(self) -> None:
        records = dict.fromkeys(
            record for node in self._nodes.values() for record in node.placed.values() if record
        )
        unknown = tuple(
            (key, shares[0])
            for key, shares in self._holdings()
            if not any(self._nodes[key].placed.values())
        )
        if not records and not unknown:
            self._end(is_announced=True)
            return
        self._announced += 1
        self._is_announcing = True
        self._effects.append(Announce(tuple(records), unknown))

    def _end(self, *, is_announced: bool) -> None:
        holdings = self._holdings()
        survives, holders = self.survives, tuple(key for key, _ in holdings)
        placed = dict.fromkeys(share for _, shares in holdings for share in shares)
        unplaced = tuple(share for share in self._shares if share not in placed)
        self.is_over = True
        for name in ("find", "announce"):
            self._deadlines.clear((name, b"", 0))
        if unplaced or survives < self._floor or not is_announced:
            reason = _reason(unplaced, survives, self._floor, len(holders))
            self._effects.append(Degraded(survives, holders, unplaced, reason))
        else:
            self._effects.append(Done(survives, holders))


def _reason(unplaced: Sequence[int], survives: int, floor: int, holders: int) -> str:
    if unplaced:
        return f"no room for {len(unplaced)} shares on {holders} nodes"
    if survives < floor:
        return f"{holders} nodes survive {max(survives, 0)} losses, not {floor}"
    return "the provider records could not be stored"


def _from_cursor(
    cursor: Mapping[str, Any] | None, shares: Sequence[int]
) -> dict[bytes, dict[int, bytes]]:
    """Return what lay where when the cursor was saved; nothing of rows that make no sense."""
    rows = (cursor or {}).get("placed")
    before: dict[bytes, dict[int, bytes]] = {}
    for row in rows[:_PLACED_MAX] if isinstance(rows, list) else ():
        if not isinstance(row, list) or len(row) != 3 or row[1] not in shares:
            continue
        try:
            key, record = bytes.fromhex(row[0]), bytes.fromhex(row[2])
        except (TypeError, ValueError):
            continue
        if len(key) == _KEY_SIZE and len(record) <= PROVIDER_RECORD_SIZE_MAX:
            before.setdefault(key, {})[row[1]] = record
    return before
