"""The enumerator itself: it clears a sound toy log, and finds each well-known way to break one."""

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from molia.sim.disk import SimDisk
from molia.sim.entropy import SeededEntropy
from molia.sim.journal import Event, Mark
from molia.sim.powercut import CrashState, crash_states
from molia.store.disk import Disk, File

HEAD = struct.Struct("<IBI")


@dataclass(frozen=True)
class Bugs:
    """What a toy log leaves out."""

    sync: bool = False
    sync_dir: bool = False
    checksum: bool = False
    truncate: bool = False
    late_sync: bool = False


class ToyLog:
    """A dictionary of bytes: length-prefixed records in one file, the last of a key wins."""

    def __init__(self, disk: Disk, bugs: Bugs) -> None:
        self._bugs, self.values = bugs, dict[bytes, bytes]()
        disk.make_dir("toy")
        if disk.exists("toy/log"):
            self._file = disk.open("toy/log")
        else:
            self._file = disk.open("toy/log", create=True)
        if not bugs.sync_dir:
            disk.sync_dir("")
            disk.sync_dir("toy")
        self._end = self._replay(self._file)
        if not bugs.truncate:
            self._file.truncate(self._end)
            self._file.sync()

    def put(self, items: dict[bytes, bytes]) -> Callable[[], None]:
        """Write records at once. Return what is left to do once they were acknowledged."""
        records = b"".join(self._record(key, value) for key, value in items.items())
        self._file.write(self._end, [records])
        self._end += len(records)
        self.values |= items
        if self._bugs.late_sync:
            return self._file.sync
        if not self._bugs.sync:
            self._file.sync()
        return lambda: None

    def _record(self, key: bytes, value: bytes) -> bytes:
        body = key + value
        checksum = 0 if self._bugs.checksum else zlib.crc32(body)
        return HEAD.pack(checksum, len(key), len(body)) + body

    def _replay(self, file: File) -> int:
        data, at = file.read(0, file.size()), 0
        while at + HEAD.size <= len(data):
            checksum, key_size, size = HEAD.unpack_from(data, at)
            body = data[at + HEAD.size : at + HEAD.size + size]
            if len(body) < size or not key_size or not self._sound(checksum, body):
                break
            self.values[body[:key_size]] = body[key_size:]
            at += HEAD.size + size
        return at

    def _sound(self, checksum: int, body: bytes) -> bool:
        return checksum == (0 if self._bugs.checksum else zlib.crc32(body))


def record(root: Path, seed: int, bugs: Bugs) -> list[Event]:
    """Return the journal of pairs of puts; a mark says which contents are right from there on."""
    rng = random.Random(seed)
    journal: list[Event] = [Mark(({},))]
    disk = SimDisk(root, SeededEntropy(seed), journal=journal)
    log = ToyLog(disk, bugs)
    size = rng.choice([10, 3000, 6000])
    for _ in range(10):
        before = dict(log.values)
        first, second = ({rng.randbytes(2): rng.randbytes(size)} for _ in range(2))
        journal.append(Mark((before, before | first, before | first | second)))
        finish = log.put(first | second)
        journal.append(Mark((dict(log.values),), cut=True))
        finish()
    return journal


def failure(state: CrashState, root: Path, bugs: Bugs) -> str:
    """Reopen a state and write to it; return what is wrong, or nothing."""
    assert isinstance(state.mark, tuple)
    disk = state.build(root)
    found = ToyLog(disk, bugs)
    if found.values not in state.mark:
        return "a value is wrong"
    size = max((len(value) for outcome in state.mark for value in outcome.values()), default=1)
    expected = found.values | {b"!!": bytes(size)}
    found.put({b"!!": bytes(size)})()
    if ToyLog(disk, bugs).values != expected:
        return "what was written after recovery is gone, or more came back"
    return ""


def run(root: Path, bugs: Bugs, seeds: range) -> tuple[int, str]:
    """Return how many states were tried, and what went wrong in the last."""
    tried = 0
    for seed in seeds:
        for state in crash_states(record(root, seed, bugs), seed=str(seed)):
            tried += 1
            if wrong := failure(state, root, bugs):
                return tried, f"{wrong}\n{state.describe()}"
    return tried, ""


def test_a_sound_log_survives_every_state(tmp_path: Path) -> None:
    tried, wrong = run(tmp_path, Bugs(), range(8))
    assert wrong == ""
    assert tried > 1_000


@pytest.mark.parametrize("bug", Bugs.__dataclass_fields__)
def test_a_log_with_a_bug_is_found_out(tmp_path: Path, bug: str) -> None:
    tried, wrong = run(tmp_path, Bugs(**{bug: True}), range(40))
    assert wrong, f"{bug} survived {tried} states"


def test_the_same_seed_gives_the_same_states(tmp_path: Path) -> None:
    journal = record(tmp_path, 3, Bugs())
    first = [(state.cut, state.plan, state.plan.salt) for state in crash_states(journal, seed="3")]
    again = [(state.cut, state.plan, state.plan.salt) for state in crash_states(journal, seed="3")]
    assert first == again
    assert len({number for number, _ in enumerate(first)}) == len(first)


def test_a_cut_in_a_large_write_has_many_outcomes_and_a_bound(tmp_path: Path) -> None:
    journal: list[Event] = []
    file = SimDisk(tmp_path, SeededEntropy(1), journal=journal).open("a", create=True)
    file.write(0, [bytes(300 * 1024)])
    file.sync()
    states = list(crash_states(journal, seed="5", per_cut=24))
    at_write = [state.plan for state in states if state.cut == 2]
    assert len(at_write) == len(set(at_write)) == 24
