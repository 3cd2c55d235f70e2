"""Token buckets do what the slow, obvious bucket does, and their tables stay small."""

import tracemalloc
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from molia.base import limits
from molia.wire import limiter
from molia.wire.limiter import SourceLimiter, TokenBuckets

TICK = 1 / 1024
steps = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.integers(1, 2)), max_size=80)


class Oracle:
    """Buckets that are filled up before each look, in exact numbers."""

    def __init__(self, rate: int, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self.held: dict[int, tuple[Fraction, Fraction]] = {}

    def take(self, key: int, now: Fraction, tokens: int) -> bool:
        held, since = self.held.get(key, (Fraction(self.burst), now))
        held = min(Fraction(self.burst), held + (now - since) * self.rate)
        enough = held >= tokens
        self.held[key] = (held - tokens if enough else held, now)
        return enough


@given(st.sampled_from([1, 2, 8, 64]), st.integers(1, 5), steps)
def test_a_bucket_equals_the_obvious_one(
    rate: int, burst: int, script: list[tuple[int, int, int]]
) -> None:
    buckets, oracle = TokenBuckets(rate=rate, burst=burst, table_max=100), Oracle(rate, burst)
    ticks = 0
    for wait, key, tokens in script:
        ticks += wait
        expected = oracle.take(key, Fraction(ticks, 1024), tokens)
        assert buckets.take(bytes([key]), ticks * TICK, tokens) == expected


@given(st.floats(0.1, 1e3), st.integers(1, 50), st.floats(0, 1e5))
def test_a_rested_bucket_gives_its_burst_and_then_waits(
    rate: float, burst: int, now_s: float
) -> None:
    buckets = TokenBuckets(rate=rate, burst=burst, table_max=10)
    taken = [buckets.take(b"k", now_s) for _ in range(60)]
    assert taken == [True] * burst + [False] * (60 - burst)
    assert buckets.take(b"k", now_s + 1.001 / rate)


def allowed(source: SourceLimiter, hosts: list[bytes], seconds: int, a_second: int) -> int:
    """Return how many of steady requests from these hosts in turn were let through."""
    count = seconds * a_second
    return sum(source.take(hosts[i % len(hosts)], 100 + i / a_second) for i in range(count))


def test_an_address_gets_20_a_second_and_5_at_once() -> None:
    assert sum(SourceLimiter().take(b"\x08\0\0\1", 7.0) for _ in range(1)) == 1
    source = SourceLimiter()
    assert sum(source.take(b"\x08\0\0\1", 7.0) for _ in range(50)) == 5
    assert 200 <= allowed(SourceLimiter(), [b"\x08\0\0\1"], 10, 1000) <= 206


def test_a_network_gets_60_a_second_and_20_at_once() -> None:
    hosts = [bytes([8, 0, 0, last]) for last in range(200)]
    source = SourceLimiter()
    assert sum(source.take(host, 7.0) for host in hosts) == 20
    assert 600 <= allowed(SourceLimiter(), hosts, 10, 1000) <= 621


def test_a_host_of_ipv6_is_its_64_and_a_network_its_48() -> None:
    base = bytes.fromhex("20010db80001")
    same_64 = [base + b"\0\1" + bytes([n]) * 8 for n in range(50)]
    source = SourceLimiter()
    assert sum(source.take(host, 7.0) for host in same_64) == 5
    same_48 = [base + bytes([9, n]) + bytes(8) for n in range(50)]
    assert sum(source.take(host, 8.0) for host in same_48) == 20


def test_a_slowed_network_gets_fewer_and_never_none() -> None:
    for slowness in (1, 2, 4):
        source = SourceLimiter()
        hosts = [bytes([8, 0, 0, last]) for last in range(200)]
        taken = sum(source.take(host, 7.0, slowness=slowness) for host in hosts)
        assert taken == limiter.NETWORK_BURST // slowness
        assert source.take(b"\x08\0\0\xf0", 8.0, slowness=slowness)


def test_an_operator_gets_a_quarter_of_the_capacity() -> None:
    for asn_of in (None, lambda _: 64500):
        source = SourceLimiter(asn_of=asn_of)
        hosts = [bytes([8, 0, n, 1]) for n in range(200)]
        first = sum(source.take_operator(host, 7.0, capacity_per_s=400) for host in hosts)
        later = sum(source.take_operator(host, 7.5, capacity_per_s=400) for host in hosts)
        assert (first, later) == (100, 50)


def test_an_operator_is_its_asn_where_that_is_known_and_else_its_16_or_32() -> None:
    def first_of(source: SourceLimiter, *hosts: str) -> list[bool]:
        packed = [bytes.fromhex(host) for host in hosts]
        return [source.take_operator(host, 7.0, capacity_per_s=4) for host in packed]

    hosts = ("08000101", "08000201", "08010101", "20010db8" + "01" * 12, "20010db8" + "02" * 12)
    assert first_of(SourceLimiter(), *hosts) == [True, False, True, True, False]
    table = {"8.0.1.1": 1, "8.0.2.1": 2, "8.1.1.1": 2}
    known = SourceLimiter(asn_of=table.get)
    assert first_of(known, *hosts) == [True, True, False, True, False]


def test_a_refused_request_takes_nothing() -> None:
    source = SourceLimiter()
    for _ in range(100):
        source.take(b"\x08\0\0\1", 7.0)
    assert source.entries == 2
    assert source.take(b"\x08\0\0\1", 7.06)


def test_what_was_used_lately_is_kept_and_the_rest_makes_room() -> None:
    buckets = TokenBuckets(rate=1.0, burst=1.0, table_max=100)
    for n in range(10_000):
        buckets.take(n.to_bytes(4, "big"), n / 1000)
        assert len(buckets) <= 100
        if n % 40 == 0:
            assert buckets.take(b"kept", n / 1000) == (n % 1000 == 0)


def test_a_table_empties_when_its_sources_are_idle() -> None:
    buckets = TokenBuckets(rate=1.0, burst=1.0, table_max=1000)
    for n in range(400):
        buckets.take(n.to_bytes(4, "big"), 0.0)
    for turn in range(3):
        buckets.take(b"%d" % turn, (turn + 1) * (limiter.IDLE_S + 1))
    assert len(buckets) == 2


def test_any_number_of_sources_takes_the_same_memory() -> None:
    def fill(source: SourceLimiter, start: int) -> int:
        for n in range(start, start + 40_000):
            spread = n * 2_654_435_761 & 0xFFFF_FFFF
            source.take(spread.to_bytes(4, "big"), n / 20_000)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        source = SourceLimiter()
        first = fill(source, 0)
        second = fill(source, 40_000)
    finally:
        tracemalloc.stop()
    assert source.entries <= limits.HOST_BUCKETS_MAX + limits.NETWORK_BUCKETS_MAX
    assert second < 8 * limits.MIB
    assert second < first * 1.3 + limits.MIB
