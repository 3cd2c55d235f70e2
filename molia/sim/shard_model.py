"""What a shard must hold: an obvious model of transactions on a dictionary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from molia.base.now import Now
from molia.store.keys import Kind
from molia.store.ops import Guard, Put, Reply, Transaction

Key = tuple[Kind, bytes]


class Value(NamedTuple):
    """A value and when it expires, in unix seconds; 0 is never."""

    data: bytes
    expiry: int


Contents = Mapping[Key, Value]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a shard may hold if the power goes now: one of `outcomes`, seen at `now`.

    The first outcome is what was acknowledged; each later one has one more of the transactions
    under way.
    """

    phase: str
    now: Now
    outcomes: tuple[Contents, ...] = field(repr=False)

    def visible(self) -> list[dict[Key, bytes]]:
        """Return what reads and scans may show, per outcome."""
        return [visible(contents, self.now) for contents in self.outcomes]


def visible(contents: Contents, now: Now) -> dict[Key, bytes]:
    """Return the values that have not expired."""
    return {key: value.data for key, value in contents.items() if is_alive(value, now)}


def is_alive(value: Value | None, now: Now) -> bool:
    """Tell whether a value is there and has not expired."""
    return value is not None and (value.expiry == 0 or value.expiry > now.unix_s)


def apply_batch(
    contents: Contents, batch: Sequence[Transaction], now: Now
) -> tuple[list[Contents], list[Reply]]:
    """Return the contents before the batch and after each transaction of it, and the replies."""
    steps: list[Contents] = [contents]
    replies: list[Reply] = []
    for transaction in batch:
        if holds(steps[-1], transaction.guard, now):
            steps.append(apply_one(steps[-1], transaction, now))
            replies.append(Reply.APPLIED)
        else:
            replies.append(Reply.REFUSED)
    return steps, replies


def holds(contents: Contents, guard: Guard | None, now: Now) -> bool:
    """Tell whether a guard lets its transaction through."""
    if guard is None:
        return True
    value = contents.get((guard.kind, guard.key))
    if value is None or not is_alive(value, now):
        return guard.value is None
    return value.data == guard.value


def apply_one(contents: Contents, transaction: Transaction, now: Now) -> Contents:
    """Return the contents after a transaction whose guard held."""
    after = dict(contents)
    for op in transaction.ops:
        key = (op.kind, op.key)
        if not isinstance(op, Put):
            after.pop(key, None)
        elif op.kind is not Kind.BLOCK or op.overwrite or not is_alive(after.get(key), now):
            after[key] = Value(bytes(op.value), op.expiry)
    return after
