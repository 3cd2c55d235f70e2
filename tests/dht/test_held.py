"""What is held for others: rules of records and providers, races, floods, and what time leaves."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.dht import held, providers, records
from molia.dht.held import Decision, Summary
from molia.dht.providers import Kind, Provided, ProviderRecord, share_bitmap
from molia.dht.records import SignedRecord
from molia.wire import messages
from molia.wire.dht_messages import AddCode, Digest, PutCode
from tests.dht.record_samples import DAY, NETWORK, NOW, PREFIX, provider, record
from tests.vectors.load import vectors

FIVE, SIX = record(5), record(6)
A, B = sorted([record(6, b"a"), record(6, b"b")], key=lambda r: r.value_hash)


def row_of(made: SignedRecord) -> bytes:
    """Return the row of a record that was the first at its place."""
    row = held.decide(None, made, cas=None, unix_s=NOW).row
    assert row is not None
    return row


def decided(
    before: SignedRecord | None, offered: SignedRecord, cas: int | None = None, *, at_s: int = NOW
) -> Decision:
    row = None if before is None else row_of(before)
    return held.decide(row, offered, cas=cas, unix_s=at_s)


# ---------------------------------------------------------------------------- records


@pytest.mark.parametrize("row", vectors("records"))
def test_rows_of_records_are_those_of_the_vectors(row: dict[str, Any]) -> None:
    encoded, stored = bytes.fromhex(row["encoded"]), bytes.fromhex(row["row"])
    offered = records.parse(encoded)
    assert isinstance(offered, SignedRecord)
    assert held.decide(None, offered, cas=None, unix_s=row["unix_s"]).row == stored
    assert held.record_in(stored, unix_s=row["unix_s"]) == encoded
    assert held.seq_in(stored) == row["seq"]
    assert held.faded(held.RECORD, stored, unix_s=row["unix_s"]) == (stored, row["expires"])
    floor = held.faded(held.RECORD, stored, unix_s=row["expires"])
    assert floor.row is not None
    assert floor.row.hex() == row["floor_row"]


def test_the_first_record_is_kept() -> None:
    first = decided(None, FIVE)
    assert (first.code, first.expires, first.current) == (PutCode.OK, FIVE.expires, b"")
    assert held.record_in(first.row or b"", unix_s=NOW) == FIVE.encoded


def test_a_higher_seq_replaces_a_lower_one_which_is_refused_with_the_held_record() -> None:
    assert decided(FIVE, SIX).row == row_of(SIX)
    assert decided(SIX, FIVE) == Decision(PutCode.STALE, current=SIX.encoded)


def test_of_the_same_value_at_the_same_seq_the_later_expiry_stays() -> None:
    longer = record(5, expires=NOW + DAY + 60)
    assert decided(FIVE, longer) == Decision(PutCode.OK, row_of(longer), longer.expires)
    assert decided(longer, FIVE) == Decision(PutCode.OK, expires=longer.expires)


def test_of_two_values_at_one_seq_the_lower_hash_wins_and_both_sides_are_told() -> None:
    assert decided(A, B) == Decision(PutCode.CONFLICT, current=A.encoded)
    assert decided(B, A) == Decision(PutCode.CONFLICT, row_of(A), A.expires, B.encoded)


@pytest.mark.parametrize(("before", "cas", "code"), [
    (None, 0, PutCode.OK), (None, 5, PutCode.CAS_MISMATCH), (FIVE, 5, PutCode.OK),
    (FIVE, 0, PutCode.CAS_MISMATCH), (FIVE, 4, PutCode.CAS_MISMATCH), (SIX, 5, PutCode.OK),
    (record(7), 5, PutCode.CAS_MISMATCH), (record(7), 7, PutCode.STALE),
])  # fmt: skip
def test_with_cas_only_the_expected_seq_is_replaced(
    before: SignedRecord | None, cas: int, code: PutCode
) -> None:
    decision = decided(before, SIX, cas)  # SIX itself is held in one case: a repeated put is fine
    assert decision.code is code
    if code is not PutCode.OK:
        assert decision.row is None
        assert decision.current == (b"" if before is None else before.encoded)


def test_an_expired_record_still_keeps_older_ones_out_and_counts_as_none_for_cas() -> None:
    after_s = SIX.expires + 60
    five = record(5, expires=after_s + DAY)
    fresh = record(6, expires=after_s + DAY)
    live = row_of(SIX)
    floor = held.faded(held.RECORD, live, unix_s=after_s)
    assert floor.row is not None
    assert len(floor.row) == 17
    for row in (live, floor.row):
        assert held.record_in(row, unix_s=after_s) is None
        assert held.decide(row, five, cas=None, unix_s=after_s) == Decision(PutCode.STALE)
        assert held.decide(row, five, cas=0, unix_s=after_s).code is PutCode.STALE
        assert held.decide(row, fresh, cas=0, unix_s=after_s).code is PutCode.OK
        assert held.decide(row, fresh, cas=6, unix_s=after_s).code is PutCode.CAS_MISMATCH


def test_a_floor_goes_when_no_older_record_can_still_be_valid() -> None:
    row, until_s = row_of(SIX), SIX.expires + DAY + limits.CLOCK_SKEW_S
    floor = held.faded(held.RECORD, row, unix_s=SIX.expires)
    assert floor.row is not None
    assert floor.expires == until_s
    assert held.faded(held.RECORD, floor.row, unix_s=until_s - 1) == floor
    assert held.faded(held.RECORD, floor.row, unix_s=until_s) == (None, 0)
    assert held.faded(held.RECORD, row, unix_s=until_s) == (None, 0)


seqs = st.integers(1, 3)
offers = st.lists(st.tuples(seqs, st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 2)),
                  min_size=1, max_size=8)  # fmt: skip


@settings(max_examples=40)
@given(offers, st.randoms(use_true_random=False))
def test_records_end_up_alike_in_whatever_order_they_come(
    made: list[tuple[int, bytes, int]], random: Any
) -> None:
    offered = [record(seq, value, expires=NOW + DAY + more) for seq, value, more in made]
    best = max(r.seq for r in offered)
    of_best = [r for r in offered if r.seq == best]
    value = min(r.value_hash for r in of_best)
    winner = max((r for r in of_best if r.value_hash == value), key=lambda r: r.expires)
    random.shuffle(offered)
    row: bytes | None = None
    for one in offered:
        decision = held.decide(row, one, cas=None, unix_s=NOW)
        assert held.seq_in(decision.row or row or b"") >= held.seq_in(row or b""), "no way back"
        row = decision.row or row
    assert row == row_of(winner)


class Cell:
    """A row that is written only by compare and set."""

    def __init__(self, row: bytes | None) -> None:
        self.row = row

    def swap(self, before: bytes | None, after: bytes) -> bool:
        """Store `after` if `before` is still there; tell whether it was."""
        if self.row != before:
            return False
        self.row = after
        return True


def racing(cell: Cell, writers: list[SignedRecord], choose: Callable[[int], int]) -> list[PutCode]:
    """Let writers with cas 5 interleave as chosen: each reads and decides, then swaps or again."""
    codes: list[PutCode | None] = [None] * len(writers)
    read: dict[int, tuple[bytes | None, Decision]] = {}
    while None in codes:
        waiting = [n for n, code in enumerate(codes) if code is None]
        turn = waiting[choose(len(waiting))]
        if turn not in read:
            decision = held.decide(cell.row, writers[turn], cas=5, unix_s=NOW)
            read[turn] = (cell.row, decision)
            continue
        before, decision = read.pop(turn)
        if decision.row is None or cell.swap(before, decision.row):
            codes[turn] = decision.code
    return [code for code in codes if code is not None]


SIXTEEN = [record(6, bytes([n])) for n in range(16)]


@settings(max_examples=60)
@given(st.randoms(use_true_random=False))
def test_of_sixteen_racing_writers_one_wins_and_the_others_are_told_what_is_held(
    random: Any,
) -> None:
    cell = Cell(row_of(FIVE))
    codes = racing(cell, SIXTEEN, lambda count: random.randrange(count))
    assert sorted(codes) == [PutCode.OK] + [PutCode.CAS_MISMATCH] * 15
    winner = SIXTEEN[codes.index(PutCode.OK)]
    assert held.record_in(cell.row or b"", unix_s=NOW) == winner.encoded
    late = held.decide(cell.row, SIXTEEN[codes.index(PutCode.CAS_MISMATCH)], cas=5, unix_s=NOW)
    assert late.current == winner.encoded


@given(st.binary(max_size=60))
def test_a_row_that_is_none_counts_as_nothing_held(row: bytes) -> None:
    assert held.record_in(row, unix_s=NOW) is None or row[0] == 1
    assert held.decide(row, record(2**64 - 1), cas=None, unix_s=NOW).code is PutCode.OK
    assert held.entries(row, unix_s=NOW) == [] or row[0] == 1
    held.faded(held.RECORD, row, unix_s=NOW)
    held.faded(held.PROVIDERS, row, unix_s=NOW)


# ---------------------------------------------------------------------------- provider records


def added(
    *offered: ProviderRecord, row: bytes | None = None, at_s: int = NOW
) -> tuple[bytes, list[AddCode]]:
    """Return the row after these came, and what each was told."""
    codes = []
    for one in offered:
        decision = held.add(row, one, unix_s=at_s)
        codes.append(decision.code)
        row = decision.row or row
    return row or b"", codes


def signers(row: bytes, *, at_s: int = NOW) -> list[bytes]:
    return [entry.record.signer for entry in held.entries(row, unix_s=at_s)]


@pytest.mark.parametrize("row", vectors("providers"))
def test_rows_of_providers_are_those_of_the_vectors(row: dict[str, Any]) -> None:
    offered = providers.parse(bytes.fromhex(row["encoded"]))
    assert isinstance(offered, ProviderRecord)
    decision = held.add(None, offered, unix_s=row["issued"])
    assert decision == (AddCode.OK, bytes.fromhex(row["row"]), row["expires"], True)


def test_one_record_of_a_signer_is_held_the_one_issued_last() -> None:
    old, new = provider(1), provider(1, issued=NOW + 60, draw=1)
    row, codes = added(old, new, old, new)
    assert codes == [AddCode.OK, AddCode.OK, AddCode.STALE, AddCode.OK]
    (entry,) = held.entries(row, unix_s=NOW)
    assert entry.record.encoded == new.encoded


def test_whoever_renews_in_time_keeps_its_age_and_who_does_not_begins_anew() -> None:
    row, _ = added(provider(1, expires=NOW + 100), provider(2, expires=NOW + 100))
    row, _ = added(provider(2, issued=NOW + 50), row=row, at_s=NOW + 50)
    row, _ = added(provider(1, issued=NOW + 101), row=row, at_s=NOW + 101)
    assert [(e.since, e.record.signer[-1]) for e in held.entries(row, unix_s=NOW + 101)] == [
        (NOW, provider(2).signer.key[-1]), (NOW + 101, provider(1).signer.key[-1]),
    ]  # fmt: skip


def test_a_prefix_has_three_records_at_a_location() -> None:
    four = [provider(n, prefix=PREFIX) for n in range(1, 5)]
    row, codes = added(*four)
    assert codes == [AddCode.OK] * 3 + [AddCode.CROWDED]
    renewed = provider(1, prefix=PREFIX, issued=NOW + 1)
    assert held.add(row, renewed, unix_s=NOW + 1).code is AddCode.OK
    moved = provider(9, prefix=PREFIX)
    row, _ = added(provider(9), row=row)
    assert held.add(row, moved, unix_s=NOW).code is AddCode.STALE, "the same moment is not later"


def test_eight_records_of_caches_are_held() -> None:
    row, codes = added(*[provider(n, kind=Kind.CACHE) for n in range(1, 10)])
    assert codes == [AddCode.OK] * 8 + [AddCode.FULL]
    assert held.add(row, provider(20), unix_s=NOW).code is AddCode.OK


def test_at_a_full_location_the_old_stay_and_the_newest_come_and_go() -> None:
    row: bytes | None = None
    for n in range(100):
        row, codes = added(provider(n + 1), row=row, at_s=NOW + n)
        assert codes == [AddCode.OK], "a newcomer always gets in"
    kept = [entry.since - NOW for entry in held.entries(row, unix_s=NOW + 100)]
    assert kept == [*range(48), *range(84, 100)]


def test_whoever_takes_the_place_of_another_is_none_more() -> None:
    row: bytes | None = None
    more: list[bool] = []
    for n in range(80):
        decision = held.add(row, provider(n + 1), unix_s=NOW + n)
        row = decision.row
        more.append(decision.is_new)
    assert more == [True] * 64 + [False] * 16
    assert not held.add(row, provider(1, issued=NOW + 90), unix_s=NOW + 90).is_new, "it is renewed"


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_the_size_of_a_row_tells_about_how_many_provider_records_it_has(host: str) -> None:
    row: bytes | None = None
    provided = Provided(shares=share_bitmap([13]), hints=((host, 7071),))
    for count in range(1, 65):
        row = held.add(row, provider(count, provided=provided), unix_s=NOW).row
        assert row is not None
        assert held.held_in(held.PROVIDERS, len(row)) == pytest.approx(count, rel=0.1)
        assert held.held_in(held.RECORD, len(row)) == 1


def test_a_flood_from_thirty_networks_drives_out_none_that_was_there_for_long() -> None:
    row: bytes | None = None
    honest = [provider(n) for n in range(1, 41)]
    row, _ = added(*honest)
    flood = [provider(1_000 + n, prefix=b"\x04\x0c\x00" + bytes([n // 10])) for n in range(300)]
    row, codes = added(*flood, row=row, at_s=NOW + 60)
    assert codes.count(AddCode.CROWDED) >= 100
    kept = signers(row)
    assert kept[:40] == [one.signer.key for one in honest]
    assert len(kept) <= limits.PROVIDERS_PER_LOC_MAX
    told = held.select(row, salt=b"12345678", unix_s=NOW)
    assert told[:10] == [one.encoded for one in honest[:10]]
    newcomer = provider(50)
    row, codes = added(newcomer, row=row, at_s=NOW + 61)
    assert codes == [AddCode.OK]
    assert newcomer.signer.key in signers(row)


rows = st.lists(
    st.tuples(st.integers(1, 90), st.integers(0, 40), st.sampled_from(Kind), st.integers(0, 300)),
    max_size=120,
)  # fmt: skip
MANY = Cid(Codec.RAW, bytes(32))


@settings(max_examples=15, deadline=None)
@given(rows)
def test_no_order_of_offers_breaks_a_limit(offers: list[tuple[int, int, Kind, int]]) -> None:
    row, now_s = None, NOW
    for number, prefix, kind, pause_s in offers:
        now_s += pause_s
        one = provider(number, kind=kind, prefix=b"\x04\x0b\0" + bytes([prefix]), issued=now_s,
                       expires=now_s + 3_000, cid=MANY)  # fmt: skip
        row = held.add(row, one, unix_s=now_s).row or row
        found = held.entries(row, unix_s=now_s)
        prefixes = [entry.record.prefix for entry in found]
        assert len(found) <= limits.PROVIDERS_PER_LOC_MAX
        assert len({entry.record.signer for entry in found}) == len(found)
        assert max(map(prefixes.count, prefixes)) <= limits.PROVIDERS_PER_PREFIX_MAX
        assert sum(e.record.kind == Kind.CACHE for e in found) <= limits.PROVIDERS_CACHE_MAX
        assert all(a.since <= b.since for a, b in itertools.pairwise(found))


def test_an_asker_is_told_the_ten_oldest_and_ten_others_page_by_page() -> None:
    row, _ = added(*[provider(n) for n in range(1, 41)])
    told = held.select(row, salt=b"saltsalt", unix_s=NOW)
    assert [held.page_of(told, page) for page in range(6)] == [
        *(tuple(told[at : at + 4]) for at in range(0, 20, 4)), (),
    ]  # fmt: skip
    assert told == held.select(row, salt=b"saltsalt", unix_s=NOW)
    other = held.select(row, salt=b"othersal", unix_s=NOW)
    assert other[:10] == told[:10] == [provider(n).encoded for n in range(1, 11)]
    assert len(set(told)) == len(set(other)) == 20
    assert set(told) != set(other)


def test_many_askers_together_are_told_all() -> None:
    row, _ = added(*[provider(n) for n in range(1, 61)])
    told = {one for n in range(60) for one in held.select(row, salt=bytes([n]) * 8, unix_s=NOW)}
    assert len(told) == 60


def test_expired_provider_records_are_not_told_and_fade() -> None:
    row, _ = added(provider(1, expires=NOW + 10), provider(2, expires=NOW + 20))
    assert signers(row, at_s=NOW + 10) == [provider(2).signer.key]
    assert held.select(row, salt=b"", unix_s=NOW + 20) == []
    left = held.faded(held.PROVIDERS, row, unix_s=NOW + 10)
    assert left.row is not None
    assert left.expires == NOW + 20
    assert signers(left.row) == [provider(2).signer.key]
    assert held.faded(held.PROVIDERS, left.row, unix_s=NOW + 20) == (None, 0)


# ---------------------------------------------------------------------------- digests


def test_summaries_differ_when_what_is_held_differs() -> None:
    def of(made: SignedRecord) -> bytes | None:
        return held.summary_of(held.RECORD, row_of(made), unix_s=NOW)

    assert len({of(FIVE), of(SIX), of(A), of(record(5, expires=NOW + 60))}) == 4
    assert of(FIVE) == of(record(5))
    one, _ = added(provider(1), provider(2))
    other, _ = added(provider(2), provider(1), at_s=NOW + 5)
    renewed, _ = added(provider(1, issued=NOW + 1), row=one)
    summaries = [held.summary_of(held.PROVIDERS, row, unix_s=NOW) for row in (one, other, renewed)]
    assert summaries[0] == summaries[1] != summaries[2]


def test_nothing_held_has_no_summary_and_a_crowd_has_one_for_all() -> None:
    assert held.summary_of(held.RECORD, row_of(FIVE), unix_s=FIVE.expires) is None
    row, _ = added(provider(1))
    assert held.summary_of(held.PROVIDERS, row, unix_s=NOW + DAY) is None
    crowds = [added(*[provider(n) for n in range(start, start + 50)])[0] for start in (1, 9)]
    assert {held.summary_of(held.PROVIDERS, row, unix_s=NOW) for row in crowds} == {b"\xff" * 4}


summaries = st.builds(Summary, st.binary(min_size=8, max_size=8), st.binary(min_size=4, max_size=4),
                      st.integers(0, 255))  # fmt: skip


@given(st.lists(summaries, min_size=1, max_size=limits.DIGEST_ENTRIES_MAX), st.data())
def test_digests_and_their_answers_are_read_as_written(
    told: list[Summary], data: st.DataObject
) -> None:
    body = messages.encode(Digest(held.digest_of(told)))
    found = messages.decode(Digest.number, body)
    assert isinstance(found, Digest)
    assert held.summaries_in(found.entries) == told
    wanted = data.draw(st.lists(st.booleans(), min_size=len(told), max_size=len(told)))
    assert held.wanted_in(held.wanted_bits(wanted), len(told)) == wanted


def test_a_short_bitmap_wants_nothing_more() -> None:
    assert held.wanted_in(b"\x01", 20) == [True] + [False] * 19


def test_a_record_of_another_network_lies_elsewhere() -> None:
    assert records.loc_of(FIVE, NETWORK) != records.loc_of(FIVE, bytes(32))
