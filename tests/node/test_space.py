"""A full disk, and space that comes back: after deletes, cut-off uploads and expiry."""

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.process import MIB, Client, Node, RawPut, body_of, pieces, until
from tests.node.scan import assert_no_orphans

Record = Callable[[str, object], None]
DISK_SIZE = 72 * MIB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 72 MiB; skips where mounting is not allowed."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount") or "mount"
    command = [mount, "-t", "tmpfs", "-o", f"size={DISK_SIZE},mode=700", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def used_bytes(place: Path) -> int:
    return shutil.disk_usage(place).used


def is_ready(client: Client) -> bool:
    return client("GET", "/readyz").status == 200


def test_a_full_disk_refuses_puts_and_loses_nothing(small_disk: Path) -> None:
    settings = {
        "MOLIA_STORE__SHARDS": "1",
        "MOLIA_STORE__QUOTA_BYTES": "256MiB",
        "MOLIA_STORE__RESERVE_BYTES": "1MiB",
    }
    node = Node(small_disk / "home", settings)
    try:
        client = node.start()
        bodies = [body_of(1, 20_000_000), body_of(2, 3_000_000), body_of(3, 50_000)]
        cids = [client.put(body) for body in bodies]
        # its length is known: refused before a byte of it was sent
        early = RawPut(node.port, length=60_000_000, Expect="100-continue").answer()
        assert (early.status, early.code) == (507, "no-space")
        # its length is not known: it runs into the wall
        for seed in (4, 5):
            put = RawPut(node.port)
            put.send(pieces(body_of(seed, 60_000_000)))
            put.end()
            answer = put.answer()
            assert (answer.status, answer.code) == (507, "no-space"), answer
            assert "delete" in answer.json()["hint"]
        ready = client("GET", "/readyz")
        assert ready.status in (200, 503)
        if ready.status == 503:
            assert "full" in ready.body.decode()
        for cid, body in zip(cids, bodies, strict=True):
            assert client.get(cid) == body
        assert client.cids() == set(cids)
        before = used_bytes(small_disk)
        client.delete(cids.pop(0))
        del bodies[0]
        until(lambda: used_bytes(small_disk) < before - 20 * MIB, "deleting frees nothing")
        until(lambda: is_ready(client), "the node does not find that there is space again")
        bodies.append(body_of(6, 20_000_000))
        cids.append(client.put(pieces(bodies[-1])))
        node.stop()
        assert set(assert_no_orphans(node.home)) == set(cids)
        client = node.start()
        for cid, body in zip(cids, bodies, strict=True):
            assert client.get(cid) == body
        node.stop()
    finally:
        node.close()


def fill_to_the_last_byte(path: Path) -> None:
    """Write until nothing more fits, as another program might."""
    with path.open("ab", buffering=0) as file:
        for piece in (bytes(MIB), bytes(4096), b"x"):
            with contextlib.suppress(OSError):
                while True:
                    file.write(piece)


def test_a_disk_that_another_program_fills_to_the_last_byte_costs_nothing(small_disk: Path) -> None:
    settings = {"MOLIA_STORE__SHARDS": "1", "MOLIA_STORE__QUOTA_BYTES": "256MiB"}
    settings["MOLIA_STORE__RESERVE_BYTES"] = "1MiB"
    node, filler = Node(small_disk / "home", settings), small_disk / "filler"
    try:
        client = node.start()
        bodies = {client.put(body): body for body in (body_of(n, 2_000_000) for n in range(4))}
        removed, unpinned, *_ = bodies
        fill_to_the_last_byte(filler)
        assert client("PUT", "/blob", body=body_of(9, 2_000)).status == 507
        client.delete(removed)
        del bodies[removed]
        assert client("DELETE", f"/pin/{unpinned}").status == 200
        fill_to_the_last_byte(filler)  # what the delete gave back goes as well
        node.kill()
        node.launch()  # it starts, to be emptied, and says that it is full
        client = node.wait_up()
        assert not is_ready(client)
        assert client.cids() == set(bodies)
        for cid, body in bodies.items():
            assert client.get(cid) == body
        assert client("PUT", "/blob", body=body_of(9, 2_000)).status == 507
        filler.unlink()
        until(lambda: is_ready(client), "the node does not find that there is space again")
        late = client.put(body_of(9, 3_000_000))
        node.stop()
        assert set(assert_no_orphans(node.home)) == {*bodies, late}
    finally:
        node.close()


def test_a_cut_off_upload_leaves_nothing(node: Node) -> None:
    client = node.start()
    kept = body_of(1, 2_000_000)
    cid = client.put(kept)
    before, counted = node.disk_bytes(), client.metric("molia_puts_total")
    small = RawPut(node.port, length=900_000)
    small.send([body_of(2, 500_000)])
    for put in (RawPut(node.port, length=40_000_000), RawPut(node.port)):
        assert put.send(pieces(body_of(3, 20_000_000)))
        until(lambda: node.disk_bytes() > before + 10 * MIB, "nothing is stored on the way")
        put.cut_off()
    small.cut_off()
    until(lambda: client.metric("molia_puts_total") == counted + 3, "a put does not end")
    assert client.cids() == {cid}
    until(lambda: node.disk_bytes() < before + MIB, "the space is not given back")
    assert client.get(cid) == kept
    node.stop()
    assert set(assert_no_orphans(node.home)) == {cid}


def test_deleting_gives_95_percent_back_while_the_rest_is_read(
    node: Node, record_property: Record
) -> None:
    client = node.start()
    bodies = [body_of(seed, 8 * MIB) for seed in range(10)]
    cids = [client.put(body) for body in bodies]
    stop, wrong, reads = threading.Event(), [], []

    def read_on() -> None:
        reader = node.client()
        while not stop.is_set():
            for cid, body in zip(cids[8:], bodies[8:], strict=True):
                reads.append(cid)
                if reader.get(cid) != body:
                    wrong.append(cid)

    before = node.disk_bytes()
    thread = threading.Thread(target=read_on)
    thread.start()
    try:
        started_s = time.monotonic()
        for cid in cids[:8]:
            client.delete(cid)
        wanted = 0.95 * 8 * 8 * MIB * 1.4
        until(lambda: before - node.disk_bytes() >= wanted, "too little is given back")
        took_s = time.monotonic() - started_s
    finally:
        stop.set()
        thread.join()
    assert reads
    assert not wrong
    node.stop()
    assert set(assert_no_orphans(node.home)) == set(cids[8:])
    record_property(
        "summary", f"deleting 64 MiB of 80 gave 95% back after {took_s:.1f} s, {len(reads)} reads"
    )


def test_64_uploads_at_once_stay_within_their_memory(node: Node, record_property: Record) -> None:
    client = node.start()
    client.delete(client.put(body_of(1, 8_000_000)))  # what is loaded once is loaded now
    idle = node.memory("VmRSS")
    base, failures = body_of(2, 8_000_000), []

    def upload(number: int) -> None:
        try:
            node.client().put(number.to_bytes(4) + base)
        except Exception as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    assert len(client.cids()) == 64
    grown = node.memory("VmHWM") - idle
    assert grown <= 300e6, f"{grown / 1e6:.0f} MB over idle"
    record_property("summary", f"64 uploads of 8 MB at once: {grown / 1e6:.0f} MB over idle")
    node.stop()


def test_a_put_with_an_expiry_goes_by_itself_and_frees_its_space(tmp_path: Path) -> None:
    node = Node(tmp_path / "home", {"MOLIA_LEASES__SWEEP_S": "1s"})
    try:
        client = node.start()
        before = node.disk_bytes()
        kept = client.put(body_of(1, 10_000))
        soon = int(time.time()) + 12  # by then all is put and listed, also on a busy machine
        cids = [
            client.put(body_of(2, 14_000_000), f"?expires={soon}"),
            client.put(body_of(3, 10_000), f"?expires={soon}"),
        ]
        assert client.cids() == {kept, *cids}
        until(lambda: client.cids() == {kept}, "what expired is still listed")
        assert time.time() >= soon
        for cid in cids:
            assert client("GET", f"/blob/{cid}").status == 404
        until(lambda: client.metric("molia_leases_ended_total") == 2, "nothing is swept")
        until(lambda: node.disk_bytes() < before + MIB, "the space is not given back")
        node.stop()
        assert set(assert_no_orphans(node.home)) == {kept}
    finally:
        node.close()
