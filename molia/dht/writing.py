"""Writes to the shelf: decided on the row that is there, carried out only if it still is.

Whoever decides gives a rule; when another write was faster, the rule is asked again with the new
row. So of many writers at one moment one wins and the others are told. What one message brings for
a location is decided one after the other, and written as one row.
Source: docs/reference/dht.md, "Writes".
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from molia.base import limits
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.dht.effects import Store
from molia.dht.hub import Hub
from molia.dht.quotas import Quotas

TRIES_MAX: Final = 8


class Ruling(NamedTuple):
    """What a rule says: what to answer, and the row to store, if any."""

    code: int
    row: bytes | None
    expires: int
    current: bytes = b""
    is_new: bool = False
    """Whether one record more is then held."""


Rule: TypeAlias = Callable[[bytes | None, Now], Ruling]
"""Given the row that is there and the time."""
Written: TypeAlias = Callable[[Sequence[Ruling], Now], None]


class _Write(NamedTuple):
    """What one message, or this node itself, wants written at a location."""

    rules: Sequence[Rule]
    full: int
    """The code that says that a quota is used up, or that the shelf does not take it."""
    writer: PeerKey | None
    done: Written


class _Batch(NamedTuple):
    """What is written to a location at once."""

    kind: int
    loc: bytes
    writes: Sequence[_Write]
    rulings: Sequence[Sequence[Ruling]] = ()
    """For each write, as they were decided last."""
    tries: int = 0


class Writes:
    """The writes of one engine: one at a time for a location, whoever comes meanwhile follows."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.quotas = Quotas(rows_max=hub.config.rows_max)
        self._open: dict[int, _Batch] = {}
        self._waiting: dict[tuple[int, bytes], list[_Write]] = {}
        """By kind and location that is being written, what follows."""
        self._waiting_count = self._token = 0

    def offer(
        self, kind: int, loc: bytes, rules: Sequence[Rule], done: Written, now: Now, *,
        full: int, writer: PeerKey | None,
    ) -> None:  # fmt: skip
        """Decide and write; `done` is called once, at once if there is nothing to write.

        rules: each is given the row that the one before left; `done` gets a ruling for each.
        writer: whose quota it takes; None: this node's own.
        """
        write, waiting = _Write(rules, full, writer, done), self._waiting.get((kind, loc))
        if waiting is None:
            self._decide(_Batch(kind, loc, (write,)), now)
        elif self._has_room:
            waiting.append(write)
            self._waiting_count += 1
        else:
            self._hub.counters.records_full += len(rules)
            done([Ruling(full, None, 0)] * len(rules), now)

    @property
    def _has_room(self) -> bool:
        return len(self._open) + self._waiting_count < limits.DHT_STORES_MAX

    def on_stored(self, token: int, *, applied: bool, now: Now) -> None:
        """Take what became of a `Store`; not applied: another write was faster."""
        batch = self._open.pop(token, None)
        if batch is None:
            return
        followers = self._waiting.pop((batch.kind, batch.loc))
        self._waiting_count -= len(followers)
        if not applied:
            self._hub.counters.stores_raced += 1
            if batch.tries < TRIES_MAX:
                self._decide(batch._replace(tries=batch.tries + 1), now, followers)
                return
            self._hub.counters.stores_failed += len(batch.writes)
            failed = [[Ruling(it.full, None, 0)] * len(it.rules) for it in batch.writes]
            batch = batch._replace(rulings=failed)
        self.quotas.on_rows(sum(ruling.is_new for each in batch.rulings for ruling in each))
        if followers:
            self._decide(_Batch(batch.kind, batch.loc, followers), now)
        _tell(batch, now)

    def _decide(self, batch: _Batch, now: Now, followers: Sequence[_Write] = ()) -> None:
        row = before = self._hub.shelf.read(batch.kind, batch.loc)
        decided, expires = [], 0
        for place, write in enumerate(batch.writes):
            rulings: list[Ruling] = []
            for index, rule in enumerate(write.rules):
                ruling = rule(row, now)
                if ruling.row is not None and not self._may(batch, place, index, ruling, now):
                    self._hub.counters.records_full += 1
                    ruling = Ruling(write.full, None, 0)
                if ruling.row is not None:
                    row, expires = ruling.row, ruling.expires
                rulings.append(ruling)
            decided.append(rulings)
        batch = batch._replace(rulings=decided)
        if row is before or row is None:
            if followers:
                self._decide(_Batch(batch.kind, batch.loc, followers), now)
            _tell(batch, now)
            return
        self._token += 1
        self._open[self._token] = batch
        self._waiting[batch.kind, batch.loc] = list(followers)
        self._waiting_count += len(followers)
        self._hub.emit(Store(self._token, batch.kind, batch.loc, row, before, expires))

    def _may(self, batch: _Batch, place: int, index: int, ruling: Ruling, now: Now) -> bool:
        write = batch.writes[place]
        if batch.tries:  # it was counted
            return batch.rulings[place][index].code != write.full
        if not self._has_room:
            return False
        if write.writer is None:
            return True
        refused = self.quotas.take(
            write.writer, batch.loc, is_new=ruling.is_new, now_s=now.mono_s
        )  # fmt: skip
        return refused is None


def _tell(batch: _Batch, now: Now) -> None:
    for write, rulings in zip(batch.writes, batch.rulings, strict=True):
        write.done(rulings, now)
