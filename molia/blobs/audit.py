"""Whether holders still have what they hold: who asks whom when, and what an answer is worth.

The schedule is plain functions of a share, a week and keys, so a node with 100,000 blobs keeps no
timers: it walks its blobs and asks `due_audits` of each. `Auditor` is the core that carries out
what is due, a few at a time.
Source: docs/reference/audit-and-repair.md, "Audit".
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import Final

from molia.base.cid import Cid, Codec
from molia.base.deadlines import DeadlineTable
from molia.base.entropy import Entropy
from molia.base.hashing import blake3_digest, purpose_digest
from molia.base.limits import (
    AUDIT_FAILURES_MAX,
    AUDITS_UNDER_WAY_MAX,
    AUDITS_WAITING_MAX,
    WHOLE_SHARE,
)
from molia.blobs.manifest import Manifest
from molia.blobs.merkle import verify_path
from molia.blobs.placement import Place

EPOCH_S: Final = 7 * 86_400
RETRY_S: Final = 3_600
SILENT_S: Final = 6 * 3_600
_DISK_S: Final = 0.5
_BYTES_PER_S: Final = 1_000_000
_ROW: Final = Struct(">BQQ")


# ---------------------------------------------------------------------------- schedule


def epoch_start_s(digest: bytes, share: int, unix_s: float) -> int:
    """Return when the epoch of a share that `unix_s` lies in began, unix seconds."""
    draw = purpose_digest("schedule", digest + share.to_bytes(2, "big"))[:8]
    offset = int.from_bytes(draw, "big") % EPOCH_S
    return (int(unix_s) - offset) // EPOCH_S * EPOCH_S + offset


def auditor_of(digest: bytes, share: int, epoch_s: int, candidates: Sequence[bytes]) -> bytes:
    """Return which of the candidates' keys audits a share in an epoch; at least one is given."""
    head = _audit_head(digest, share, epoch_s)
    return min(candidates, key=lambda key: (purpose_digest("audit", head + key), key))


def is_auditor(
    digest: bytes, share: int, epoch_s: int, candidates: Sequence[bytes], *, own: bytes
) -> bool:
    """Tell whether `auditor_of` gives `own`, one of the candidates.

    The first that comes before it settles that: of thirteen some three are looked at.
    """
    head = _audit_head(digest, share, epoch_s)
    mine = purpose_digest("audit", head + own), own
    others = (key for key in candidates if key != own)
    return not any((purpose_digest("audit", head + key), key) < mine for key in others)


def _audit_head(digest: bytes, share: int, epoch_s: int) -> bytes:
    return digest + share.to_bytes(2, "big") + (epoch_s // EPOCH_S).to_bytes(4, "big")


class Answer(Enum):
    """What came of an audit."""

    SOUND = "sound"
    SILENT = "silent"
    """Nothing, or too late: neutral, for whether a node is there is found out otherwise."""
    ABSENT = "absent"
    """The holder says that it does not have it, or not whole."""
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """What audits by this node found out about a share at a holder."""

    failures: int = 0
    """Since the last success."""
    sound_unix_s: int = 0
    """When it was last seen to be sound; 0: never."""
    asked_unix_s: int = 0

    @property
    def is_lost(self) -> bool:
        """Whether the share counts as gone there."""
        return self.failures >= AUDIT_FAILURES_MAX

    def after(self, answer: Answer, unix_s: float) -> "AuditRecord":
        """Return the record with one more answer."""
        at = int(unix_s)
        if answer is Answer.SOUND:
            return AuditRecord(0, at, at)
        failed = answer is not Answer.SILENT
        failures = min(self.failures + int(failed), AUDIT_FAILURES_MAX)
        return AuditRecord(failures, self.sound_unix_s, at)

    def is_due(self, epoch_s: int, unix_s: float) -> bool:
        """Tell whether to ask again: once an epoch, an hour after a failure, 6 after silence."""
        since_s = unix_s - self.asked_unix_s
        if 0 < self.failures < AUDIT_FAILURES_MAX:
            return since_s >= RETRY_S
        if self.asked_unix_s < epoch_s:
            return True
        return not self.is_lost and self.sound_unix_s < epoch_s and since_s >= SILENT_S

    def encode(self) -> bytes:
        """Return the record as a row's value."""
        return _ROW.pack(self.failures, self.sound_unix_s, self.asked_unix_s)

    @classmethod
    def decode(cls, row: bytes) -> "AuditRecord":
        """Return the record of a row; a fresh one for anything else."""
        return cls(*_ROW.unpack(row)) if len(row) == _ROW.size else cls()


def due_audits(
    digest: bytes, places: Iterable[Place], records: Mapping[Place, AuditRecord], *, own: bytes,
    pinners: Sequence[bytes] = (), unix_s: float,
) -> list[Place]:  # fmt: skip
    """Return the shares of a blob that `own` is to audit now.

    places: what lies where, as provider records say. pinners: who else cares for the blob.
    """
    every = list(places)
    holders = sorted(dict.fromkeys((*(place.key for place in every), *pinners)))
    due = []
    for place in every:
        candidates = [key for key in holders if key != place.key]
        if place.key == own or own not in candidates:
            continue
        epoch_s = epoch_start_s(digest, place.share, unix_s)
        record = records.get(place, AuditRecord())
        if not record.is_due(epoch_s, unix_s):
            continue
        has_failed = 0 < record.failures < AUDIT_FAILURES_MAX
        if has_failed or is_auditor(digest, place.share, epoch_s, candidates, own=own):
            due.append(place)
    return due


# ---------------------------------------------------------------------------- one answer


def judge(
    cid: Cid, manifest: Manifest | None, share: int, stripe_index: int, data: bytes,
    path: Sequence[bytes], *, added: Sequence[bytes] = (),
) -> Answer:  # fmt: skip
    """Return what a block and its path are worth. For a thread, if many come.

    added: the roots of shares from 14 on.
    """
    leaf = blake3_digest(data)
    if cid.codec is Codec.RAW:
        return Answer.SOUND if leaf == cid.digest and share == WHOLE_SHARE else Answer.WRONG
    assert manifest is not None, "a large blob is audited with its manifest"
    shape = manifest.geometry.stripe(stripe_index)
    roots = (*manifest.roots, *added)
    fits = share < len(roots) and len(data) == shape.size_of(share)
    if not fits:
        return Answer.WRONG
    sound = verify_path(
        root=roots[share], leaf=leaf, index=stripe_index,
        leaf_count=manifest.geometry.stripe_count, path=path,
    )  # fmt: skip
    return Answer.SOUND if sound else Answer.WRONG


def drawn_stripe(manifest: Manifest, share: int, entropy: Entropy) -> int | None:
    """Return a random stripe in which a share has a block; None when it has none at all."""
    geometry = manifest.geometry
    count = geometry.stripe_count
    if geometry.stripe(count - 1).size_of(share) == 0:
        count -= 1  # only the last stripe has empty blocks
    return None if count == 0 else int.from_bytes(entropy.token(8), "big") % count


# ---------------------------------------------------------------------------- the core


@dataclass(frozen=True, slots=True)
class AuditTask:
    """A share to be audited. manifest: of a large blob. rtt_s: to its holder."""

    cid: Cid
    place: Place
    manifest: Manifest | None = None
    rtt_s: float = 0.5
    added: tuple[bytes, ...] = ()
    """Roots of shares from 14 on, which no manifest lists."""


@dataclass(frozen=True, slots=True)
class AskBlock:
    """Ask the holder for this block, and answer with `on_block`, `on_absent` or nothing."""

    task: AuditTask
    stripe_index: int
    size: int


@dataclass(frozen=True, slots=True)
class Judged:
    """Put this answer into the share's record."""

    task: AuditTask
    answer: Answer


Effect = AskBlock | Judged
_Name = tuple[Cid, Place]


class Auditor:
    """The audits of one node, a few at a time."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._waiting: OrderedDict[_Name, AuditTask] = OrderedDict()
        self._asked: dict[_Name, tuple[AuditTask, int]] = {}
        self._deadlines: DeadlineTable[_Name] = DeadlineTable()
        self._effects: list[Effect] = []
        self.refused = 0
        """Audits for which there was no place; they stay due."""

    def take_effects(self) -> list[Effect]:
        """Return what is to be done now, once."""
        effects, self._effects = self._effects, []
        return effects

    def next_deadline_s(self) -> float | None:
        """Return when `on_deadline` is to be called."""
        return self._deadlines.next_s()

    @property
    def wants_more(self) -> bool:
        """Whether there is place for audits that are due."""
        return len(self._waiting) < AUDITS_WAITING_MAX

    def add(self, task: AuditTask, *, now_s: float) -> None:
        """Take an audit that is due; one that is under way is not begun twice."""
        name = (task.cid, task.place)
        if name in self._waiting or name in self._asked:
            return
        if not self.wants_more:
            self.refused += 1
            return
        self._waiting[name] = task
        self._begin(now_s)

    def on_block(
        self, cid: Cid, place: Place, data: bytes, path: Sequence[bytes], *, now_s: float
    ) -> None:
        """Take the block that was asked for."""
        asked = self._asked.get((cid, place))
        if asked is not None:
            task, stripe = asked
            answer = judge(cid, task.manifest, place.share, stripe, data, path, added=task.added)
            self._end((cid, place), answer, now_s)

    def on_absent(self, cid: Cid, place: Place, *, now_s: float) -> None:
        """Take that the holder says it has not got it."""
        if (cid, place) in self._asked:
            self._end((cid, place), Answer.ABSENT, now_s)

    def on_deadline(self, *, now_s: float) -> None:
        """Take that it is `now_s`: who has not answered was silent."""
        for name in self._deadlines.take_due(now_s):
            self._end(name, Answer.SILENT, now_s)

    def _begin(self, now_s: float) -> None:
        while self._waiting and len(self._asked) < AUDITS_UNDER_WAY_MAX:
            name, task = self._waiting.popitem(last=False)
            stripe, size = self._draw(task)
            if stripe is None:  # nothing but empty blocks: it cannot be lost
                self._effects.append(Judged(task, Answer.SOUND))
                continue
            self._asked[name] = (task, stripe)
            self._effects.append(AskBlock(task, stripe, size))
            self._deadlines.set(name, now_s + task.rtt_s + _DISK_S + size / _BYTES_PER_S)

    def _draw(self, task: AuditTask) -> tuple[int | None, int]:
        if task.manifest is None:
            return 0, _BYTES_PER_S  # as large as a small blob may be
        stripe = drawn_stripe(task.manifest, task.place.share, self._entropy)
        if stripe is None:
            return None, 0
        return stripe, task.manifest.geometry.stripe(stripe).size_of(task.place.share)

    def _end(self, name: _Name, answer: Answer, now_s: float) -> None:
        task, _ = self._asked.pop(name)
        self._deadlines.clear(name)
        self._effects.append(Judged(task, answer))
        self._begin(now_s)
