"""Writes to the shelf: decided on the row that is there, carried out only if it still is.

Whoever decides gives a rule; when another write was faster, the rule is asked again with the new
row. So of many writers at one moment one wins and the others are told.
Source: docs/reference/dht.md, "Writes".
"""

from collections.abc import Callable
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
Written: TypeAlias = Callable[[Ruling, Now], None]


class _Write(NamedTuple):
    kind: int
    loc: bytes
    rule: Rule
    full: int
    """The code that says that a quota is used up, or that the shelf does not take it."""
    writer: PeerKey | None
    done: Written
    tries: int
    ruling: Ruling
    expected: bytes | None


class Writes:
    """The writes of one engine."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.quotas = Quotas(rows_max=hub.config.rows_max)
        self._open: dict[int, _Write] = {}
        self._token = 0

    def offer(
        self, kind: int, loc: bytes, rule: Rule, done: Written, now: Now, *,
        full: int, writer: PeerKey | None,
    ) -> None:  # fmt: skip
        """Decide and write; `done` is called once, at once if there is nothing to write.

        writer: whose quota it takes; None: this node's own.
        """
        self._decide(
            _Write(kind, loc, rule, full, writer, done, 0, Ruling(full, None, 0), None), now
        )

    def on_stored(self, token: int, *, applied: bool, now: Now) -> None:
        """Take what became of a `Store`; not applied: another write was faster."""
        write = self._open.pop(token, None)
        if write is None:
            return
        if applied:
            self.quotas.on_rows(int(write.ruling.is_new))
            write.done(write.ruling, now)
            return
        self._hub.counters.stores_raced += 1
        if write.tries < TRIES_MAX:
            self._decide(write._replace(tries=write.tries + 1), now)
        else:
            self._hub.counters.stores_failed += 1
            write.done(Ruling(write.full, None, 0), now)

    def _decide(self, write: _Write, now: Now) -> None:
        row = self._hub.shelf.read(write.kind, write.loc)
        ruling = write.rule(row, now)
        if ruling.row is None:
            write.done(ruling, now)
        elif not self._may(write, ruling, now):
            self._hub.counters.records_full += 1
            write.done(Ruling(write.full, None, 0), now)
        else:
            self._token += 1
            self._open[self._token] = write._replace(ruling=ruling, expected=row)
            self._hub.emit(
                Store(self._token, write.kind, write.loc, ruling.row, row, ruling.expires)
            )

    def _may(self, write: _Write, ruling: Ruling, now: Now) -> bool:
        if len(self._open) >= limits.DHT_STORES_MAX:
            return False
        if write.writer is None or write.tries:
            return True
        return (
            self.quotas.take(write.writer, write.loc, is_new=ruling.is_new, now_s=now.mono_s)
            is None
        )
