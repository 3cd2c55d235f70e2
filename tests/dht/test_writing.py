"""Writes to the shelf: one at a time for a location, as one row, each told what became of it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from molia.base import limits
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.dht import held
from molia.dht.config import DhtConfig
from molia.dht.counters import DhtCounters
from molia.dht.effects import Store
from molia.dht.hub import Hub
from molia.dht.writing import TRIES_MAX, Rule, Ruling, Writes
from tests.dht.record_samples import someone

NOW = Now(100.0, 1_000_000.0)
OK, OLD, FULL = 0, 1, 7
HERE, THERE = bytes(32), b"\1" * 32
WRITER = someone(1).peer_key


class World:
    """Writes of letters to rows, and the shelf below."""

    def __init__(self, *, rows_max: int = 1_000) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.stores: list[Store] = []
        self.told: dict[str, list[int]] = {}
        self.counters = DhtCounters()
        hub = SimpleNamespace(
            config=DhtConfig(rows_max=rows_max), counters=self.counters, emit=self.stores.append,
            shelf=SimpleNamespace(read=lambda _kind, loc: self.rows.get(loc)),
        )  # fmt: skip
        self.writes = Writes(cast("Hub", hub))

    def offer(self, letters: str, loc: bytes = HERE, writer: PeerKey | None = WRITER) -> None:
        """Offer to add letters, of which each is kept once."""

        def done(rulings: Sequence[Ruling], _now: Now) -> None:
            assert letters not in self.told, "each is told once"
            self.told[letters] = [ruling.code for ruling in rulings]

        self.writes.offer(
            held.RECORD, loc, [adding(each) for each in letters], done, NOW,
            full=FULL, writer=writer,
        )  # fmt: skip

    def store(self, *, applied: bool | None = None) -> Store:
        """Carry out the write that waited longest. applied: None: as the shelf rules it."""
        wanted = self.stores.pop(0)
        if applied is None:
            applied = self.rows.get(wanted.loc) == wanted.expected
        if applied:
            assert wanted.row is not None
            self.rows[wanted.loc] = wanted.row
        self.writes.on_stored(wanted.token, applied=applied, now=NOW)
        return wanted


def adding(letter: str) -> Rule:
    def rule(row: bytes | None, _now: Now) -> Ruling:
        before = row or b""
        if letter.encode() in before:
            return Ruling(OLD, None, 0)
        return Ruling(OK, before + letter.encode(), ord(letter), is_new=True)

    return rule


def test_what_one_message_brings_for_a_location_is_one_row() -> None:
    world = World()
    world.offer("abca")
    assert world.store().expires_unix_s == ord("c")
    assert world.rows == {HERE: b"abc"}
    assert world.told == {"abca": [OK, OK, OK, OLD]}
    assert world.stores == []
    assert world.writes.quotas.rows == 3


def test_who_comes_while_a_location_is_written_follows_in_one_row() -> None:
    world = World()
    for letters in ("a", "b", "ac"):
        world.offer(letters)
    world.offer("x", THERE)
    assert [store.loc for store in world.stores] == [HERE, THERE]
    world.store()
    assert world.told == {"a": [OK]}
    world.store()
    (follower,) = world.stores
    assert (follower.expected, follower.row) == (b"a", b"abc")
    world.store()
    assert world.told == {"a": [OK], "x": [OK], "b": [OK], "ac": [OLD, OK]}
    assert (world.stores, world.counters.stores_raced) == ([], 0)


def test_a_faster_write_of_somebody_else_is_built_upon() -> None:
    world = World()
    world.offer("ab")
    world.rows[HERE] = b"a"  # another worker's
    world.offer("c")
    assert world.store().row == b"ab"
    assert world.counters.stores_raced == 1
    world.store()
    assert world.told == {"ab": [OLD, OK]}
    world.store()
    assert world.rows == {HERE: b"abc"}
    assert world.writes.quotas.rows == 2


def test_a_shelf_that_takes_nothing_is_given_up_and_all_are_told() -> None:
    world = World()
    world.offer("ab")
    world.offer("c")
    for _ in range(TRIES_MAX + 1):
        world.store(applied=False)
    assert world.told == {"ab": [FULL, FULL]}
    world.store()
    assert world.told["c"] == [OK]
    assert (world.counters.stores_failed, world.writes.quotas.rows) == (1, 1)


def test_a_quota_is_taken_for_each_record_and_once() -> None:
    world = World()
    burst = int(limits.LOC_WRITES_BURST)
    letters = "".join(chr(0x4E00 + n) for n in range(burst + 3))
    world.offer(letters)
    world.rows[HERE] = b"Z"  # raced: what was counted is not counted again
    world.store()
    world.store()
    assert world.told[letters] == [OK] * burst + [FULL] * (len(letters) - burst)
    world.offer("A")
    assert world.told["A"] == [FULL]
    world.offer("B", writer=None)  # our own
    world.store()
    assert world.told["B"] == [OK]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DHT_STORES_MAX", 3)
    world = World()
    for letters in ("a", "b", "c", "d"):
        world.offer(letters)
    assert world.told == {"d": [FULL]}
    world.offer("x", THERE)
    assert world.told["x"] == [FULL]
    world.store()
    world.store()
    assert world.rows == {HERE: b"abc"}
    world.offer("x2", THERE)
    world.store()
    assert world.told["x2"] == [OK, OK]
