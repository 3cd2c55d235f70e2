"""`python -m molia.sim durability`: blobs lost per year on nodes that fail, come and go.

Nodes fail for good and are replaced by new ones; between failures they are up and down. Blobs are
placed by `plan_shares`; each node's `RepairQueue` decides when it repairs what, and claims pass
between the holders. Printed are blobs lost beside the Markov estimate, the repair traffic, and the
same seed with repair off. All times are virtual.
"""

import argparse
import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from molia.base.cid import Cid, Codec
from molia.base.crypto import Identity
from molia.base.hashing import purpose_digest
from molia.base.now import Now
from molia.blobs.estimate import YEAR_S, annual_loss, loss_without_repair
from molia.blobs.placement import Candidate, plan_shares
from molia.blobs.repair import Repair, RepairQueue, ranked
from molia.blobs.standing import Holding, Presence, RepairConfig, Standing
from molia.blobs.statements import Kind, state
from molia.sim.entropy import SeededEntropy

DAY_S: Final = 86_400.0
HOUR_S: Final = 3_600.0
WATCHERS: Final = 3
"""Holders of a blob that are told how it stands: the first in rank. The rest would only wait."""
_NETWORK: Final = bytes(32)
_START_UNIX_S: Final = 1_800_000_000.0
_ROOM: Final = 10**15


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is simulated."""

    nodes: int = 40
    blobs: int = 60
    days: float = 365.0
    mttf_days: float = 60.0
    up_hours: float = 72.0
    """Mean time that a node is up; 0: nodes never go away but for good."""
    down_hours: float = 2.0
    share_bytes: int = 26_214_400
    """Of a blob of 250 MiB."""
    bytes_per_s: float = 5e6
    """What a repair moves."""
    floor: int = 4
    surplus_days: float = 30.0
    """How long what a plan has no use for stays: until its lease ends. 0: it goes at once."""
    repairs: bool = True
    config: RepairConfig = field(default_factory=RepairConfig)
    seed: int = 1


@dataclass(slots=True)
class Report:
    """What came of it."""

    trial: Trial
    lost: int = 0
    blob_years: float = 0.0
    repairs: int = 0
    repair_bytes: int = 0
    moves: int = 0
    failures: int = 0
    absences: int = 0
    unreadable_s: float = 0.0
    waits_s: list[float] = field(default_factory=list)
    """From the failure that a repair mends to its end, by repair."""
    holders: int = 14
    survives: int = 4
    trace: bytes = b""
    """Hash over all that happened: equal for equal trials."""

    @property
    def repair_s(self) -> float:
        """The mean time from a failure to the end of its repair."""
        return sum(self.waits_s) / len(self.waits_s) if self.waits_s else 0.0

    def estimate(self) -> float:
        """Return the part of the blobs that the model says are lost within the trial."""
        span_s, mttf_s = self.trial.days * DAY_S, self.trial.mttf_days * DAY_S
        if not self.trial.repairs:
            return loss_without_repair(
                holders=self.holders, survives=self.survives, mttf_s=mttf_s, after_s=span_s
            )
        yearly = annual_loss(
            holders=self.holders, survives=self.survives, mttf_s=mttf_s,
            repair_s=[max(self.repair_s, 1.0)],
        )  # fmt: skip
        return 1.0 - float((1.0 - yearly) ** (span_s / YEAR_S))

    def lines(self) -> list[str]:
        """Return the report as text."""
        blobs, node_years = self.trial.blobs, self.trial.nodes * self.trial.days * DAY_S / YEAR_S
        per_node = self.repair_bytes / (node_years * YEAR_S) if node_years else 0.0
        yearly_repairs = self.repairs / self.blob_years if self.blob_years else 0.0
        word = "on" if self.trial.repairs else "off"
        losses = self.lost / self.blob_years if self.blob_years else 0.0
        unreadable = self.unreadable_s / max(self.blob_years * YEAR_S, 1.0)
        counts = f"{self.failures} nodes failed, {self.absences} absences; {self.repairs} repairs"
        each = f"{yearly_repairs:.3g} per blob and year, {self.repair_s / HOUR_S:.3g} h each"
        model = f"{self.estimate() * blobs:.3g}"
        return [
            f"repair {word}: {self.lost} of {blobs} blobs lost, the model says {model}",
            f"  {losses:.3g} per blob and year; unreadable {unreadable:.2e} of the time",
            f"  {counts}, {each} from the failure on",
            f"  {self.repair_bytes / 2**30:.4g} GiB of repair traffic, {per_node:.4g} B/s a node",
            f"  trace {self.trace.hex()[:16]}",
        ]


@dataclass(slots=True)
class _Node:
    number: int
    identity: Identity
    queue: RepairQueue
    is_up: bool = True
    is_dead: bool = False
    gone_since_s: float = 0.0
    longest_absence_s: float = 0.0
    blobs: dict[int, dict[int, None]] = field(default_factory=dict)
    """Blob -> its shares here."""

    @property
    def key(self) -> bytes:
        return self.identity.peer_key.key


@dataclass(slots=True)
class _Blob:
    number: int
    cid: Cid
    nodes: dict[int, None] = field(default_factory=dict)
    """Nodes that have shares, in the order in which they got them."""
    is_lost: bool = False
    unreadable_since_s: float | None = None
    told: dict[int, None] = field(default_factory=dict)
    """Nodes that were told how it stands, and shall hear of every change."""
    surplus: dict[tuple[int, int], None] = field(default_factory=dict)
    """Nodes and shares whose leases nobody renews any more."""
    short_since_s: float | None = None
    """Since when a share is on no living node."""


class World:
    """The nodes, the blobs and the time."""

    def __init__(self, trial: Trial) -> None:
        self.trial, self.report = trial, Report(trial)
        self._random = SeededEntropy(trial.seed).random
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._now_s = 0.0
        self._nodes: list[_Node] = []
        self._blobs: list[_Blob] = []
        self._hash = bytes(32)
        for _ in range(trial.nodes):
            self._join()
        for number in range(trial.blobs):
            digest = purpose_digest("schedule", number.to_bytes(8, "big"))
            blob = _Blob(number, Cid(Codec.MANIFEST, digest))
            self._blobs.append(blob)
            self._place(blob)
        first = self._standing(self._blobs[0])
        self.report.holders = min(trial.nodes, 14)
        self.report.survives = first.survives

    def run(self) -> Report:
        """Run to the end of the trial."""
        end_s = self.trial.days * DAY_S
        while self._events and self._events[0][0] <= end_s:
            self._now_s, _, act = heapq.heappop(self._events)
            act()
        self._now_s = end_s
        for blob in self._blobs:
            if not blob.is_lost:
                self.report.blob_years += end_s / YEAR_S
                self._count_unreadable(blob, is_readable=True)
        self.report.trace = self._hash
        return self.report

    def _after(self, wait_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now_s + wait_s, next(self._order), act))

    def _now(self) -> Now:
        return Now(self._now_s, _START_UNIX_S + self._now_s)

    def _note(self, what: str, number: int) -> None:
        self._hash = purpose_digest(
            "schedule", self._hash + f"{what} {number} {self._now_s:.6f}".encode()
        )

    # ------------------------------------------------------------------ nodes

    def _join(self) -> None:
        number = len(self._nodes)
        identity = Identity(purpose_digest("audit", f"{self.trial.seed} {number}".encode()))
        queue = RepairQueue(identity.peer_key.key, now=self._now(), config=self.trial.config)
        node = _Node(number, identity, queue)
        self._nodes.append(node)
        mttf_s = self.trial.mttf_days * DAY_S
        self._after(self._random.expovariate(1 / mttf_s), lambda: self._fail(node))
        if self.trial.up_hours:
            self._after(self._draw_s(self.trial.up_hours), lambda: self._leave(node))

    def _draw_s(self, hours: float) -> float:
        return self._random.expovariate(1 / (hours * HOUR_S))

    def _fail(self, node: _Node) -> None:
        self.report.failures += 1
        self._note("fail", node.number)
        node.is_up, node.is_dead, node.gone_since_s = False, True, self._now_s
        self._join()
        for number in node.blobs:
            blob = self._blobs[number]
            if not blob.is_lost and self._is_lost(blob):
                self._lose(blob)
        self._tell_all(node)

    def _leave(self, node: _Node) -> None:
        if node.is_dead:
            return
        self.report.absences += 1
        self._note("leave", node.number)
        node.is_up, node.gone_since_s = False, self._now_s
        self._after(self._draw_s(self.trial.down_hours), lambda: self._return(node))
        self._tell_all(node)

    def _return(self, node: _Node) -> None:
        if node.is_dead:
            return
        self._note("return", node.number)
        node.is_up = True
        away_s = self._now_s - node.gone_since_s
        node.longest_absence_s = max(node.longest_absence_s, away_s)
        self._after(self._draw_s(self.trial.up_hours), lambda: self._leave(node))
        self._tell_all(node)
        self._wake(node)

    # ------------------------------------------------------------------ blobs

    def _is_lost(self, blob: _Blob) -> bool:
        """Tell whether too few shares are left even if all came back that can."""
        living = [self._nodes[n] for n in blob.nodes if not self._nodes[n].is_dead]
        return len(dict.fromkeys(s for node in living for s in node.blobs[blob.number])) < 10

    def _lose(self, blob: _Blob) -> None:
        blob.is_lost = True
        self.report.lost += 1
        self.report.blob_years += self._now_s / YEAR_S
        self._count_unreadable(blob, is_readable=True)
        self._note("lost", blob.number)

    def _standing(self, blob: _Blob) -> Standing:
        holdings = []
        for number in blob.nodes:
            node = self._nodes[number]
            presence = Presence.HERE if node.is_up else Presence.OFFLINE
            holdings += [
                Holding(
                    share=share, key=node.key, presence=presence,
                    longest_absence_s=node.longest_absence_s,
                )
                for share in node.blobs[blob.number]
            ]  # fmt: skip
        return Standing(holdings=tuple(holdings))

    def _tell_all(self, node: _Node) -> None:
        for number in list(node.blobs):
            if not self._blobs[number].is_lost:
                self._tell(self._blobs[number], node)

    def _tell(self, blob: _Blob, changed: _Node | None) -> None:
        """Let those of its holders know that are up and first in rank how a blob stands."""
        standing = self._standing(blob)
        self._count_unreadable(blob, is_readable=standing.losses_left >= 0)
        if changed is not None and changed.is_dead and blob.short_since_s is None:
            blob.short_since_s = changed.gone_since_s
        if not self.trial.repairs:
            return
        for watcher in self._watchers(blob):
            watcher.queue.on_standing(
                blob.cid, standing, loc=blob.cid.digest,
                share_bytes=self.trial.share_bytes, now=self._now(),
            )  # fmt: skip
            self._wake(watcher)

    def _watchers(self, blob: _Blob) -> list[_Node]:
        """Return who may have to repair: the first three in rank, and who was told before."""
        up = {self._nodes[n].key: self._nodes[n] for n in blob.nodes if self._nodes[n].is_up}
        order = ranked(up, loc=blob.cid.digest, unix_s=self._now().unix_s)
        first = [key for key in order if order.index(key) < WATCHERS or up[key].number in blob.told]
        blob.told |= {up[key].number: None for key in first}
        return [up[key] for key in first]

    def _count_unreadable(self, blob: _Blob, *, is_readable: bool) -> None:
        since_s = blob.unreadable_since_s
        if since_s is not None and is_readable:
            self.report.unreadable_s += self._now_s - since_s
            blob.unreadable_since_s = None
        elif since_s is None and not is_readable and not blob.is_lost:
            blob.unreadable_since_s = self._now_s

    # ------------------------------------------------------------------ repair

    def _wake(self, node: _Node) -> None:
        at_s = node.queue.next_deadline_s(self._now())
        if at_s is not None and node.is_up:
            self._after(max(at_s - self._now_s, 0.0), lambda: self._on_deadline(node, at_s))

    def _on_deadline(self, node: _Node, at_s: float) -> None:
        if not node.is_up or node.queue.next_deadline_s(self._now()) != at_s:
            return  # it was set anew since
        node.queue.on_deadline(self._now())
        for effect in node.queue.take_effects():
            if isinstance(effect, Repair):
                self._begin(node, effect)
        self._wake(node)

    def _begin(self, node: _Node, effect: Repair) -> None:
        blob = next(self._blobs[n] for n in node.blobs if self._blobs[n].cid == effect.cid)
        now = self._now()
        claim = state(
            Kind.CLAIM, node.identity, _NETWORK, blob.cid.digest, issued=int(now.unix_s),
            expires=effect.until_unix_s,
        )  # fmt: skip
        for other in self._watchers(blob):
            if other is not node:
                other.queue.on_claim(blob.cid, claim, now)
                self._wake(other)
        moved = self.trial.share_bytes * (10 + len(effect.missing))
        self._after(moved / self.trial.bytes_per_s, lambda: self._end(node, blob))

    def _end(self, node: _Node, blob: _Blob) -> None:
        """Place what is missing, if the repairer is still there and ten shares are."""
        if blob.cid not in node.queue.under_way():
            return
        standing = self._standing(blob)
        is_possible = node.is_up and not blob.is_lost and standing.is_repairable
        if is_possible:
            missing = len(standing.missing)
            self.report.repairs += 1
            self.report.repair_bytes += self.trial.share_bytes * (10 + missing)
            self._note("repair", blob.number)
            if blob.short_since_s is not None:
                self.report.waits_s.append(self._now_s - blob.short_since_s)
                blob.short_since_s = None
            self._place(blob)
        node.queue.on_repaired(blob.cid, is_placed=is_possible, now=self._now())
        if not blob.is_lost:
            self._tell(blob, None)
        self._wake(node)

    def _place(self, blob: _Blob) -> None:
        """Carry out a plan over the nodes that are up: holders first, then others in some order."""
        up = [node for node in self._nodes if node.is_up]
        self._random.shuffle(up)
        by_key = {node.key: node for node in up}
        candidates = [
            Candidate(
                key=node.key, room_bytes=_ROOM, group=node.number.to_bytes(4, "big"),
                held=tuple(node.blobs.get(blob.number, ())),
            )
            for node in up
        ]  # fmt: skip
        plan = plan_shares(candidates, share_bytes=self.trial.share_bytes, floor=self.trial.floor)
        for place in plan.moves:
            node = by_key[place.key]
            node.blobs.setdefault(blob.number, {})[place.share] = None
            blob.nodes[node.number] = None
            self.report.moves += 1
        for place in plan.surplus:
            self._end_later(blob, by_key[place.key], place.share)
        for number in [n for n in blob.nodes if self._nodes[n].is_dead]:
            del blob.nodes[number]  # it never comes back, and its record runs out in a day

    def _end_later(self, blob: _Blob, node: _Node, share: int) -> None:
        """Let a share go when its lease ends, which nobody renews any more."""
        name = (node.number, share)
        if name not in blob.surplus:
            blob.surplus[name] = None
            wait_s = self.trial.surplus_days * DAY_S
            self._after(wait_s, lambda: self._let_go(blob, node, share))

    def _let_go(self, blob: _Blob, node: _Node, share: int) -> None:
        """Drop a share, unless nobody else who is up has it by now."""
        blob.surplus.pop((node.number, share), None)
        shares = node.blobs.get(blob.number, {})
        others = [self._nodes[n] for n in blob.nodes if n != node.number]
        if share not in shares or not any(
            other.is_up and share in other.blobs[blob.number] for other in others
        ):
            return
        del shares[share]
        if not shares:
            del node.blobs[blob.number]
            blob.nodes.pop(node.number, None)
            node.queue.forget(blob.cid)


def run(trial: Trial) -> Report:
    """Return what comes of a trial."""
    return World(trial).run()


def main(arguments: Sequence[str]) -> int:
    """Run trials with repair on and off; return 0 unless repair lost more than the model says."""
    parser = argparse.ArgumentParser(prog="python -m molia.sim durability", description=__doc__)
    plain = Trial()
    for name, about in (
        ("nodes", "nodes at any time"), ("blobs", "blobs"), ("days", "days to run"),
        ("mttf-days", "mean days until a node fails for good"),
        ("up-hours", "mean hours that a node is up; 0: always"),
        ("down-hours", "mean hours that it is away"), ("seed", "the first seed"),
    ):  # fmt: skip
        default = getattr(plain, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=type(default), default=default, help=about)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to run")
    parser.add_argument("--grace-hours", type=float, default=4.0, help="the shortest full grace")
    options = vars(parser.parse_args(arguments))
    seeds, grace_s = options.pop("seeds"), options.pop("grace_hours") * HOUR_S
    config = RepairConfig(grace_min_s=grace_s, grace_max_s=max(grace_s, 24 * HOUR_S))
    first_seed = options.pop("seed")
    lost, expected = 0, 0.0
    for seed in range(first_seed, first_seed + seeds):
        for repairs in (True, False):
            report = run(Trial(seed=seed, repairs=repairs, config=config, **options))
            print("\n".join([f"seed {seed}, " + report.lines()[0], *report.lines()[1:]]))
            if repairs:
                lost, expected = (
                    lost + report.lost,
                    expected + report.estimate() * report.trial.blobs,
                )
    print(f"with repair {lost} lost, the model says {expected:.3g}")
    return 1 if lost > expected + 3 * max(expected, 1.0) ** 0.5 else 0
