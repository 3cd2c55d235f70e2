"""What may go, and when."""

from hypothesis import given
from hypothesis import strategies as st

from molia.base.ids import ObjectId
from molia.base.now import Now
from molia.blobs.leases import Claim, Effect, Lapse, Lease, LeaseSweep, Remove, Renew

NOW = Now(50.0, 1_000_000.0)
HOUR = 3_600


def object_id(number: int) -> ObjectId:
    """An object id."""
    return ObjectId(number.to_bytes(16, "big"))


def claim(
    number: int = 1, *, age_s: int = 10 * HOUR, pinned: bool = False, left_s: int | None = None
) -> Claim:
    """An object that was put `age_s` ago and asked to go in `left_s`."""
    expires = None if left_s is None else int(NOW.unix_s) + left_s
    return Claim(object_id(number), int(NOW.unix_s) - age_s, pinned, expires)


def lease(number: int = 1, *, left_s: int, share: int = 0, owner: bytes = b"o" * 16) -> Lease:
    """A lease that runs out in `left_s`."""
    return Lease(object_id(number), share, owner, int(NOW.unix_s) + left_s)


def sweep(*rows: Claim | Lease, min_age_s: int = HOUR) -> list[Effect]:
    """The effects of one pass."""
    core = LeaseSweep(NOW, min_age_s=min_age_s)
    for row in rows:
        if isinstance(row, Claim):
            core.on_claim(row)
        else:
            core.on_lease(row)
    core.on_end()
    return core.take_effects()


def test_an_object_without_a_live_lease_goes() -> None:
    assert sweep(claim()) == [Remove(object_id(1))]
    assert sweep(claim(), lease(left_s=-1)) == [Remove(object_id(1))]
    assert sweep(claim(), lease(left_s=0)) == [Remove(object_id(1))]


def test_one_live_lease_of_any_share_keeps_it() -> None:
    assert sweep(claim(), lease(left_s=1)) == []
    late = lease(left_s=1, share=13)
    gone = lease(left_s=-1)
    assert sweep(claim(), gone, late) == [Lapse(gone)]


def test_a_pin_keeps_it_and_asks_for_a_lease() -> None:
    gone = lease(left_s=-1)
    assert sweep(claim(pinned=True), gone) == [Lapse(gone), Renew(object_id(1))]
    assert sweep(claim(pinned=True), lease(left_s=1)) == []


def test_nothing_young_goes() -> None:
    assert sweep(claim(age_s=HOUR - 1)) == []
    assert sweep(claim(age_s=HOUR)) == [Remove(object_id(1))]


def test_what_asked_to_go_goes_young_pinned_and_leased() -> None:
    gone = claim(age_s=1, pinned=True, left_s=0)
    assert sweep(gone, lease(left_s=100)) == [Remove(object_id(1))]
    assert sweep(claim(pinned=True, left_s=1), lease(left_s=100)) == []


def test_an_object_from_the_future_counts_as_young() -> None:
    assert sweep(claim(age_s=-HOUR)) == []


def test_one_objects_lease_keeps_no_other() -> None:
    assert sweep(claim(1), lease(1, left_s=5), claim(2), claim(3), lease(3, left_s=-5)) == [
        Remove(object_id(2)),
        Remove(object_id(3)),
    ]


def test_leases_of_unbound_objects_lapse_when_they_run_out() -> None:
    old, young = lease(7, left_s=-1), lease(8, left_s=1)
    assert sweep(old, young) == [Lapse(old)]
    assert sweep(claim(1, pinned=True), lease(1, left_s=5), old, young) == [Lapse(old)]


rows = st.lists(
    st.tuples(
        st.booleans(), st.integers(-HOUR, 3 * HOUR), st.none() | st.integers(-10, 10),
        st.dictionaries(st.integers(0, 13), st.integers(-10, 10), max_size=4),
    ),
    max_size=8,
)  # fmt: skip


@given(rows)
def test_a_sweep_decides_each_object_by_itself(
    objects: list[tuple[bool, int, int | None, dict[int, int]]],
) -> None:
    fed: list[Claim | Lease] = []
    expected: set[ObjectId] = set()
    for number, (pinned, age_s, left_s, leases) in enumerate(objects):
        fed.append(claim(number, age_s=age_s, pinned=pinned, left_s=left_s))
        fed += [lease(number, share=share, left_s=left) for share, left in sorted(leases.items())]
        wanted = pinned or age_s < HOUR or any(left > 0 for left in leases.values())
        if not wanted or (left_s is not None and left_s <= 0):
            expected.add(object_id(number))
    effects = sweep(*fed)
    assert {e.object_id for e in effects if isinstance(e, Remove)} == expected
    lapsed = [e.lease for e in effects if isinstance(e, Lapse)]
    assert all(row.expires_unix_s <= NOW.unix_s for row in lapsed)
    assert not expected & {row.object_id for row in lapsed}
