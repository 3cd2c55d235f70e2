"""What is known of a blob's other holders: its row, and how the blob stands by it."""

from dataclasses import replace

from molia.base.cid import Cid, Codec
from molia.base.limits import TOTAL_SHARES, WHOLE_SHARE
from molia.blobs.audit import Answer, AuditRecord
from molia.blobs.placement import Place
from molia.blobs.standing import State
from molia.node.keeping import Others
from molia.node.standings import Facts, Here, standing_of
from molia.node.watched import FORGET_S, Seen, Watched
from molia.store.rows import WatchedRow

CID, SMALL = Cid(Codec.MANIFEST, bytes(32)), Cid(Codec.RAW, bytes(32))
SIZE = 30_000_000
OWN, AT = bytes(32), ("198.51.100.7", 7071)
LOST = AuditRecord().after(Answer.WRONG, 5).after(Answer.WRONG, 6).after(Answer.ABSENT, 7)


def key(number: int) -> bytes:
    """The key of a holder."""
    return bytes((number + 1,)) * 32


def watched(*, whole: int | None = None, shares: range = range(1, TOTAL_SHARES)) -> Watched:
    """Holders of one share each, and a node that has all."""
    made = Watched(100, {key(n): Seen((n,), False, AT, 90) for n in shares})
    if whole is not None:
        made.holders[key(whole)] = Seen(tuple(range(TOTAL_SHARES)), True, AT, 90)
    return made


def facts(it: Watched, *, away: tuple[int, ...] = ()) -> Facts:
    """What a node with share 0 knows when some do not answer."""
    here = Here(CID, SIZE, b"", (0,), is_whole=False)
    gone = [key(number) for number in away]
    return Facts(here, it, {holder: holder not in gone for holder in it.holders})


def test_what_is_known_comes_back_and_parts_that_make_no_sense_are_left_out() -> None:
    it = watched(whole=50)
    it.audits[Place(3, key(3))] = LOST
    assert Watched.decode(it.encode()) == it
    odd = {"holders": [["zz", [1], "h", 1, False, 2], 5, ["00" * 32, "x", 1]], "audits": [[1, 2]]}
    assert Watched.decode(WatchedRow(7, {**odd}).encode()) == Watched(7)


def test_a_holder_that_no_look_up_finds_is_forgotten_after_two_days() -> None:
    it = watched(shares=range(1, 3))
    it.audits[Place(1, key(1))] = LOST
    found = [(key(2), it.holders[key(2)])]
    it.take(found, unix_s=90 + FORGET_S - 1)
    assert list(it.holders) == [key(2), key(1)]
    it.take(found, unix_s=90 + FORGET_S)
    assert (list(it.holders), it.audits) == ([key(2)], {})


def test_shares_are_here_away_or_lost() -> None:
    it = watched()
    assert standing_of(facts(it), OWN).missing == ()
    away = standing_of(facts(it, away=(4, 5)), OWN)
    assert (away.missing, away.has_lost) == ((4, 5), False)
    it.audits[Place(4, key(4))] = LOST
    lost = standing_of(facts(it), OWN)
    assert (lost.missing, lost.has_lost) == ((4,), True)
    denied = facts(watched())
    denied.denied = frozenset({Place(9, key(9))})
    assert standing_of(denied, OWN).has_lost


def test_who_has_all_for_itself_counts_for_one_share_of_fourteen() -> None:
    it = watched(whole=50, shares=range(2, TOTAL_SHARES))
    assert standing_of(facts(it), OWN).missing == ()
    assert standing_of(facts(it, away=(7, 8, 9)), OWN).losses_left == 1
    gone = standing_of(facts(it, away=(50,)), OWN)
    assert (gone.missing, gone.has_lost) == ((1,), False)


def test_who_says_that_it_has_all_no_more_counts_for_nothing() -> None:
    gone = facts(watched(whole=50, shares=range(2, TOTAL_SHARES)))
    gone.denied = frozenset(Place(share, key(50)) for share in range(TOTAL_SHARES))
    assert gone.wholes() == []
    found = standing_of(gone, OWN)
    assert (found.missing, found.has_lost) == ((1,), True)
    gone.denied -= {Place(1, key(50))}  # it keeps that one for somebody
    assert standing_of(gone, OWN).missing == ()


def test_what_is_here_and_elsewhere_is_settled_when_an_audit_found_it_there_since() -> None:
    it = watched(shares=range(1, 4))
    it.spares = {1: 1_000, 2: 1_000, 3: 5_000}
    for share, sound_s in ((1, 1_001), (2, 999), (3, 5_001)):
        it.audits[Place(share, key(share))] = AuditRecord(0, sound_s, sound_s)
    assert Watched.decode(it.encode()) == it
    assert it.settled(unix_s=1_100, after_s=100) == {Place(1, key(1))}
    assert it.settled(unix_s=1_099, after_s=100) == frozenset()
    it.audits[Place(1, key(1))] = AuditRecord(1, 1_001, 1_050)
    assert it.settled(unix_s=1_100, after_s=100) == frozenset()


def test_what_was_just_placed_is_known_without_a_look_up() -> None:
    it = watched(shares=range(1, 3))
    given = {key(1): ((1, 7), AT), key(9): ((9,), AT)}
    assert it.add(given, unix_s=500)
    assert it.holders[key(1)] == Seen((1, 7), False, AT, 500)
    assert it.holders[key(9)] == Seen((9,), False, AT, 500)
    assert not it.add(given, unix_s=600)


def test_the_copies_of_a_small_blob_are_counted() -> None:
    it = Watched(1, {key(n): Seen((WHOLE_SHARE,), n == 1, AT) for n in range(1, 5)})
    here = Here(SMALL, 10, b"", (WHOLE_SHARE,), is_whole=False)
    everybody = dict.fromkeys(it.holders, True)
    assert standing_of(Facts(here, it, everybody), OWN).missing == ()
    three = standing_of(Facts(here, it, {**everybody, key(1): False, key(2): False}), OWN)
    assert (len(three.missing), three.losses_left, three.has_lost) == (2, 2, False)


def test_flaky_holders_make_more_copies_and_shares_wanted_and_none_of_these_is_lost() -> None:
    copies = Watched(1, {key(n): Seen((WHOLE_SHARE,), n == 1, AT) for n in range(1, 5)})
    here = Here(SMALL, 10, b"", (WHOLE_SHARE,), is_whole=False)
    small = standing_of(Facts(here, copies, dict.fromkeys(copies.holders, True), wanted=7), OWN)
    assert (small.missing, small.losses_left, small.has_lost) == ((5, 6), 4, False)
    it = facts(watched())
    it.wanted = 16
    large = standing_of(it, OWN)
    assert (large.missing, large.has_lost, large.state) == ((14, 15), False, State.HEALTHY)
    it.watched.holders[key(20)] = Seen((14, 15), False, AT)
    it.presence[key(20)] = True
    assert (standing_of(it, OWN).missing, it.added()) == ((), 16)
    it.presence[key(3)] = False  # that is what they were added for
    assert standing_of(it, OWN).missing == ()
    it.presence[key(4)] = it.presence[key(5)] = False
    assert standing_of(it, OWN).missing == (3, 4, 5)


def test_health_forgets_who_is_away_and_learns_who_came() -> None:
    others = Others({key(3): (3,)}, frozenset({Place(2, key(2))}), frozenset({key(1)}), {})
    noted = {key(1): (1,), key(2): (2, 5), key(4): (4,)}
    assert others.now(noted) == {key(2): (5,), key(4): (4,), key(3): (3,)}
    looked = replace(others, known=frozenset({key(1), key(2), key(3)}))
    assert looked.now(noted) == {key(2): (5,), key(3): (3,)}
