"""Named timers of a core, so that it can say when it wants to be called again."""

from collections.abc import Hashable
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


class DeadlineTable(Generic[Name]):
    """A few named timers in monotonic seconds; setting a name again moves its timer.

    Timers that fall due together come out in the order in which they were set, so a replay of the
    same calls gives the same order.
    """

    def __init__(self) -> None:
        self._due_s: dict[Name, float] = {}

    def __len__(self) -> int:
        return len(self._due_s)

    def set(self, name: Name, at_s: float) -> None:
        """Arm `name` for `at_s`, replacing what it was armed for."""
        self._due_s.pop(name, None)
        self._due_s[name] = at_s

    def clear(self, name: Name) -> None:
        """Disarm `name`; a name that is not armed is fine."""
        self._due_s.pop(name, None)

    def next_s(self) -> float | None:
        """Return the earliest deadline, or None while nothing is armed."""
        return min(self._due_s.values(), default=None)

    def take_due(self, now_s: float) -> list[Name]:
        """Disarm and return the names due at `now_s`, earliest first."""
        due = [(at_s, name) for name, at_s in self._due_s.items() if at_s <= now_s]
        due.sort(key=lambda pair: pair[0])
        for _, name in due:
            del self._due_s[name]
        return [name for _, name in due]
