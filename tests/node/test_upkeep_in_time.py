"""Audits, health and repairs over weeks, in virtual time: the cores of fourteen holders, no socket.

One holder loses its blocks and goes on answering: only an audit can find that out.
"""

from collections import Counter
from dataclasses import replace

from molia.base.cid import Cid, Codec
from molia.base.crypto import Identity
from molia.base.limits import DATA_SHARES, TOTAL_SHARES
from molia.base.now import Now
from molia.blobs.audit import EPOCH_S, RETRY_S, Answer, AuditRecord, due_audits
from molia.blobs.placement import Place
from molia.blobs.repair import Repair, RepairQueue, Stop
from molia.blobs.spreading import SpreadQueue, is_crowded
from molia.blobs.standing import RepairConfig, Standing
from molia.blobs.statements import Kind, Statement, state
from molia.node.keeping import Others
from molia.node.standings import Facts, Here, places_of, standing_of
from molia.node.watched import Seen, Watched

CID = Cid(Codec.MANIFEST, bytes(range(32)))
SIZE, AT = 30_000_000, ("198.51.100.7", 7071)
LOC, NETWORK = bytes(32), bytes(32)
IDENTITIES = [Identity(bytes([n + 1]) * 32) for n in range(TOTAL_SHARES + 1)]
KEYS = [identity.peer_key.key for identity in IDENTITIES]
SPARE = TOTAL_SHARES
"""A node that holds nothing at first."""
START = Now(1_000.0, 1_800_000_000.0)
STEP_S = 1_800.0
WORK_S = 600.0
"""What a repair takes."""


class Holder:
    """What one node knows and does, as `node.keeping` and `node.repairs` drive it."""

    def __init__(self, number: int, world: "World") -> None:
        self.number, self.key, self._world = number, KEYS[number], world
        self.queue = RepairQueue(self.key, now=START, config=RepairConfig())
        self.watched = Watched(1)
        self.counts: Counter[str] = Counter()
        self.missing: tuple[int, ...] = ()
        self._ends_s: float | None = None

    @property
    def shares(self) -> tuple[int, ...]:
        """What it keeps, as it thinks."""
        return self._world.named[self.number]

    def facts(self) -> Facts:
        """What it knows now; all answer."""
        here = Here(CID, SIZE, b"", self.shares, is_whole=False)
        return Facts(here, self.watched, dict.fromkeys(self.watched.holders, True))

    def look(self, now: Now) -> Standing:
        """Look at the blob: audit what is due, and tell the queue."""
        named = [n for n in self._world.named if n != self.number]
        self.watched.take(
            [(KEYS[n], Seen(self._world.named[n], False, AT)) for n in named], unix_s=now.unix_s
        )
        places = places_of(self.facts(), self.key)
        records = self.watched.audits
        for place in due_audits(CID.digest, places, records, own=self.key, unix_s=now.unix_s):
            answer = Answer.SOUND if self._world.has(place) else Answer.ABSENT
            self.counts[answer.value] += 1
            before = records.get(place, AuditRecord())
            records[place] = before.after(answer, now.unix_s)
        standing = standing_of(self.facts(), self.key)
        self.queue.on_standing(CID, standing, loc=LOC, share_bytes=2**20, now=now)
        return standing

    def act(self, now: Now) -> None:
        """Begin what is our turn; what was begun a while ago ends."""
        if self._ends_s is not None and now.mono_s >= self._ends_s:
            self._ends_s = None
            self.counts["repaired"] += 1
            self._world.place(self.missing)
            self._world.ended(self)
            self.queue.on_repaired(CID, is_placed=True, now=now)
        self.queue.on_deadline(now)
        for effect in self.queue.take_effects():
            match effect:
                case Repair(missing=missing, until_unix_s=until):
                    self.missing, self._ends_s = missing, now.mono_s + WORK_S
                    self.counts["begun"] += 1
                    self._world.claim(self, now, until)
                case Stop():
                    self._ends_s = None

    def survives(self) -> int:
        """What health says: how many may vanish, by what this node knows."""
        sound = {place.share: it.sound_unix_s for place, it in self.watched.audits.items()}
        shares = {key: seen.shares for key, seen in self.watched.holders.items()}
        known = Others(shares, self.watched.lost, frozenset(), sound, frozenset(shares))
        every = {share for held in known.now({}).values() for share in held} | {*self.shares}
        return len(every) - DATA_SHARES


class World:
    """Who names itself a holder of what, and who has lost it."""

    def __init__(self) -> None:
        self.named: dict[int, tuple[int, ...]] = {n: (n,) for n in range(TOTAL_SHARES)}
        self.broken: set[Place] = set()
        self.holders = {n: Holder(n, self) for n in range(TOTAL_SHARES)}
        self.now_s = 0.0

    def has(self, place: Place) -> bool:
        """Tell whether a node can show a block of a share."""
        return place not in self.broken

    def place(self, shares: tuple[int, ...]) -> None:
        """A repair ends: a node that had nothing keeps what was made."""
        self.named[SPARE] = tuple(sorted({*self.named.get(SPARE, ()), *shares}))
        self.holders.setdefault(SPARE, Holder(SPARE, self))

    def claim(self, by: Holder, now: Now, until: int) -> None:
        """Tell the others who repairs."""
        made: Statement = state(
            Kind.CLAIM, IDENTITIES[by.number], NETWORK, CID.digest, issued=int(now.unix_s),
            expires=until,
        )  # fmt: skip
        for other in self.holders.values():
            if other is not by:
                other.queue.on_claim(CID, made, now)

    def ended(self, by: Holder) -> None:
        """A repair is over: whoever is counted as begun was the only one."""
        assert all(h.queue.under_way() == [] for h in self.holders.values() if h is not by)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += STEP_S
            now = START.after(self.now_s)
            for holder in list(self.holders.values()):
                holder.look(now)
                holder.act(now)

    def total(self, what: str) -> int:
        """Return how often something happened, over all nodes."""
        return sum(holder.counts[what] for holder in self.holders.values())


def test_a_loss_that_nobody_tells_is_known_and_repaired_once_within_one_audit_period() -> None:
    world = World()
    world.run(EPOCH_S + STEP_S)
    assert world.total("sound") >= TOTAL_SHARES
    assert (world.total("absent"), world.total("begun")) == (0, 0)
    assert {holder.survives() for holder in world.holders.values()} == {4}
    lost = Place(3, KEYS[3])
    world.broken.add(lost)
    world.run(EPOCH_S + 3 * RETRY_S)
    knowing = [h for h in world.holders.values() if lost in h.watched.lost]
    assert knowing, "a period has gone and nobody knows"
    world.run(2 * RETRY_S + TOTAL_SHARES * RepairConfig().takeover_s)
    assert (world.total("begun"), world.total("repaired")) == (1, 1)
    assert world.named[SPARE] == (3,)
    assert {holder.survives() for holder in knowing} == {4}
    for holder in knowing:
        assert holder.look(START.after(world.now_s)).missing == ()
    world.run(EPOCH_S)
    assert (world.total("begun"), world.total("repaired")) == (1, 1), "it is repaired again"
    assert all(max(r.sound_unix_s for r in h.watched.audits.values()) > START.unix_s
               for h in world.holders.values() if h.watched.audits)  # fmt: skip


def test_until_it_is_repaired_health_of_who_knows_says_one_less() -> None:
    world = World()
    lost = Place(3, KEYS[3])
    world.broken.add(lost)
    seen: list[int] = []
    while not seen:
        world.run(STEP_S)
        seen = [h.survives() for h in world.holders.values() if lost in h.watched.lost]
        assert world.now_s <= EPOCH_S + 3 * RETRY_S
    assert seen == [3]
    assert world.total("begun") == 0, "shares that are lost wait a minute, and for their turn"


def test_absences_all_day_long_set_off_no_spreading() -> None:
    queue = SpreadQueue(KEYS[0], config=replace(RepairConfig(), grace_low_s=3_600.0))
    others = {KEYS[n]: (n,) for n in range(2, TOTAL_SHARES)}
    tried = 0
    look_s = 300.0
    for step in range(int(86_400 / look_s)):
        now = START.after(step * look_s)
        is_away = step % 8 == 0  # one of them misses every eighth look
        held = {key: held for key, held in others.items() if not (is_away and key == KEYS[5])}
        if is_crowded((0, 1), held, stored=range(TOTAL_SHARES)) and not is_away:
            queue.on_crowded(CID, [], loc=LOC, now=now)
        else:
            queue.forget(CID)  # the blob lacks a share
        if queue.begin(now) is not None:
            tried += 1
            queue.on_spread(CID, is_better=False, now=now)
    assert tried == 0
