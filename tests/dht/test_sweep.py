"""All announced keys reach their closest nodes once a cycle, for few walks."""

import random
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.limits import SWEEP_KEYS_PER_WALK, SWEEP_NEW_MAX, SWEEP_NEW_SAVED_MAX
from molia.base.now import Now
from molia.dht.sweep import (
    CYCLE_S,
    GAP_MAX_S,
    LATE_MAX_S,
    LOST_S,
    STORERS,
    ProviderSweep,
    Walk,
    batches,
    tile_bits,
    widened,
)
from molia.sim.entropy import SeededEntropy

START = Now(1_000.0, 1_750_000_000.0)
SPACE = 1 << 256


def radius_for(nodes: float) -> int:
    """Return the region radius in a network of so many nodes."""
    return min(SPACE, int(1.2 * 20 / nodes * SPACE))


class Keys:
    """The announced locations, as a store gives them."""

    def __init__(self, count: int, rng: random.Random) -> None:
        self.all = sorted(rng.randbytes(32) for _ in range(count))

    def read(self, start: bytes, limit: int) -> Sequence[bytes]:
        """Return up to `limit` from `start` on."""
        at = bisect_left(self.all, start)
        return self.all[at : at + limit]


class Net:
    """A network in which a walk finds every living node of its region."""

    def __init__(self, nodes: int, rng: random.Random) -> None:
        self.ids = sorted(rng.getrandbits(256) for _ in range(nodes))

    def tile(self, location: int, bits: int) -> list[int]:
        """Return the nodes that share the first bits with a location."""
        size = 1 << (256 - bits)
        first = location // size * size
        return self.ids[bisect_left(self.ids, first) : bisect_left(self.ids, first + size)]

    def closest(self, location: int) -> list[int]:
        """Return the 20 closest nodes."""
        bits = 256
        while bits and len(self.tile(location, bits)) < STORERS:
            bits -= 8 if bits > 16 else 1
        return sorted(self.tile(location, bits), key=lambda id_: id_ ^ location)[:STORERS]


class Sweeping:
    """Drives a sweep over a network and remembers who got which key when."""

    def __init__(self, keys: Keys, net: Net, *, error: float = 1.0, now: Now = START) -> None:
        self.keys, self.net, self.now = keys, net, now
        self.radius = radius_for(len(net.ids) * error)
        self.core = ProviderSweep(keys.read, entropy=SeededEntropy(1), now=now)
        self.walked: list[tuple[float, Walk]] = []
        self.walks = self.messages = 0
        self.stored: defaultdict[bytes, set[int]] = defaultdict(set)
        self.stores_where = True

    def run(self, seconds: float, *, ok: bool = True) -> None:
        """Let time pass from deadline to deadline; a walk and its storing take 5 s."""
        stop_s = self.now.mono_s + seconds
        while (wake_s := self.core.next_deadline_s()) <= stop_s:
            self.now = self.now.after(max(0.0, wake_s - self.now.mono_s))
            walk = self.core.take_walk(self.radius, self.now)
            if walk is None:
                assert self.core.next_deadline_s() > self.now.mono_s, "it does not spin"
                continue
            self.walked.append((self.now.mono_s, walk))
            self._walk(walk)
            self.now = self.now.after(5.0)
            self.core.on_walked(walk, self.now, ok=ok)
        self.now = self.now.after(max(0.0, stop_s - self.now.mono_s))

    def _walk(self, walk: Walk) -> None:
        wider: Walk | None = walk
        found: list[int] = []
        while wider is not None:
            self.walks += 1
            found = self.net.tile(wider.center, wider.bits)
            wider = widened(wider, len(found))
        if self.stores_where:
            for batch in batches(walk.keys, found, self.radius):
                self.messages += 1
                for key in batch.keys:
                    self.stored[key].add(found[batch.storer])


@pytest.mark.parametrize("error", [0.8, 1.0, 1.25])
def test_100_000_keys_in_a_net_of_10_000_take_few_walks_and_reach_their_20_closest(
    error: float, record_property: Callable[[str, object], None]
) -> None:
    rng = random.Random(4)
    count = 100_000 if error == 1.0 else 20_000  # a wrong size estimate costs walks, not reach
    sweeping = Sweeping(Keys(count, rng), Net(10_000, rng), error=error)
    sweeping.core.restore(sweeping.core.encode(Now(START.mono_s, START.unix_s + LATE_MAX_S)), START)
    sweeping.run(CYCLE_S)
    announced = Counter(key for _, walk in sweeping.walked for key in walk.keys)
    assert sum(map(announced.__getitem__, sweeping.keys.all)) >= 0.99 * count, (
        "the rest within minutes"
    )
    assert sweeping.walks <= 5_000
    shares = []
    for key in sweeping.keys.all[::10]:
        if announced[key]:
            closest = sweeping.net.closest(int.from_bytes(key, "big"))
            shares.append(len(sweeping.stored[key].intersection(closest)))
    assert min(shares) >= 12
    assert sum(shares) / len(shares) >= 15
    record_property(
        "summary",
        f"sweep: {count:,} keys, 10,000 nodes taken for {10_000 * error:,.0f}: "
        f"{sweeping.walks} walks in 22 h, {sweeping.messages:,} messages; of the 20 "
        f"closest {sum(shares) / len(shares):.1f} store a key, {min(shares)} at least",
    )


def test_walks_are_spread_evenly_over_the_cycle() -> None:
    rng = random.Random(5)
    sweeping = Sweeping(Keys(5_000, rng), Net(2_000, rng))
    sweeping.stores_where = False
    sweeping.run(CYCLE_S)  # it begins late, and is in step after a few hours
    before = len(sweeping.walked)
    begins_s = sweeping.now.mono_s
    sweeping.run(2 * CYCLE_S)
    hours = Counter(int((at - begins_s) // 3_600) for at, _ in sweeping.walked[before:])
    assert len(hours) == 44
    assert max(hours.values()) <= 2 * min(hours.values()) + 2
    for key in sweeping.keys.all[::500]:
        times = [at for at, walk in sweeping.walked if key in walk.keys]
        assert all(b - a <= CYCLE_S + 1_200 for a, b in pairwise(times))


def test_after_being_away_it_catches_up_at_a_bounded_rate() -> None:
    rng = random.Random(6)
    sweeping = Sweeping(Keys(3_000, rng), Net(2_000, rng))
    sweeping.stores_where = False
    sweeping.run(3 * 3_600)
    hourly = Counter(int(at // 3_600) for at, _ in sweeping.walked)
    assert max(hourly.values()) <= 3_600 / (0.75 * GAP_MAX_S)
    assert {key for _, walk in sweeping.walked for key in walk.keys} >= set(
        sweeping.keys.all[:2700]
    )


def test_it_goes_on_after_a_restart_where_it_stood() -> None:
    rng = random.Random(7)
    sweeping = Sweeping(Keys(2_000, rng), Net(2_000, rng))
    sweeping.stores_where = False
    for part in range(40):
        sweeping.run(CYCLE_S / 40)
        state = sweeping.core.encode(sweeping.now)
        sweeping.now = Now(10.0 * part, sweeping.now.unix_s + 30)  # a new life, another clock
        sweeping.core = ProviderSweep(
            sweeping.keys.read, entropy=SeededEntropy(part), now=sweeping.now
        )
        assert sweeping.core.restore(state, sweeping.now)
    announced = Counter(key for _, walk in sweeping.walked for key in walk.keys)
    assert set(announced) == set(sweeping.keys.all)
    assert max(announced.values()) <= 3


@given(count=st.integers(1, 100), nodes=st.sampled_from([1, 5, 20, 50, 300]), seed=st.integers())
def test_few_keys_take_one_walk_each_at_most(count: int, nodes: int, seed: int) -> None:
    rng = random.Random(seed)
    sweeping = Sweeping(Keys(count, rng), Net(nodes, rng))
    sweeping.run(CYCLE_S * 0.9)
    announced = Counter(key for _, walk in sweeping.walked for key in walk.keys)
    assert set(announced) == set(sweeping.keys.all)
    assert max(announced.values()) <= 2
    for key in sweeping.keys.all:
        closest = sweeping.net.closest(int.from_bytes(key, "big"))
        assert sweeping.stored[key] >= set(closest)


def in_step(count: int, nodes: int, seed: int) -> Sweeping:
    """Return a sweep that has been going for two days."""
    rng = random.Random(seed)
    sweeping = Sweeping(Keys(count, rng), Net(nodes, rng))
    sweeping.stores_where = False
    sweeping.run(2 * CYCLE_S)
    sweeping.stores_where = True
    sweeping.walked.clear()
    return sweeping


def test_a_new_key_is_announced_within_seconds_and_a_removed_one_never_again() -> None:
    sweeping = in_step(50, 500, 8)
    new, gone = random.Random(9).randbytes(32), sweeping.keys.all[10]
    insort(sweeping.keys.all, new)
    sweeping.core.add(new, sweeping.now)
    sweeping.keys.all.remove(gone)
    sweeping.core.remove(gone)
    sweeping.run(20)
    assert [walk.keys for _, walk in sweeping.walked][:1] == [(new,)]
    sweeping.run(CYCLE_S * 1.1)
    announced = Counter(key for _, walk in sweeping.walked for key in walk.keys)
    assert announced[new] >= 2
    assert announced[gone] == 0


def test_new_keys_of_one_region_share_a_walk() -> None:
    sweeping = in_step(10, 500, 10)
    start = random.Random(11).randbytes(24)
    new = [start + random.Random(n).randbytes(8) for n in range(30)]
    for key in new:
        insort(sweeping.keys.all, key)
        sweeping.core.add(key, sweeping.now)
    sweeping.run(20)
    assert [walk.keys for _, walk in sweeping.walked] == [tuple(sorted(new))]


def test_a_key_that_is_new_again_during_its_walk_is_walked_once_more() -> None:
    sweeping = in_step(10, 500, 10)
    key, core = random.Random(11).randbytes(32), sweeping.core
    insort(sweeping.keys.all, key)
    core.add(key, sweeping.now)
    later = sweeping.now.after(3.0)
    walk = core.take_walk(sweeping.radius, later)
    assert walk is not None
    assert walk.keys == (key,)
    core.add(key, later)  # what was stored of it may be what there was before
    sweeping.now = later.after(5.0)
    core.on_walked(walk, sweeping.now, ok=True)
    sweeping.run(20)
    assert [walk.keys for _, walk in sweeping.walked] == [(key,)]


def test_a_flood_of_new_keys_hurries_the_sweep_instead_of_growing_a_list() -> None:
    sweeping = in_step(10, 100, 12)
    rng = random.Random(13)
    new = [rng.randbytes(32) for _ in range(SWEEP_NEW_MAX + 2_000)]
    sweeping.keys.all = sorted([*sweeping.keys.all, *new])
    for key in new:
        sweeping.core.add(key, sweeping.now)
    assert sweeping.core.hurries == 1
    sweeping.stores_where = False
    sweeping.run(4 * 3_600)
    assert {key for _, walk in sweeping.walked for key in walk.keys} >= set(new)


def test_more_new_keys_than_are_saved_are_announced_after_a_restart_all_the_same() -> None:
    sweeping = in_step(10, 100, 14)
    rng = random.Random(15)
    new = [rng.randbytes(32) for _ in range(SWEEP_NEW_SAVED_MAX + 1)]
    sweeping.keys.all = sorted([*sweeping.keys.all, *new])
    for key in new:
        sweeping.core.add(key, sweeping.now)
    state = sweeping.core.encode(sweeping.now)
    assert len(state) < 100
    sweeping.core = ProviderSweep(sweeping.keys.read, entropy=SeededEntropy(1), now=sweeping.now)
    assert sweeping.core.restore(state, sweeping.now)
    sweeping.run(4 * 3_600)
    assert {key for _, walk in sweeping.walked for key in walk.keys} >= set(new)


def test_a_region_of_very_many_keys_is_walked_in_parts() -> None:
    rng = random.Random(16)
    sweeping = Sweeping(Keys(10_000, rng), Net(10, rng))
    sweeping.stores_where = False
    sweeping.run(4 * 3_600)
    assert [len(walk.keys) for _, walk in sweeping.walked][:2] == [SWEEP_KEYS_PER_WALK] * 2
    assert {key for _, walk in sweeping.walked for key in walk.keys} == set(sweeping.keys.all)


def test_a_failed_walk_is_made_again_ever_more_slowly() -> None:
    rng = random.Random(17)
    sweeping = Sweeping(Keys(10, rng), Net(300, rng))
    sweeping.run(3_600, ok=False)
    assert 6 <= len(sweeping.walked) <= 20
    assert len({walk.keys for _, walk in sweeping.walked}) == 1
    sweeping.run(8 * 3_600)
    assert {key for _, walk in sweeping.walked for key in walk.keys} == set(sweeping.keys.all)


def test_a_walk_whose_end_nobody_tells_counts_as_failed() -> None:
    rng = random.Random(18)
    keys = Keys(3, rng)
    core = ProviderSweep(keys.read, entropy=SeededEntropy(1), now=START)
    walk = core.take_walk(radius_for(10), START)
    assert walk is not None
    assert core.take_walk(radius_for(10), START.after(LOST_S - 1)) is None
    assert core.take_walk(radius_for(10), START.after(LOST_S)) is None
    assert core.failures == 1
    assert core.take_walk(radius_for(10), START.after(LOST_S + GAP_MAX_S)) is not None


def test_without_keys_nothing_is_walked() -> None:
    rng = random.Random(19)
    sweeping = Sweeping(Keys(0, rng), Net(10, rng))
    sweeping.run(2 * CYCLE_S)
    assert sweeping.walked == []


@given(jump_h=st.sampled_from([-48, -1, 1, 48]))
def test_a_clock_that_jumps_changes_nothing(jump_h: int) -> None:
    runs = []
    for hours in (0, jump_h):
        rng = random.Random(20)
        sweeping = Sweeping(Keys(20, rng), Net(100, rng))
        sweeping.run(CYCLE_S / 2)
        sweeping.now = Now(sweeping.now.mono_s, sweeping.now.unix_s + hours * 3_600)
        sweeping.run(CYCLE_S)
        runs.append(sweeping.walked)
    assert runs[0] == runs[1]


@given(at=st.integers(0), bit=st.integers(0, 7), rest=st.binary(max_size=100))
def test_a_damaged_schedule_is_refused(at: int, bit: int, rest: bytes) -> None:
    core = ProviderSweep(Keys(0, random.Random(1)).read, entropy=SeededEntropy(1), now=START)
    core.add(bytes(32), START)
    state = bytearray(core.encode(START))
    state[at % len(state)] ^= 1 << bit
    assert not core.restore(bytes(state), START)
    assert not core.restore(bytes(state[: at % len(state)]), START)
    assert not core.restore(rest, START)


@given(st.lists(st.integers(0, SPACE - 1), max_size=60, unique=True), st.integers(1, 1 << 256))
def test_batches_equal_the_brute_force_answer(responders: list[int], radius: int) -> None:
    rng = random.Random(radius)
    keys = [rng.randbytes(32) for _ in range(70)]
    got = [(batch.storer, key) for batch in batches(keys, responders, radius) for key in batch.keys]
    wanted = set()
    for key in keys:
        location = int.from_bytes(key, "big")
        order = sorted(range(len(responders)), key=lambda n: responders[n] ^ location)
        inside = [n for n in order if responders[n] ^ location < radius]
        wanted |= {(n, key) for n in order[:STORERS] + inside}
    assert len(got) == len(set(got))
    assert set(got) == wanted


@given(st.integers(0, 1 << 257))
def test_a_tile_is_the_smallest_that_holds_a_region(radius: int) -> None:
    bits = tile_bits(radius)
    assert 1 << (256 - bits) >= min(radius, SPACE)
    assert bits == 256 or bits == 0 or (1 << (256 - bits - 1)) < radius
