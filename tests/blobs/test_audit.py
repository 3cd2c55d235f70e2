"""Audits: each share once an epoch by one of those who care, and what answers are worth."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base import limits
from molia.base.limits import WHOLE_SHARE
from molia.blobs import audit
from molia.blobs.audit import (
    EPOCH_S,
    RETRY_S,
    SILENT_S,
    Answer,
    AskBlock,
    Auditor,
    AuditRecord,
    AuditTask,
    Judged,
    auditor_of,
    drawn_stripe,
    due_audits,
    epoch_start_s,
    is_auditor,
)
from molia.blobs.manifest import cid_of_bytes
from molia.blobs.merkle import inclusion_path
from molia.blobs.placement import Place
from molia.sim.entropy import SeededEntropy
from tests.blobs.remote import coded

BLOB = coded(2 * 2_621_440 + 5_000)
CID = BLOB.manifest.cid
NOW = 1_800_000_000
KEYS = [bytes([n]) * 32 for n in range(14)]
PLACES = [Place(n, key) for n, key in enumerate(KEYS)]
FRESH: dict[Place, AuditRecord] = {}


def due(own: bytes, unix_s: float, *, pinners: tuple[bytes, ...] = ()) -> list[Place]:
    """What a node is to audit, that has audited nothing yet."""
    return due_audits(CID.digest, PLACES, FRESH, own=own, pinners=pinners, unix_s=unix_s)


@given(st.integers(NOW, NOW + 10 * EPOCH_S))
def test_each_share_has_one_auditor_who_does_not_hold_it(unix_s: int) -> None:
    pinner = b"p" * 32
    found = [
        (own, place) for own in (*KEYS, pinner) for place in due(own, unix_s, pinners=(pinner,))
    ]
    assert sorted(place for _, place in found) == PLACES
    assert all(own != place.key for own, place in found)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 13), st.integers(2, 14))
def test_one_candidate_is_the_auditor_and_knows_it(digest: bytes, share: int, count: int) -> None:
    candidates = KEYS[:count]
    first = auditor_of(digest, share, NOW, candidates)
    told = [k for k in candidates if is_auditor(digest, share, NOW, candidates, own=k)]
    assert told == [first]


def test_auditors_change_with_the_epoch_and_are_spread() -> None:
    seen = Counter(auditor_of(CID.digest, 3, NOW + week * EPOCH_S, KEYS[4:]) for week in range(300))
    assert set(seen) == set(KEYS[4:])
    assert max(seen.values()) < 60


def test_a_stranger_audits_nothing_and_a_lone_holder_too() -> None:
    assert due(b"x" * 32, NOW) == []
    alone = [Place(n, KEYS[0]) for n in range(14)]
    assert due_audits(CID.digest, alone, FRESH, own=KEYS[0], unix_s=NOW) == []


@given(st.integers(0, 13), st.integers(NOW, NOW + EPOCH_S))
def test_an_epoch_has_a_week_and_begins_before_now(share: int, unix_s: int) -> None:
    start = epoch_start_s(CID.digest, share, unix_s)
    assert start <= unix_s < start + EPOCH_S
    assert epoch_start_s(CID.digest, share, start) == start
    assert epoch_start_s(CID.digest, share, start + EPOCH_S) == start + EPOCH_S


def test_epochs_of_shares_begin_all_over_the_week() -> None:
    starts = sorted(epoch_start_s(bytes([n]) * 32, 0, NOW) for n in range(200))
    assert max(b - a for a, b in itertools.pairwise(starts)) < EPOCH_S / 10


def test_a_share_is_audited_once_an_epoch_and_after_failures_each_hour() -> None:
    epoch = epoch_start_s(CID.digest, 0, NOW)
    record = AuditRecord()
    assert record.is_due(epoch, NOW)
    sound = record.after(Answer.SOUND, NOW)
    assert not sound.is_due(epoch, NOW + 100)
    assert sound.is_due(epoch + EPOCH_S, epoch + EPOCH_S)
    failed = sound.after(Answer.ABSENT, NOW)
    assert not failed.is_due(epoch, NOW + RETRY_S - 1)
    assert failed.is_due(epoch, NOW + RETRY_S)
    silent = record.after(Answer.SILENT, NOW)
    assert not silent.is_due(epoch, NOW + SILENT_S - 1)
    assert silent.is_due(epoch, NOW + SILENT_S)
    lost = failed.after(Answer.WRONG, NOW).after(Answer.ABSENT, NOW)
    assert not lost.is_due(epoch, NOW + RETRY_S)
    assert lost.is_due(epoch + EPOCH_S, epoch + EPOCH_S)


@given(st.lists(st.sampled_from(Answer)))
def test_three_failures_without_a_success_lose_a_share(answers: list[Answer]) -> None:
    record, failures = AuditRecord(), 0
    for answer in answers:
        record = record.after(answer, NOW)
        failures = 0 if answer is Answer.SOUND else failures + (answer is not Answer.SILENT)
        assert record.is_lost == (failures >= 3)
    assert AuditRecord.decode(record.encode()) == record
    assert AuditRecord.decode(record.encode() + b"x") == AuditRecord()


def test_who_found_a_failure_asks_again_even_in_anothers_epoch() -> None:
    (own,) = [key for key in KEYS if Place(5, KEYS[5]) in due(key, NOW)]
    failed = {Place(5, KEYS[5]): AuditRecord(1, 0, NOW - RETRY_S)}
    for week in range(5):
        at = NOW + week * EPOCH_S
        assert Place(5, KEYS[5]) in due_audits(CID.digest, PLACES, failed, own=own, unix_s=at)


def task(share: int = 3) -> AuditTask:
    """An audit of a share of the blob."""
    return AuditTask(CID, Place(share, KEYS[share]), BLOB.manifest, rtt_s=0.1)


def asked(auditor: Auditor) -> list[AskBlock]:
    """What it asks for."""
    return [e for e in auditor.take_effects() if isinstance(e, AskBlock)]


def answer_of(auditor: Auditor) -> list[Answer]:
    """What it judged."""
    return [e.answer for e in auditor.take_effects() if isinstance(e, Judged)]


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        (lambda block, path: (block, path), Answer.SOUND),
        (lambda block, path: (bytes(len(block)), path), Answer.WRONG),
        (lambda block, path: (block[:-1], path), Answer.WRONG),
        (lambda block, path: (block + b"x", path), Answer.WRONG),
        (lambda block, path: (b"", path), Answer.WRONG),
        (lambda block, path: (block, path[:-1]), Answer.WRONG),
        (lambda block, path: (block, [*path, bytes(32)]), Answer.WRONG),
    ],
)
def test_only_the_block_that_was_asked_for_is_sound(change: object, answer: Answer) -> None:
    auditor = Auditor(SeededEntropy(1))
    auditor.add(task(), now_s=0)
    (ask,) = asked(auditor)
    block = BLOB.blocks[3, ask.stripe_index]
    assert ask.size == len(block)
    data, path = change(block, inclusion_path(BLOB.leaves[3], ask.stripe_index))  # type: ignore[operator]
    auditor.on_block(CID, task().place, data, path, now_s=0.2)
    assert answer_of(auditor) == [answer]
    assert auditor.next_deadline_s() is None


def test_another_stripes_block_is_wrong() -> None:
    auditor = Auditor(SeededEntropy(1))
    auditor.add(task(), now_s=0)
    (ask,) = asked(auditor)
    other = (ask.stripe_index + 1) % 2
    path = inclusion_path(BLOB.leaves[3], other)
    auditor.on_block(CID, task().place, BLOB.blocks[3, other], path, now_s=0.2)
    assert answer_of(auditor) == [Answer.WRONG]


def test_silence_is_neutral_and_absence_is_not() -> None:
    auditor = Auditor(SeededEntropy(1))
    auditor.add(task(1), now_s=0)
    auditor.add(task(2), now_s=0)
    auditor.on_absent(CID, task(2).place, now_s=0.1)
    deadline = auditor.next_deadline_s()
    assert deadline is not None
    assert 0.6 < deadline < 1.0
    auditor.on_deadline(now_s=deadline)
    assert answer_of(auditor) == [Answer.ABSENT, Answer.SILENT]
    auditor.on_block(CID, task(1).place, b"", [], now_s=2.0)
    assert answer_of(auditor) == []


def test_few_audits_are_under_way_and_none_twice() -> None:
    auditor = Auditor(SeededEntropy(1))
    for share in [*range(14), 3]:
        auditor.add(task(share), now_s=0)
    assert len(asked(auditor)) == limits.AUDITS_UNDER_WAY_MAX
    auditor.on_absent(CID, task(0).place, now_s=0)
    assert len(asked(auditor)) == 1


def test_audits_beyond_the_bound_are_refused_and_counted() -> None:
    auditor = Auditor(SeededEntropy(1))
    cid = cid_of_bytes(b"x")
    for number in range(limits.AUDITS_WAITING_MAX + limits.AUDITS_UNDER_WAY_MAX + 3):
        auditor.add(AuditTask(cid, Place(WHOLE_SHARE, number.to_bytes(32, "big"))), now_s=0)
    assert auditor.refused == 3
    assert not auditor.wants_more


def test_small_blobs_are_audited_whole() -> None:
    auditor, data = Auditor(SeededEntropy(1)), b"small"
    cid, place = cid_of_bytes(data), Place(WHOLE_SHARE, KEYS[0])
    for answer, body in ((Answer.SOUND, data), (Answer.WRONG, b"other")):
        auditor.add(AuditTask(cid, place), now_s=0)
        auditor.on_block(cid, place, body, [], now_s=0)
        assert answer_of(auditor) == [answer]


def test_stripes_are_drawn_evenly_and_never_an_empty_block() -> None:
    entropy = SeededEntropy(3)
    drawn = Counter(drawn_stripe(BLOB.manifest, 9, entropy) for _ in range(400))
    assert set(drawn) == {0, 1}  # of the last stripe share 9 has nothing
    full = Counter(drawn_stripe(BLOB.manifest, 12, entropy) for _ in range(400))
    assert set(full) == {0, 1, 2}
    assert min(full.values()) > 90
    assert audit.EPOCH_S == 604_800
