"""Opening a shard: directories, the lock, the index, recovery."""

import contextlib
import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from molia.base.errors import HomeLocked, NoSpace, ShardUnavailable
from molia.base.now import Now
from molia.store.ballast import BALLAST_NAME, Ballast
from molia.store.delta import Delta, delta_name, epochs, forget_deltas
from molia.store.disk import Disk, Lock, is_full
from molia.store.index import (
    RETIRED,
    SEALED,
    Dead,
    Entry,
    Index,
    Position,
    SegmentRow,
    Slice,
    mark_rows,
    punch_range,
)
from molia.store.lmdb_env import IndexFailed, IndexFull
from molia.store.log import Home, Log
from molia.store.memtable import Generation, in_order
from molia.store.migrate import shard_name
from molia.store.ops import Counters, RecoveryReport, ShardOptions
from molia.store.recovery import Recovery
from molia.store.runs import Runs
from molia.store.segment import COMPACTED, HEADER_SIZE, parse_header, segment_id_of
from molia.store.unreadable import PatchedFile, Patience

_INDEX_NAME: Final = re.compile(r"^index-([0-9]{4,9})$")
_ANY_LSN: Final = 2**63
_DEAD_PAGE: Final = 10_000
_REBUILD_SLICE_KEYS: Final = 100_000
_REPLAY_SLICES: Final = 20
"""Nobody waits during recovery, so its transactions are as large as so many of a checkpoint."""


@dataclass(slots=True)
class Opened:
    """The parts of a shard that is ready."""

    home: Home
    lock: Lock
    index: Index
    log: Log
    rows: dict[int, SegmentRow]
    generation: Generation
    """What did not fit into the index; empty unless the disk is full."""
    ballast: Ballast
    counters: Counters
    epoch: int
    position: Position
    report: RecoveryReport
    last_seen_unix_s: int = 0
    """The highest wall time of earlier runs; 0 when that is not known."""
    delta: Delta | None = None
    """Where other processes see what is not in the index; None when there are none."""


def open_parts(
    disk: Disk, index: int, *, store_uuid: bytes, options: ShardOptions, now: Now, rebuild: bool
) -> Opened:
    """Return a shard's parts, recovered. Raises HomeLocked, ShardUnavailable."""
    home = Home(disk, shard_name(index), index, store_uuid)
    try:
        created = _make_directories(home)
        lock = _lock(home)
    except OSError as error:
        raise _unavailable(home, error) from None
    try:
        opening = _Opening(home, options, now, rebuild=rebuild and not created)
        return opening.run(lock, created=created)
    except (OSError, IndexFull) as error:
        lock.release()
        raise _unavailable(home, error) from None
    except BaseException:
        lock.release()
        raise


def index_name(home: Home, number: int) -> str:
    """Return the name of an index's directory."""
    return f"{home.name}/index-{number:04d}"


def index_numbers(home: Home) -> list[int]:
    """Return the numbers of all indexes of a shard, in order."""
    matches = map(_INDEX_NAME.match, home.disk.list_dir(home.name))
    return sorted(int(match[1]) for match in matches if match is not None)


def _unavailable(home: Home, error: Exception) -> ShardUnavailable:
    return ShardUnavailable(
        f"{home.name} cannot be opened: {error}", hint="check the disk, then start the node again"
    )


def _make_directories(home: Home) -> bool:
    """Make what is missing, durably; True if the shard is new."""
    disk, created = home.disk, not home.disk.exists(home.name)
    if not disk.exists(f"{home.name}/seg"):
        disk.make_dir(f"{home.name}/seg")
    # also when they were there: a power cut may have left them unsynced
    disk.sync_dir(home.name)
    disk.sync_dir("")
    return created


def _lock(home: Home) -> Lock:
    try:
        return home.disk.lock(f"{home.name}/LOCK")
    except BlockingIOError:
        raise HomeLocked(f"another process writes {home.name}", hint="stop it first") from None


class _Opening:
    def __init__(self, home: Home, options: ShardOptions, now: Now, *, rebuild: bool) -> None:
        self._home, self._options, self._now = home, options, now
        self._reason = "it was asked for" if rebuild else ""
        self._rows: dict[int, SegmentRow] = {}
        self._gaps_to = 0
        self._counters = Counters()

    def run(self, lock: Lock, *, created: bool) -> Opened:
        self._clean()
        index, position = self._open_index(created=created)
        try:
            return self._recover(index, position, lock, created=created)
        except IndexFailed as error:
            index.close()
            if self._reason:
                raise _unavailable(self._home, error) from None
            self._reason = f"reading it failed: {error}"
            self._rows, self._gaps_to = {}, _ANY_LSN
        except BaseException:
            index.close()
            raise
        index = self._new_index()
        try:
            return self._recover(index, None, lock, created=created)
        except IndexFailed as error:
            index.close()
            raise _unavailable(self._home, error) from None
        except BaseException:
            index.close()
            raise

    # ------------------------------------------------------------------------ directories

    def _clean(self) -> None:
        """Remove what only a running writer needs."""
        disk, name = self._home.disk, self._home.name
        for entry in disk.list_dir(f"{name}/seg"):
            if entry.endswith(".cmp"):
                disk.unlink(f"{name}/seg/{entry}")
        disk.remove_tree(f"{name}/rebuild")
        if not self._options.shared:  # else other processes read it until the new one is there
            forget_deltas(disk, name)

    def _index_numbers(self) -> list[int]:
        return index_numbers(self._home)

    def _open_index(self, *, created: bool) -> tuple[Index, Position | None]:
        """Return the newest whole index and its position; else a new one, and None."""
        numbers = self._index_numbers()
        self._gaps_to = self._known_lsn(numbers) if self._reason else 0
        if not self._reason:
            for number in reversed(numbers):
                index = self._try_index(number)
                if index is not None:
                    self._remove_others(number)
                    return index, index.position()
            has_log = bool(self._home.disk.list_dir(f"{self._home.name}/seg"))
            if has_log and not created:
                self._reason = "it was lost" if not numbers else "it cannot be read"
                self._gaps_to = _ANY_LSN
        return self._new_index(), None

    def _known_lsn(self, numbers: list[int]) -> int:
        """Return up to where an index that is to be replaced knows the log."""
        for number in reversed(numbers):
            with contextlib.suppress(IndexFailed, IndexFull):
                index = self._make_index(number)
                try:
                    position = index.position()
                finally:
                    index.close()
                if position is not None:
                    return position.lsn
        return _ANY_LSN

    def _try_index(self, number: int) -> Index | None:
        try:
            index = self._make_index(number)
        except IndexFailed:
            return None
        try:
            position = index.position()
            self._rows = index.rows()
            if position is not None and self._knows_all(position):
                self._end_retired(index)
                return index
        except IndexFailed:
            pass
        self._rows = {}
        index.close()
        return None

    def _knows_all(self, position: Position) -> bool:
        """Tell whether every segment before the position has its row.

        But for the output of a compaction that no location led to yet.
        """
        names = self._home.disk.list_dir(f"{self._home.name}/seg")
        ids = [sid for sid in map(segment_id_of, names) if sid is not None]
        unknown = [sid for sid in ids if sid < position.segment_id and sid not in self._rows]
        return all(self._is_output(sid) for sid in unknown)

    def _is_output(self, segment_id: int) -> bool:
        file = self._home.disk.open(self._home.segment(segment_id), writable=False)
        try:
            header = parse_header(PatchedFile(file, Patience()).read(0, HEADER_SIZE))
        finally:
            file.close()
        return header is not None and header.kind == COMPACTED

    def _end_retired(self, index: Index) -> None:
        """Unlink what a checkpoint has retired, then forget it."""
        retired = [sid for sid, row in self._rows.items() if row.state == RETIRED]
        gone = []
        for segment_id in retired:
            row = self._rows[segment_id]
            if row.live_frames or row.live_bytes:
                row.state = SEALED  # the index contradicts itself
                continue
            with contextlib.suppress(FileNotFoundError):
                self._home.disk.unlink(self._home.segment(segment_id))
            gone.append(segment_id)
        if not gone:
            return
        self._home.disk.sync_dir(f"{self._home.name}/seg")
        with contextlib.suppress(IndexFull):
            index.forget_segments(gone)
            for segment_id in gone:
                del self._rows[segment_id]

    def _new_index(self) -> Index:
        return self._make_index(max(self._index_numbers(), default=0) + 1)

    def _make_index(self, number: int) -> Index:
        name = index_name(self._home, number)
        self._home.disk.make_dir(name)
        path = self._home.disk.path_of(name)
        try:
            index = Index(path, map_bytes=self._options.map_bytes)
        except IndexFull:
            if not self._give_up_ballast():
                raise
            index = Index(path, map_bytes=self._options.map_bytes)
        try:
            # LMDB syncs its file, not the file's name
            self._home.disk.sync_dir(name)
            self._home.disk.sync_dir(self._home.name)
        except BaseException:
            index.close()
            raise
        self._number = number
        return index

    def _give_up_ballast(self) -> bool:
        """Make room before there is a `Ballast`; False when there is none to make."""
        name = f"{self._home.name}/{BALLAST_NAME}"
        if not self._home.disk.exists(name):
            return False
        self._home.disk.unlink(name)
        return True

    def _remove_others(self, number: int) -> None:
        for other in self._index_numbers():
            if other != number:
                self._home.disk.remove_tree(index_name(self._home, other))

    # ------------------------------------------------------------------------ recovery

    def _recover(
        self, index: Index, position: Position | None, lock: Lock, *, created: bool
    ) -> Opened:
        options, rows = self._options, self._rows
        log = Log(
            self._home, segment_bytes=options.segment_bytes, rows=rows, counters=self._counters
        )
        runs = Runs(self._home.disk, self._home.name) if self._reason else None
        recovery = Recovery(
            self._home, seed=log.seed, position=position, rows=rows,
            flush=lambda generation: self._flush_if_it_fits(index, generation, runs),
            flush_keys=options.checkpoint_keys, gaps_to=self._gaps_to,
        )  # fmt: skip
        recovery.run()
        log.adopt(recovery.tail)
        ballast = Ballast(
            self._home, size=options.ballast_bytes, reserve_bytes=options.reserve_bytes
        )
        try:
            ballast.open()
        except OSError as error:
            log.latch(f"making the ballast failed: {error.strerror or error}")
        if runs is not None:
            recovery.generation = self._load(index, runs, recovery.generation, ballast)
        epoch = max(index.number(b"epoch"), *epochs(self._home.disk, self._home.name), 0) + 1
        last_seen_unix_s = max(index.number(b"max_seen_time"), recovery.newest_unix_s)
        self._end_log(recovery, log, ballast)
        opened = Opened(
            self._home, lock, index, log, rows, recovery.generation, ballast, self._counters,
            epoch, position or Position(0, 0, 0), recovery.report(created=False, rebuild_reason=""),
            last_seen_unix_s,
        )  # fmt: skip
        try:
            self._publish(opened)
            recovery.remove_unknown()
            if self._reason and not log.failure and not opened.generation.entries:
                with contextlib.suppress(IndexFull):
                    self._note_punched(index)
            self._check_suspects(recovery, opened)
        except BaseException:
            if opened.delta is not None:
                opened.delta.close()
            raise
        opened.report = recovery.report(created=created, rebuild_reason=self._reason)
        return opened

    def _end_log(self, recovery: Recovery, log: Log, ballast: Ballast) -> None:
        """Cut a torn tail off, make what was read durable, seal.

        When the disk is full the seal waits for the next batch; when it fails the shard only reads.
        """
        if recovery.failure:
            log.latch(f"syncing what was there failed: {recovery.failure}")
        tail = log.tail
        if tail.file is None or log.failure:
            return
        try:
            if recovery.cut is not None:
                self._truncate(log)
            tail.file.sync()
        except OSError as error:
            log.latch(f"ending the log failed: {error.strerror or error}")
            return
        try:
            self._seal(log)
        except NoSpace:
            if ballast.release():
                self._seal_if_it_fits(log)
        except ShardUnavailable:
            return

    def _truncate(self, log: Log) -> None:
        assert log.tail.file is not None, "there is a segment to cut"
        log.tail.file.truncate(log.tail.offset)

    def _seal(self, log: Log) -> None:
        log.seal(self._now)

    def _seal_if_it_fits(self, log: Log) -> None:
        try:
            self._seal(log)
        except (NoSpace, ShardUnavailable):
            return

    def _publish(self, opened: Opened) -> None:
        """Checkpoint what was replayed; what does not fit stays in the memtable.

        From here on other processes use the new epoch's delta, and find the old one gone.
        """
        if self._options.shared:
            self._make_delta(opened)
        if not self._checkpoint(opened) and opened.delta is not None:
            self._share_unindexed(opened, opened.delta)
        if opened.delta is not None:
            forget_deltas(self._home.disk, self._home.name, but=opened.epoch)

    def _make_delta(self, opened: Opened) -> None:
        for _ in range(2):
            try:
                opened.delta = Delta(
                    self._home, opened.epoch, map_bytes=self._options.delta_map_bytes
                )
            except (IndexFull, IndexFailed) as error:
                if not opened.ballast.release():
                    raise _unavailable(self._home, error) from None
                self._home.disk.remove_tree(delta_name(self._home, opened.epoch))
                continue
            return

    def _share_unindexed(self, opened: Opened, delta: Delta) -> None:
        """Show what did not go into the index all the same. Raises ShardUnavailable."""
        try:
            delta.add(opened.generation.entries.items())
            opened.index.set_epoch(opened.epoch)
        except (IndexFull, IndexFailed) as error:
            raise _unavailable(self._home, error) from None

    def _checkpoint(self, opened: Opened) -> bool:
        """Bring the index up to date; False when it is full or the log failed."""
        if opened.log.failure:
            return False
        position = opened.log.position()
        marks = mark_rows(
            position, epoch=opened.epoch,
            max_seen_unix_s=max(opened.index.number(b"max_seen_time"), int(self._now.unix_s)),
        )  # fmt: skip
        for _ in range(2):
            try:
                self._flush(opened.index, opened.generation, marks)
            except IndexFull:
                if not opened.ballast.release():
                    return False
                continue
            opened.generation, opened.position = Generation(), position
            self._remove_others(self._number)
            return True
        return False

    def _flush_if_it_fits(self, index: Index, generation: Generation, runs: Runs | None) -> bool:
        """Bring a generation into the index, or, when that is made anew, into the sorted runs."""
        try:
            if runs is None:
                self._flush(index, generation)
            else:
                runs.add(generation)
                if generation.dead:
                    index.write_slice(Slice([], self._rows, dead=generation.dead))
        except IndexFull:
            return runs is not None  # what is dead only stays unpunched
        except OSError as error:
            if not is_full(error):
                raise
            return False
        return True

    def _load(self, index: Index, runs: Runs, newest: Generation, ballast: Ballast) -> Generation:
        """Fill a new index from the sorted runs; return what did not fit into it."""
        if not len(runs):
            return newest
        left = Generation()
        for items, dead in runs.merge(newest, _REBUILD_SLICE_KEYS):
            work = Slice(items, self._rows, dead=dead)
            if left.entries or not self._write_or_release(index, work, ballast):
                left.entries.update(items)
                left.dead += dead
        runs.forget()
        return left

    def _write_or_release(self, index: Index, work: Slice, ballast: Ballast) -> bool:
        for _ in range(2):
            try:
                index.write_slice(work)
            except IndexFull:
                if not ballast.release():
                    return False
                continue
            self._counters.index_commits += 1
            return True
        return False

    def _flush(
        self, index: Index, generation: Generation, marks: dict[bytes, bytes] | None = None
    ) -> None:
        """Bring a generation into the index; with `marks`, move its position as well."""
        size = _REBUILD_SLICE_KEYS if self._reason else _REPLAY_SLICES * self._options.slice_keys
        changed, items = set(self._rows), in_order(generation.entries)
        for first in range(0, max(1, len(items)), size):
            work = Slice(items[first : first + size], self._rows, changed)
            if first + size >= len(items):
                work.dead, work.marks = generation.dead, marks or {}
            index.write_slice(work)
            self._counters.index_commits += 1

    def _note_punched(self, index: Index) -> None:
        """After a rebuild: take what is a hole already off the list of dead values."""
        last: Dead | None = None
        while page := index.dead_page(_DEAD_PAGE, after=last):
            last = page[-1]
            done: list[Dead] = []
            for segment_id, group in groupby(page, lambda dead: dead.segment_id):
                holes = self._holes_of(segment_id)
                gone = [dead for dead in group if _is_hole(dead, holes)]
                self._rows[segment_id].punched_bytes += sum(dead.size for dead in gone)
                done += gone
            if done:
                touched = {dead.segment_id for dead in done}
                index.forget_dead(done, {sid: self._rows[sid] for sid in touched})

    def _holes_of(self, segment_id: int) -> list[tuple[int, int]]:
        file = self._home.disk.open(self._home.segment(segment_id), writable=False)
        try:
            return file.holes()
        finally:
            file.close()

    def _check_suspects(self, recovery: Recovery, opened: Opened) -> None:
        """A value in a hole is fine if its key has moved on, else it is damage."""
        newest = opened.generation.entries
        for suspect in recovery.suspects:
            packed = newest.get(suspect.tagged) or opened.index.get(suspect.tagged)
            expiry = Entry.unpack(suspect.entry).expiry
            if packed == suspect.entry and not 0 < expiry <= self._now.unix_s:
                recovery.findings.damage(
                    suspect.segment_id, suspect.offset, "the value of a live key is a hole",
                    kind=suspect.tagged[0], key=suspect.tagged[1:],
                )  # fmt: skip


def _is_hole(dead: Dead, holes: list[tuple[int, int]]) -> bool:
    place = punch_range(dead.value_offset, dead.vlen)
    if place is None:
        return True
    at = bisect_right(holes, (place[0], 2**63)) - 1
    return at >= 0 and holes[at][0] <= place[0] and place[1] <= holes[at][1]
