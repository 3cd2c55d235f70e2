"""The one HTTP range that Molia answers: RFC 9110, section 14.1.2."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from molia.base.errors import RangeNotSatisfiable
from molia.base.ranges import ByteRange, parse_http_range

CASES = [
    ("bytes=0-0", (0, 1)), ("bytes=0-499", (0, 500)), ("bytes=500-", (500, 1000)),
    ("bytes=-500", (500, 1000)), ("bytes=-2000", (0, 1000)), ("bytes=999-5000", (999, 1000)),
    (" bytes=1-2 ", (1, 3)), ("bytes=000-001", (0, 2)),
]  # fmt: skip
IGNORED = [
    "", "bytes", "bytes=", "bytes=-", "bytes=5-3", "bytes=0-1,3-4", "items=0-1", "bytes=a-b",
    "bytes 0-1", "bytes=0x1-2", "bytes=+1-2", "bytes=--1", "bytes=1-2-3", "bytes=" + "9" * 50 + "-",
    "bytes=\u0663-\u0664", "bytes=\xb2-",
]  # fmt: skip


@pytest.mark.parametrize(("header", "expected"), CASES)
def test_a_range_is_read_as_the_rfc_says(header: str, expected: tuple[int, int]) -> None:
    assert parse_http_range(header, size=1000) == ByteRange(*expected)


@pytest.mark.parametrize("header", IGNORED)
def test_what_is_no_single_range_is_ignored(header: str) -> None:
    assert parse_http_range(header, size=1000) is None


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=1000-1001", "bytes=-0"])
def test_a_range_outside_the_bytes_is_not_satisfiable(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_http_range(header, size=1000)
    assert caught.value.size == 1000


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-1", "bytes=0-0"])
def test_nothing_has_no_range(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        parse_http_range(header, size=0)


@given(st.text(max_size=60) | st.from_regex(r"bytes=\d{0,22}-\d{0,22}"), st.integers(0, 2**41))
@example("bytes=\u0663-\u0664", 1000)
def test_any_header_is_a_range_within_or_ignored_or_refused(header: str, size: int) -> None:
    try:
        found = parse_http_range(header, size=size)
    except RangeNotSatisfiable:
        return
    if found is not None:
        assert 0 <= found.start < found.stop <= size


@given(*[st.integers(0, 60)] * 4)
def test_clipping_keeps_the_common_bytes(a: int, b: int, c: int, d: int) -> None:
    (start, stop), (low, high) = sorted((a, b)), sorted((c, d))
    clipped = ByteRange(start, stop).clip(low, high)
    assert set(range(*clipped)) == set(range(start, stop)) & set(range(low, high))
    assert clipped.size == len(range(*clipped))
