"""The verified contacts of a table in the order of their ids: whoever is close lies side by side.

What shares a prefix with a target is one run of a sorted list, so that the nearest are found by
bisection, and only a run of about as many as asked for is ever sorted by distance.
"""

from bisect import bisect_left, insort
from typing import Final, NamedTuple

from molia.base.limits import NODES_CONTACTS_MAX, TABLE_CELLS_MAX
from molia.dht.contact import ID_BITS, Contact

_CELL_BITS: Final = 5
"""Bits of a target beyond its bucket that its cell follows from."""
_SHORT_BITS: Final = 30
"""What CPython compares fastest."""


class _Cell(NamedTuple):
    """Among whom the nearest to every target of one cell of the space are."""

    shift: int
    mask: int
    """`target >> shift & mask` is the part of a target that orders them."""
    parts: tuple[int, ...]
    """The same part of their ids, each another one."""
    encoded: dict[int, bytes]
    """As parts of a NODES body."""
    free: int
    prefix: int
    """`id >> free` of all of them, and of nobody else."""


class Positions:
    """Contacts by id, at most one for each."""

    __slots__ = ("_by_id", "_cells", "_ids")

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._by_id: dict[int, Contact] = {}
        self._cells: dict[int, _Cell] = {}
        """Those that were asked about since the contacts changed last."""

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Contact:
        return self._by_id[self._ids[index]]

    def add(self, contact: Contact) -> None:
        """Take a contact whose id is new here."""
        assert contact.id not in self._by_id, "two keys never have the same id"
        insort(self._ids, contact.id)
        self._by_id[contact.id] = contact
        self._forget_cells(contact.id)

    def remove(self, contact: Contact) -> None:
        """Forget a contact that was added."""
        del self._by_id[contact.id]
        del self._ids[bisect_left(self._ids, contact.id)]
        self._forget_cells(contact.id)

    def _forget_cells(self, changed: int) -> None:
        """Forget the cells that an id is part of; whoever is elsewhere changes none."""
        changes = [name for name, c in self._cells.items() if changed >> c.free == c.prefix]
        for name in changes:
            del self._cells[name]

    def body(self, target: int, distance: int) -> bytes:
        """Return the NODES body of the nearest to `target`, which is `nearest`'s, in half the time.

        distance: of the target to this node: its cell lies in one bucket.
        """
        size = distance.bit_length()
        free = size - _CELL_BITS - 1 if size > _CELL_BITS else 0
        name = size << _CELL_BITS + 1 | distance >> free
        cell = self._cells.get(name) or self._survey(name, target, free)
        part = target >> cell.shift & cell.mask
        near = sorted(cell.parts, key=part.__xor__)[:NODES_CONTACTS_MAX]
        return b"".join(map(cell.encoded.__getitem__, near))

    def _survey(self, name: int, target: int, free: int) -> _Cell:
        """Make a cell: the smallest part of the space around it that has enough contacts."""
        is_small = len(self._ids) <= NODES_CONTACTS_MAX
        free = ID_BITS if is_small else max(free, self._bits(target, NODES_CONTACTS_MAX))
        low, high = self._run(target, free)
        ids, by_id = self._ids[low:high], self._by_id
        shift, mask = max(0, free - _SHORT_BITS), (1 << _SHORT_BITS) - 1
        encoded = {one >> shift & mask: by_id[one].encoded for one in ids}
        if len(encoded) < len(ids):
            shift, mask = 0, (1 << ID_BITS) - 1
            encoded = {one: by_id[one].encoded for one in ids}
        if len(self._cells) >= TABLE_CELLS_MAX:
            self._cells.clear()
        cell = _Cell(shift, mask, tuple(encoded), encoded, free, target >> free)
        self._cells[name] = cell
        return cell

    def nearest(self, target: int, count: int) -> list[Contact]:
        """Return the `count` contacts nearest to `target` by XOR, the nearest first."""
        by_id = self._by_id
        return [by_id[distance ^ target] for distance in self._distances(target, count)]

    def in_region(self, center: int, radius: int) -> list[Contact]:
        """Return all contacts whose distance to `center` is below `radius`, the nearest first."""
        if radius <= 0:
            return []
        low, high = self._run(center, (radius - 1).bit_length())
        distances = sorted(d for d in [one ^ center for one in self._ids[low:high]] if d < radius)
        return [self._by_id[distance ^ center] for distance in distances]

    def _distances(self, target: int, count: int) -> list[int]:
        """Return the `count` smallest distances to `target`, sorted."""
        ids = self._ids
        if len(ids) <= count:
            return sorted([one ^ target for one in ids])
        bits = self._bits(target, count)
        low, high = self._run(target, bits)
        if 2 * (high - low) <= 3 * count:
            distances = [one ^ target for one in ids[low:high]]
            distances.sort()
            return distances[:count]
        # nearer than the far half of this run is everything in the near one, which is too little
        half = 1 << bits - 1
        low, high = self._run(target, bits - 1)
        near = [one ^ target for one in ids[low:high]]
        near.sort()
        return near + [d ^ half for d in self._distances(target ^ half, count - len(near))]

    def _run(self, target: int, bits: int) -> tuple[int, int]:
        """Return the range of the ids that differ from `target` in the last `bits` bits alone."""
        start = target >> bits << bits
        low = bisect_left(self._ids, start)
        return low, bisect_left(self._ids, start + (1 << bits), low)

    def _bits(self, target: int, count: int) -> int:
        """Return how many bits are left free when `count` ids share as much as they can.

        Such ids stand side by side around the target. Of all windows of `count` that touch its
        place, from the left to the right, the first id comes nearer and the last goes farther: the
        best is where the two meet.
        """
        ids, last = self._ids, count - 1
        place = bisect_left(ids, target)
        first = max(0, place - count)
        low, high = first, min(place, len(ids) - count)
        while low < high:
            middle = (low + high) // 2
            left, right = ids[middle] ^ target, ids[middle + last] ^ target
            if middle + last < place or right.bit_length() < left.bit_length():
                low = middle + 1
            else:
                high = middle
        bits = (ids[low] ^ target | ids[low + last] ^ target).bit_length()
        if low > first:
            other = ids[low - 1] ^ target | ids[low - 1 + last] ^ target
            bits = min(bits, other.bit_length())
        return bits
