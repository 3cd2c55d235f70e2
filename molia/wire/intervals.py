"""Sets of whole numbers kept as disjoint half-open ranges: packet numbers, bytes of a stream."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Intervals:
    """A set of whole numbers as sorted, disjoint, never touching ranges [start, stop).

    Every operation costs a binary search and a move of the two lists behind the place; adding at
    the upper end, which is what arrives in order, costs neither.
    """

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number < self._stops[place]

    def newest_first(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges from the highest to the lowest."""
        return zip(reversed(self._starts), reversed(self._stops), strict=True)

    @property
    def first(self) -> tuple[int, int] | None:
        """The lowest range, or None while the set is empty."""
        return (self._starts[0], self._stops[0]) if self._starts else None

    @property
    def last(self) -> tuple[int, int] | None:
        """The highest range, or None while the set is empty."""
        return (self._starts[-1], self._stops[-1]) if self._starts else None

    def add(self, start: int, stop: int) -> None:
        """Put [start, stop) into the set, joined with the ranges that it touches."""
        assert start <= stop
        starts, stops = self._starts, self._stops
        if start == stop:
            return
        if starts and starts[-1] <= start <= stops[-1]:
            stops[-1] = max(stops[-1], stop)
            return
        low = bisect_left(stops, start)
        high = bisect_right(starts, stop)
        if low < high:
            start, stop = min(start, starts[low]), max(stop, stops[high - 1])
        starts[low:high] = [start]
        stops[low:high] = [stop]

    def remove(self, start: int, stop: int) -> None:
        """Take [start, stop) out of the set."""
        starts, stops = self._starts, self._stops
        low = bisect_right(stops, start)
        high = bisect_left(starts, stop)
        if low >= high or start >= stop:
            return
        left = [(starts[low], start)] if starts[low] < start else []
        right = [(stop, stops[high - 1])] if stop < stops[high - 1] else []
        kept = left + right
        starts[low:high] = [first for first, _ in kept]
        stops[low:high] = [second for _, second in kept]

    def overlaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of [start, stop) that are in the set, lowest first."""
        place = bisect_right(self._stops, start)
        while place < len(self._starts) and self._starts[place] < stop:
            yield max(start, self._starts[place]), min(stop, self._stops[place])
            place += 1

    def drop_below(self, number: int) -> None:
        """Take everything below `number` out of the set."""
        if self._starts and self._starts[0] < number:
            self.remove(self._starts[0], number)

    def drop_lowest(self) -> None:
        """Take the lowest range out of the set."""
        del self._starts[0], self._stops[0]
