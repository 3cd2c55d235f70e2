"""A shard against a dict, through checkpoints, restarts, kills and rebuilds."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from molia.store.keys import Kind
from molia.store.ops import Reply
from molia.store.shard import Delete, Guard, Put, ShardOptions, Transaction
from tests.store.shards import NOW, audit_all, contents, disk_at, open_shard

OPTIONS = ShardOptions(
    segment_bytes=24 * 1024, ballast_bytes=0, reserve_bytes=0, map_bytes=64 << 20,
    checkpoint_keys=12, checkpoint_log_bytes=64 * 1024, slice_keys=3, punch_bytes=16_384,
)  # fmt: skip
named = st.tuples(
    st.sampled_from([Kind.BLOCK, Kind.META, Kind.RECORD]),
    st.sampled_from([b"a", b"b", b"c", b"dd", b"e" * 80]),
)
sizes = st.sampled_from([0, 1, 30, 5_000, 17_000, 70_000])
ages = st.sampled_from([0, 0, 0, 5, 1_000])
puts = st.tuples(named, sizes, st.integers(0, 255), ages, st.booleans())
operations = st.one_of(puts, named)
Content = tuple[bytes, int]


class ShardAgainstDict(RuleBasedStateMachine):
    """The rules are what a node does; the dict is what it may expect."""

    options = OPTIONS

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="molia-shard-"))
        self.disk = disk_at(self.root)
        self.now = NOW
        self.expected: dict[tuple[Kind, bytes], Content] = {}
        self.shard, _ = open_shard(self.disk, self.options)

    def teardown(self) -> None:
        self.shard._release()
        shutil.rmtree(self.root)

    def alive(self, key: tuple[Kind, bytes]) -> bytes | None:
        """What the dict shows of a key now."""
        value, expiry = self.expected.get(key, (b"", 1))
        return None if 0 < expiry <= self.now.unix_s else value

    @rule(batch=st.lists(st.lists(operations, min_size=1, max_size=3), max_size=3), guard=named)
    def apply(self, batch: list[list[Any]], guard: tuple[Kind, bytes]) -> None:
        """Some transactions, the last one guarded by what a key holds before."""
        transactions = []
        wanted = []
        before = self.alive(guard)
        for number, ops in enumerate(batch):
            guarded = number == len(batch) - 1
            transactions.append(
                Transaction(
                    tuple(self.operation(op) for op in ops),
                    Guard(*guard, before) if guarded else None,
                )
            )
            if guarded and self.alive(guard) != before:
                wanted.append(Reply.REFUSED)
                continue
            wanted.append(Reply.APPLIED)
            for op in ops:
                self.expect(op)
        assert self.shard.apply(transactions, self.now) == wanted

    def operation(self, op: Any) -> Put | Delete:
        """An operation as the shard takes it."""
        match op:
            case ((kind, key), size, fill, age, overwrite):
                expiry = int(self.now.unix_s) + age if age else 0
                return Put(kind, key, bytes((fill,)) * size, expiry, overwrite)
            case (kind, key):
                return Delete(kind, key)
        raise AssertionError(op)

    def expect(self, op: Any) -> None:
        """The same on the dict."""
        made = self.operation(op)
        key = (made.kind, made.key)
        if isinstance(made, Delete):
            self.expected.pop(key, None)
        elif made.kind != Kind.BLOCK or made.overwrite or self.alive(key) is None:
            self.expected[key] = (bytes(made.value), made.expiry)

    @rule(seconds=st.sampled_from([0.1, 3.0, 70.0]), steps=st.integers(1, 30), idle=st.booleans())
    def work(self, seconds: float, steps: int, idle: bool) -> None:
        """Time passes, and the shard gets some of it."""
        self.now = self.now.after(seconds)
        for _ in range(steps):
            self.shard.work(self.now, idle=idle)

    @rule()
    def checkpoint(self) -> None:
        """All into the index."""
        self.shard.checkpoint(self.now)

    @rule(how=st.sampled_from(["close", "kill", "rebuild", "lose index"]))
    def restart(self, how: str) -> None:
        """A new process opens the shard."""
        if how == "close":
            self.shard.close(self.now)
        else:
            self.shard._release()
        if how == "lose index":
            for name in self.disk.list_dir("shard-00"):
                if name.startswith("index-"):
                    self.disk.remove_tree(f"shard-00/{name}")
        self.shard, report = open_shard(
            self.disk, self.options, now=self.now, rebuild=how == "rebuild"
        )
        assert report.damage_count == 0, report
        assert report.truncated_bytes == 0
        has_log = bool(self.shard.audit_segments())
        assert report.index_rebuilt == (how == "rebuild" or (has_log and how == "lose index"))

    @precondition(lambda self: len(self.expected) > 2)
    @rule()
    def audit(self) -> None:
        """Nothing is damaged, nothing indexed wrongly."""
        assert audit_all(self.shard, self.now) == (0, set())

    @invariant()
    def shows_what_it_should(self) -> None:
        """Everything that is alive, and nothing else."""
        alive = {key: value for key in self.expected if (value := self.alive(key)) is not None}
        assert contents(self.shard, self.now) == alive


TestShardAgainstDict = ShardAgainstDict.TestCase
TestShardAgainstDict.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
