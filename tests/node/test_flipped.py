"""Flipped bits: never served, found by verify, healed while four shares of a stripe are hit."""

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from molia.base.cid import Cid
from molia.base.ids import ObjectId
from molia.store import keys
from molia.store.keys import Kind, Space
from molia.store.rows import BindRow
from tests.node.damage import Place, flip, places, rows
from tests.node.process import Client, Node, body_of, until
from tests.node.scan import assert_no_orphans

Places = dict[tuple[Kind, bytes], Place]
LARGE = (6_000_000, 3_000_000, 1_100_000)
SMALL = (70_000, 30_000, 5_000, 900_000)


@dataclass
class Kept:
    """Blobs of a stopped node."""

    bodies: dict[str, bytes]
    bound: dict[str, BindRow]
    large: list[str]
    small: list[str]

    def object_id(self, cid: str) -> ObjectId:
        return self.bound[cid].object_id


@pytest.fixture
def kept(node: Node) -> Kept:
    """Some blobs in a node that was stopped."""
    client = node.start()
    bodies = {}
    for number, size in enumerate((*LARGE, *SMALL)):
        body = body_of(number, size)
        bodies[client.put(body)] = body
    node.stop()
    cids = list(bodies)
    return Kept(bodies, assert_no_orphans(node.home), cids[: len(LARGE)], cids[len(LARGE) :])


def verify(node: Node, *arguments: str) -> tuple[int, dict[str, object]]:
    """Run `molia verify`; return its exit code and summary."""
    ran = node.molia("verify", "--json", *arguments)
    assert b"Traceback" not in ran.stderr, ran.stderr
    return ran.returncode, json.loads(ran.stdout.splitlines()[-1])


def check_all(client: Client, kept: Kept) -> None:
    for cid, body in kept.bodies.items():
        assert client.get(cid) == body


def damage_shares(node: Node, kept: Kept, rng: random.Random) -> int:
    """Hit four shares of every large blob, their leaf lists and some rows; return how often."""
    found, flips = places(node), 0
    for cid in kept.large:
        object_id = kept.object_id(cid)
        shares = rng.sample(range(14), 4)
        for kind, key in list(found):
            if kind is not Kind.BLOCK or not key.startswith(object_id):
                continue
            _, share, stripe = keys.split_block_key(key)
            is_list = stripe == keys.LEAVES_STRIPE
            if share in shares and (stripe == 0 or is_list or rng.random() < 0.5):
                if is_list and share in shares[2:]:
                    continue
                place = found[kind, key]
                (place.flip_head if rng.random() < 0.2 else place.flip_value)(rng)
                flips += 1
    first, second, third = (bytes(Cid.parse(cid).digest) for cid in kept.large)
    small = bytes(Cid.parse(kept.small[0]).digest)
    for space, part in (
        (Space.LISTING, first), (Space.BIND, second), (Space.PIN, third),
        (Space.LEASE, kept.object_id(kept.large[0])), (Space.BIND, small),
        (Space.ALIAS, kept.bound[kept.large[1]].content),
    ):  # fmt: skip
        (place,) = rows(found, space, part)
        place.flip_any(rng)
        flips += 1
    return flips


@pytest.mark.parametrize("seed", [1])
def test_four_shares_of_a_stripe_are_read_around_told_and_healed(
    node: Node, kept: Kept, seed: int
) -> None:
    rng = random.Random(seed)
    assert damage_shares(node, kept, rng) >= 20
    client = node.start()
    check_all(client, kept)
    assert client.metric("molia_stripes_decoded_total") > 0
    assert client.metric("molia_blocks_damaged_total") > 0
    until(lambda: client.metric("molia_blocks_healed_total") > 0, "nothing is healed")
    assert '"stripe_damaged"' in node.log.read_text()
    code, summary = verify(node)
    assert (code, summary["unhealed"]) == (0, 0), summary
    assert client.verify()["damaged"] == 0
    check_all(client, kept)
    assert client.cids() == set(kept.bodies)
    node.stop()
    assert set(assert_no_orphans(node.home)) == set(kept.bodies)
    # the same without a node
    flips = damage_shares(node, kept, rng)
    code, summary = verify(node)
    assert (code, summary["unhealed"]) == (0, 0), summary
    assert isinstance(summary["healed"], int)
    assert summary["healed"] >= flips
    code, summary = verify(node)
    assert (code, summary["damaged"]) == (0, 0), summary
    check_all(node.start(), kept)
    node.stop()


def test_a_blob_whose_row_is_damaged_can_be_deleted_and_put_at_once(node: Node, kept: Kept) -> None:
    """Changes are guarded by the BIND row, so it is written again before they are tried."""
    rng, found = random.Random(5), places(node)
    damaged = [kept.large[0], kept.small[0]]
    for cid in damaged:
        (place,) = rows(found, Space.BIND, Cid.parse(cid).digest)
        place.flip_any(rng)
    client = node.start()
    for cid in damaged:
        client.delete(cid)
        assert client("GET", f"/blob/{cid}").status == 404
        assert client.put(kept.bodies[cid]) == cid
    check_all(client, kept)
    node.stop()
    assert set(assert_no_orphans(node.home)) == set(kept.bodies)


def test_more_than_four_shares_are_an_error_and_never_wrong_bytes(node: Node, kept: Kept) -> None:
    rng, found = random.Random(3), places(node)
    whole, first = kept.large[0], kept.large[1]
    for cid, stripe in ((first, 0), (whole, 2)):
        blocks = [(Kind.BLOCK, keys.block_key(kept.object_id(cid), n, stripe)) for n in range(14)]
        for name in rng.sample([name for name in blocks if name in found], 5):
            found[name].flip_value(rng)
    small = kept.small[1]
    key = keys.block_key(kept.object_id(small), keys.WHOLE_SHARE, 0)
    found[Kind.BLOCK, key].flip_value(rng)
    client = node.start()
    answer = client("GET", f"/blob/{first}")
    assert (answer.status, answer.code) == (502, "too-few-shares")
    answer = client("GET", f"/blob/{whole}")
    assert (answer.status, answer.whole) == (200, False)
    assert kept.bodies[whole].startswith(answer.body)
    sound = client("GET", f"/blob/{whole}", Range="bytes=1000-2000000")
    assert (sound.status, sound.body) == (206, kept.bodies[whole][1000:2000001])
    answer = client("GET", f"/blob/{small}")
    assert (answer.status, answer.code) == (502, "blob-damaged")
    assert node.molia("get", first).returncode == 6
    assert node.molia("cat", small).returncode == 6
    code, summary = verify(node)
    assert (code, summary["unhealed"]) == (6, 11), summary
    assert client("GET", f"/blob/{first}/health").json()["state"] == "lost"
    # whoever still has the file mends it by putting it again
    for cid in (first, whole, small):
        assert client.put(kept.bodies[cid]) == cid
        assert client.get(cid) == kept.bodies[cid]
        assert client("GET", f"/blob/{cid}/health").json()["state"] == "healthy"
    code, summary = verify(node)
    assert (code, summary["damaged"]) == (0, 0), summary
    check_all(client, kept)
    node.stop()
    assert set(assert_no_orphans(node.home)) == set(kept.bodies)


def any_place(node: Node, rng: random.Random) -> tuple[Path, int]:
    """Return a segment and a place in it."""
    path = rng.choice(node.segments())
    return path, rng.randrange(path.stat().st_size)


def bearable(struck: dict[tuple[bytes, int], set[int]], found: Places, path: Path, at: int) -> bool:
    """Note a hit, unless it would be the fifth share of a stripe: nobody could heal that.

    Where blocks lie in a log depends on the timing of the puts, so a seed alone does not see to it.
    """
    for (kind, key), place in found.items():
        inside = place.path == path and place.offset <= at < place.offset + place.size
        if not inside or kind is not Kind.BLOCK:
            continue
        object_id, share, stripe = keys.split_block_key(key)
        now = {**struck, (object_id, stripe): struck[object_id, stripe] | {share}}
        lists = now.get((object_id, keys.LEAVES_STRIPE), set())
        if any(len(now[name] | lists) > 4 for name in now if name[0] == object_id):
            return False
        struck[object_id, stripe].add(share)
    return True


def test_a_fifth_share_of_a_stripe_is_left_alone(tmp_path: Path) -> None:
    log, one = tmp_path / "log", ObjectId(b"o" * 16)
    stripes = [(share, 7) for share in range(5)] + [(4, 8), (9, keys.LEAVES_STRIPE)]
    found = {
        (Kind.BLOCK, keys.block_key(one, share, stripe)): Place(log, 100 * n, 50, 100, n)
        for n, (share, stripe) in enumerate(stripes)
    }
    struck = defaultdict[tuple[bytes, int], set[int]](set)
    fits = [bearable(struck, found, log, 100 * n + 60) for n in range(len(stripes))]
    assert fits == [True] * 4 + [False, True, False], "a lost leaf list is a lost share"
    assert bearable(struck, found, log, 5_000)


@pytest.mark.parametrize("seed", [10, 11])
def test_flips_anywhere_in_the_logs_are_found_and_never_served(
    node: Node, kept: Kept, seed: int
) -> None:
    rng, hit = random.Random(seed), set()
    found, struck = places(node), defaultdict[tuple[bytes, int], set[int]](set)
    for _ in range(8):
        path, at = any_place(node, rng)
        while not bearable(struck, found, path, at):
            path, at = any_place(node, rng)
        flip(path, at, rng)
        hit.add(path)
    assert any(struck.values()), "most of a log are blocks"
    client = node.start()
    for cid, body in kept.bodies.items():
        answer = client("GET", f"/blob/{cid}")
        assert (answer.status, answer.body) == (200, body) or answer.status == 502, answer.status
    code, summary = verify(node)
    assert isinstance(summary["log_damaged"], int)
    assert summary["log_damaged"] >= len(hit)
    if code == 6:  # a blob with one copy was hit
        for cid in kept.small:
            client.put(kept.bodies[cid])
        code, summary = verify(node)
    assert (code, summary["unhealed"]) == (0, 0), summary
    check_all(client, kept)
    assert client.verify()["damaged"] == 0
    node.stop()
    assert set(assert_no_orphans(node.home)) == set(kept.bodies)


@pytest.mark.parametrize("offline", [False, True])
def test_flips_in_the_index_are_mended_from_the_logs(node: Node, kept: Kept, offline: bool) -> None:
    rng = random.Random(20 + offline)
    flips = 0
    for path in sorted((node.home / "data").glob("shard-*/index-*/data.mdb")):
        index = path.read_bytes()
        named = [key for _, key in places(node) if key in index]
        for key in rng.sample(named, 4):  # its entry follows the key: where the value lies
            flip(path, index.index(key) + len(key) + rng.randrange(12), rng)
            flips += 1
    if offline:
        code, summary = verify(node, "--rebuild-index")
        assert (code, summary["damaged"]) == (0, 0), summary
        client = node.start()
    else:
        client = node.start()
        for cid, body in kept.bodies.items():
            answer = client("GET", f"/blob/{cid}")
            right = (answer.status, answer.body) == (200, body)
            assert right or answer.status in (404, 502), answer.status
        code, summary = verify(node)
        assert (code, summary["unhealed"]) == (0, 0), summary
    assert client.verify()["damaged"] == 0
    check_all(client, kept)
    assert client.cids() == set(kept.bodies)
    node.stop()
    assert set(assert_no_orphans(node.home)) == set(kept.bodies)


def test_an_index_that_is_lost_or_no_index_is_made_anew_at_the_start(
    node: Node, kept: Kept
) -> None:
    first, second = sorted((node.home / "data").glob("shard-*/index-*/data.mdb"))
    first.write_bytes(random.Random(1).randbytes(20_000))
    second.unlink()
    client = node.start()
    check_all(client, kept)
    assert client.verify()["damaged"] == 0
    node.stop()
    assert set(assert_no_orphans(node.home)) == set(kept.bodies)
