"""When and where a node announces what it provides: all of its keys once in 22 h. A core.

The keys' locations are swept in order, tile by tile. A tile is all locations that share so many
first bits that, by the estimated size of the network, 24 to 48 nodes lie in it. In the XOR metric
all nodes of a tile are closer to any location in it than any node outside: with 20 of them, the
20 closest of each of its keys are among them. So one walk over a tile serves all keys in it.
Source: docs/reference/upkeep.md, "Provider records".
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from molia.base.entropy import Entropy
from molia.base.hashing import blake3_digest
from molia.base.limits import (
    PROVIDERS_PER_MESSAGE_MAX,
    SWEEP_KEYS_PER_WALK,
    SWEEP_NEW_MAX,
    SWEEP_NEW_SAVED_MAX,
)
from molia.base.now import Now
from molia.dht.contact import ID_BITS
from molia.dht.jitter import between

CYCLE_S: Final = 22 * 3_600.0
STORERS: Final = 20
CATCH_UP: Final = 8
"""How much faster than planned a sweep goes that is late."""
LATE_MAX_S: Final = CYCLE_S * (CATCH_UP - 1) / CATCH_UP
"""A sweep this late is back in step after one turn; one that is later loses no more by it."""
GAP_MIN_S, GAP_MAX_S, GAP_KEY_S = 1.0, 60.0, 0.1
"""Between the walks of a late sweep: an eighth of the planned time, but not over a minute, or over
0.1 s a key, which is 60 messages a second."""
NEW_WAIT_S: Final = 2.0
"""New keys wait this long for others of their region."""
JITTER_MAX_S: Final = 600.0
RETRY_FIRST_S, RETRY_MAX_S = 30.0, 600.0
LOST_S: Final = 3_600.0
"""A walk that nobody reported the end of has failed."""
IDLE_S: Final = 3_600.0
CHUNK_KEYS: Final = 64
_SPACE: Final = 1 << ID_BITS
_VERSION: Final = 1
_HEAD = struct.Struct("<B32sdH")
_CHECK_SIZE: Final = 8

KeysFrom = Callable[[bytes, int], Sequence[bytes]]
"""Gives up to so many announced locations, in order, from one on."""


class Walk(NamedTuple):
    """One region to walk, and what to store at the nodes that answer there."""

    center: int
    bits: int
    """The region is what shares so many first bits with the centre."""
    keys: tuple[bytes, ...]
    stop: int | None
    """The sweep goes on here; None: a walk for new keys, beside the sweep."""

    @property
    def radius(self) -> int:
        """Nodes closer to the centre than this are in the region."""
        return 1 << (ID_BITS - self.bits)


class Batch(NamedTuple):
    """Provider records for one node: of which locations."""

    storer: int
    """Its place in the list of those who answered."""
    keys: tuple[bytes, ...]


def tile_bits(radius: int) -> int:
    """Return how many first bits the locations of one tile share: the smallest tile not below
    the region radius, so 24 to 48 nodes for a radius of 24.
    """
    return max(0, ID_BITS - max(radius - 1, 0).bit_length())


def widened(walk: Walk, found: int) -> Walk | None:
    """Return the walk to make instead when too few nodes answered to be the keys' closest.

    found: how many answered that lie in the walk's region. None: they suffice, or nothing is wider.
    """
    if found >= STORERS or walk.bits == 0:
        return None
    return walk._replace(bits=walk.bits - 1)


def batches(keys: Sequence[bytes], responders: Sequence[int], radius: int) -> Iterator[Batch]:
    """Yield what to store where: each key at all responders of its own region, 20 at least.

    responders: ids of who answered the walk. radius: of a region, as the size estimate gives it.
    """
    for start in range(0, len(keys), CHUNK_KEYS):
        chunk: list[list[bytes]] = [[] for _ in responders]
        for key in keys[start : start + CHUNK_KEYS]:
            location = int.from_bytes(key, "big")
            near = sorted([(id_ ^ location, place) for place, id_ in enumerate(responders)])
            for rank, (distance, place) in enumerate(near):
                if rank >= STORERS and distance >= radius:
                    break
                chunk[place].append(key)
        for place, some in enumerate(chunk):
            for at in range(0, len(some), PROVIDERS_PER_MESSAGE_MAX):
                yield Batch(place, tuple(some[at : at + PROVIDERS_PER_MESSAGE_MAX]))


class ProviderSweep:
    """The schedule of announcing. One walk is out at a time: `take_walk`, `on_walked`.

    keys_from: reads the announced locations from the store. The schedule itself is one location
    and the moment at which it is due, whatever the number of keys.
    """

    def __init__(self, keys_from: KeysFrom, *, entropy: Entropy, now: Now) -> None:
        self._keys_from, self._entropy = keys_from, entropy
        self._cursor = 0
        self._due_s = now.mono_s - LATE_MAX_S
        """When the location at the cursor is due; long ago when nothing is known."""
        self._new: dict[bytes, None] = {}
        self._again: set[bytes] = set()
        """Of these, what was added since the walk that is out began."""
        self._new_due_s = 0.0
        self._jitter_s = self._gap_until_s = self._failed_until_s = self._idle_until_s = 0.0
        self._out: Walk | None = None
        self._out_since_s = 0.0
        self._failed = 0
        self._was_new = False
        self.walks = 0
        self.keys = 0
        """Keys announced by walks that went well, each time counted."""
        self.failures = 0
        self.hurries = 0
        """How often so many keys were new at once that the sweep went on early."""

    def add(self, loc: bytes, now: Now) -> None:
        """Announce a new key soon; `keys_from` must give it already."""
        self._idle_until_s = 0.0
        if len(self._new) >= SWEEP_NEW_MAX and loc not in self._new:
            self._hurry(now.mono_s)
            return
        if not self._new:
            self._new_due_s = now.mono_s + NEW_WAIT_S
        self._new[loc] = None
        if self._out is not None:
            self._again.add(loc)

    def remove(self, loc: bytes) -> None:
        """Announce a key no more; `keys_from` must no longer give it."""
        self._new.pop(loc, None)
        self._again.discard(loc)

    def _hurry(self, now_s: float) -> None:
        """Announce everything again, at the pace of a sweep that is late."""
        self._new.clear()
        self._again.clear()
        self._due_s = now_s - LATE_MAX_S
        self.hurries += 1

    def next_deadline_s(self) -> float:
        """Return when `take_walk` may have something to give."""
        if self._out is not None:
            return self._out_since_s + LOST_S
        due_s = self._sweep_due_s()
        if self._new:
            due_s = min(due_s, self._new_due_s)
        return max(due_s, self._failed_until_s)

    def _sweep_due_s(self) -> float:
        return max(self._due_s + self._jitter_s, self._gap_until_s, self._idle_until_s)

    def take_walk(self, radius: int, now: Now) -> Walk | None:
        """Return the next walk when one is due.

        radius: of a region, as the size estimate gives it now.
        """
        now_s = now.mono_s
        if self._out is not None and now_s >= self._out_since_s + LOST_S:
            self.on_walked(self._out, now, ok=False)
        if self._out is not None or now_s < self._failed_until_s:
            return None
        self._due_s = max(self._due_s, now_s - LATE_MAX_S)
        has_new = bool(self._new) and now_s >= self._new_due_s
        walk = self._sweep_walk(tile_bits(radius), now_s) if not has_new or self._was_new else None
        if walk is None and has_new:
            walk = self._new_walk(tile_bits(radius))
        if walk is not None:
            self._out, self._out_since_s = walk, now_s
            self._again.clear()
            self._was_new = walk.stop is None
            self.walks += 1
        return walk

    def on_walked(self, walk: Walk, now: Now, *, ok: bool) -> None:
        """Take the end of a walk and its storing; not ok: nobody answered, so it comes again."""
        if self._out is None or walk.keys != self._out.keys:
            return
        out, self._out = self._out, None
        if not ok:
            self.failures += 1
            self._failed += 1
            wait_s = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(self._failed - 1, 8))
            self._failed_until_s = now.mono_s + wait_s * between(self._entropy, 0.5, 1.0)
            return
        self._failed = 0
        self.keys += len(out.keys)
        for key in out.keys:
            if key not in self._again:
                self._new.pop(key, None)
        if out.stop is not None:
            self._pace(self._advance(out.stop), len(out.keys), now.mono_s)

    # -- the sweep

    def _advance(self, to: int) -> float:
        """Go on to a location, or past the end to the first; return the seconds it stands for."""
        seconds = (to - self._cursor) / _SPACE * CYCLE_S
        assert seconds >= 0, "the sweep only goes forward"
        self._due_s += seconds
        self._cursor = to % _SPACE
        return seconds

    def _pace(self, progress_s: float, key_count: int, now_s: float) -> None:
        """Keep the walks of a late sweep apart, and of a punctual one not quite regular."""
        gap_max_s = max(GAP_MAX_S, key_count * GAP_KEY_S)
        gap_s = min(max(progress_s / CATCH_UP, GAP_MIN_S), gap_max_s)
        self._gap_until_s = now_s + gap_s * between(self._entropy, 0.75, 1.25)
        self._jitter_s = between(self._entropy, 0.0, min(JITTER_MAX_S, progress_s / 2))

    def _sweep_walk(self, bits: int, now_s: float) -> Walk | None:
        """Return the walk of the tile at the cursor; None: it is not yet time, or there is none."""
        size = 1 << (ID_BITS - bits)
        for _ in range(3):  # past the end, to the first key's tile, and there
            if now_s < self._sweep_due_s():
                return None
            keys = self._read(self._cursor)
            if not keys and self._cursor == 0:
                break
            first = int.from_bytes(keys[0], "big") // size * size if keys else _SPACE
            if first <= self._cursor:
                return self._tile_walk(bits, first + size, keys)
            self._advance(first)
        self._due_s, self._idle_until_s = now_s, now_s + IDLE_S
        return None

    def _tile_walk(self, bits: int, stop: int, keys: Sequence[bytes]) -> Walk:
        """Return the walk for those of the keys that lie before `stop`, the end of their tile."""
        inside = tuple(key for key in keys if int.from_bytes(key, "big") < stop)
        if len(inside) == SWEEP_KEYS_PER_WALK:  # there may be more in the tile
            stop = int.from_bytes(inside[-1], "big") + 1
        return Walk(self._somewhere(inside[0], bits), bits, inside, stop)

    def _read(self, start: int) -> Sequence[bytes]:
        return self._keys_from(start.to_bytes(ID_BITS // 8, "big"), SWEEP_KEYS_PER_WALK)

    def _new_walk(self, bits: int) -> Walk:
        """Return a walk for the key that is new the longest and the new ones in its tile."""
        shift = ID_BITS - bits
        tile = int.from_bytes(next(iter(self._new)), "big") >> shift
        inside = sorted(key for key in self._new if int.from_bytes(key, "big") >> shift == tile)
        keys = tuple(inside[:SWEEP_KEYS_PER_WALK])
        return Walk(self._somewhere(keys[0], bits), bits, keys, None)

    def _somewhere(self, key: bytes, bits: int) -> int:
        """Return a random id in the tile of a key, so that a walk names none of its keys."""
        size = 1 << (ID_BITS - bits)
        chance = int.from_bytes(self._entropy.token(ID_BITS // 8), "big") % size
        return int.from_bytes(key, "big") // size * size + chance

    # -- over restarts

    def encode(self, now: Now) -> bytes:
        """Return the schedule as bytes, for `restore`. Save it after each walk.

        Layout: docs/reference/upkeep.md, "Saved schedules".
        """
        saved = list(self._new) if len(self._new) <= SWEEP_NEW_SAVED_MAX else []
        lost = len(self._new) - len(saved)
        due_s = now.mono_s - LATE_MAX_S if lost else self._due_s
        due_unix_s = due_s - now.mono_s + now.unix_s
        cursor = self._cursor.to_bytes(ID_BITS // 8, "big")
        body = _HEAD.pack(_VERSION, cursor, due_unix_s, len(saved)) + b"".join(saved)
        return body + blake3_digest(body)[:_CHECK_SIZE]

    def restore(self, state: bytes, now: Now) -> bool:
        """Go on where the saved schedule stood; False: the bytes are none, so all is swept soon."""
        body, check = state[:-_CHECK_SIZE], state[-_CHECK_SIZE:]
        if len(body) < _HEAD.size or blake3_digest(body)[:_CHECK_SIZE] != check:
            return False
        version, cursor, due_unix_s, count = _HEAD.unpack_from(body)
        rest = body[_HEAD.size :]
        late_s = now.unix_s - due_unix_s
        if version != _VERSION or len(rest) != 32 * count or math.isnan(late_s):
            return False
        self._cursor = int.from_bytes(cursor, "big")
        self._due_s = now.mono_s - min(max(late_s, -CYCLE_S), LATE_MAX_S)
        for at in range(0, len(rest), 32):
            self.add(rest[at : at + 32], now)
        return True
