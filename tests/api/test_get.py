"""Getting: bytes, ranges, conditions, headers, and how a damaged blob fails."""

import re

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from molia.api.negotiation import content_disposition, preferred
from molia.base import limits
from molia.base.config import ApiConfig
from molia.base.errors import BlobDamaged
from tests.api.asgi import Client
from tests.api.fake_node import CHUNK, FakeNode

pytestmark = pytest.mark.anyio

DATA = bytes(range(251)) * 8000
SIZE = len(DATA)
ABSENT = "bafkr4i" + "a" * 52


async def kept(client: Client, data: bytes = DATA, target: str = "/blob") -> str:
    answer = await client("PUT", target, body=data)
    return answer.body.decode().strip()


async def test_a_blob_comes_back_with_the_headers_that_make_it_safe() -> None:
    client = Client()
    cid = await kept(client, target="/blob/h%C3%BC.html")
    for name in (cid, blake3(DATA).hexdigest(), f"molia:{cid}"):
        answer = await client("GET", f"/blob/{name}")
        assert (answer.status, answer.body, answer.complete) == (200, DATA, True)
        assert answer.headers["content-length"] == str(SIZE)
        assert answer.headers["etag"] == f'"{cid}"'
    answer = await client("GET", f"/blob/{cid}")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["accept-ranges"] == "bytes"
    shown = "attachment; filename=\"h_.html\"; filename*=UTF-8''h%C3%BC.html"
    assert answer.headers["content-disposition"] == shown


async def test_head_says_what_get_would_without_reading() -> None:
    client = Client()
    cid = await kept(client)
    get = await client("GET", f"/blob/{cid}")
    client.node.chunks_read = 0
    head = await client("HEAD", f"/blob/{cid}", headers={"range": "bytes=0-1"})
    assert (head.status, head.body, head.headers) == (200, b"", get.headers)
    assert client.node.chunks_read == 0


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=5-", 5, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        ("bytes=-99999999999", 0, SIZE),
        (f"bytes={CHUNK - 1}-{CHUNK}", CHUNK - 1, CHUNK + 1),
        (f"bytes={SIZE - 1}-{SIZE + 5}", SIZE - 1, SIZE),
    ],
)
async def test_a_range_gives_just_that(header: str, start: int, stop: int) -> None:
    client = Client()
    cid = await kept(client)
    answer = await client("GET", f"/blob/{cid}", headers={"range": header})
    assert (answer.status, answer.body) == (206, DATA[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize(
    "header",
    ["bytes=0-1,5-6", "lines=1-2", "bytes=9-5", "bytes=", "bytes=-", "bytes=a-b", "x" * 5000],
)
async def test_what_is_no_single_range_is_ignored(header: str) -> None:
    client = Client()
    cid = await kept(client)
    answer = await client("GET", f"/blob/{cid}", headers={"range": header})
    assert (answer.status, answer.body) == (200, DATA)
    twice = [("range", "bytes=0-1"), ("range", "bytes=4-5")]
    assert (await client("GET", f"/blob/{cid}", headers=twice)).status == 200


@pytest.mark.parametrize("header", [f"bytes={SIZE}-", "bytes=-0", f"bytes={'9' * 20}-"])
async def test_a_range_outside_is_416_and_names_the_size(header: str) -> None:
    client = Client()
    cid = await kept(client)
    answer = await client("GET", f"/blob/{cid}", headers={"range": header})
    assert (answer.status, answer.code) == (416, "range-not-satisfiable")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


async def test_if_range_with_another_tag_gives_the_whole() -> None:
    client = Client()
    cid = await kept(client)
    statuses = {}
    for tag in (f'"{cid}"', f'W/"{cid}"', '"other"', "Sat, 29 Oct 1994 19:43:31 GMT"):
        headers = {"range": "bytes=0-1", "if-range": tag}
        statuses[tag] = (await client("GET", f"/blob/{cid}", headers=headers)).status
    assert list(statuses.values()) == [206, 200, 200, 200]


async def test_conditions() -> None:
    client = Client()
    cid = await kept(client)
    for match in (f'"{cid}"', "*", f'"x", W/"{cid}"'):
        answer = await client("GET", f"/blob/{cid}", headers={"if-none-match": match})
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["etag"] == f'"{cid}"'
        head = await client("HEAD", f"/blob/{cid}", headers={"if-none-match": match})
        assert head.status == 304
    assert (await client("GET", f"/blob/{cid}", headers={"if-none-match": '"x"'})).status == 200
    assert (await client("GET", f"/blob/{cid}", headers={"if-match": f'"{cid}"'})).status == 200
    failed = await client("GET", f"/blob/{cid}", headers={"if-match": '"x"'})
    assert failed.code == "precondition-failed"


async def test_what_is_not_here() -> None:
    client = Client()
    assert (await client("GET", f"/blob/{ABSENT}")).code == "blob-not-found"
    assert (await client("HEAD", f"/blob/{ABSENT}")).status == 404
    local = {"cache-control": "max-age=0, only-if-cached"}
    answer = await client("GET", f"/blob/{ABSENT}", headers=local)
    assert (answer.status, answer.code) == (412, "not-cached")
    cid = await kept(client)
    assert (await client("GET", f"/blob/{cid}", headers=local)).status == 200


async def test_damage_before_the_first_byte_is_a_problem() -> None:
    client = Client()
    cid = await kept(client)
    client.node.read_fails_at = 0
    answer = await client("GET", f"/blob/{cid}")
    assert (answer.status, answer.code) == (502, "too-few-shares")
    assert (await client("HEAD", f"/blob/{cid}")).status == 200


async def test_damage_after_the_first_byte_breaks_off() -> None:
    client = Client()
    cid = await kept(client)
    client.node.read_fails_at = 3 * CHUNK
    answer = await client("GET", f"/blob/{cid}")
    assert (answer.status, answer.complete) == (200, False)
    assert answer.body == DATA[: 3 * CHUNK]
    assert answer.headers["content-length"] == str(SIZE)


async def test_a_blob_that_cannot_be_opened_is_a_problem() -> None:
    class Damaged(FakeNode):
        async def open_blob(self, ref: object, **_: object) -> object:  # type: ignore[override]
            raise BlobDamaged("the manifest is gone")

    answer = await Client(Damaged())("GET", f"/blob/{ABSENT}")
    assert (answer.status, answer.code) == (502, "blob-damaged")


async def test_an_empty_blob_has_no_range() -> None:
    client = Client()
    cid = await kept(client, b"")
    answer = await client("GET", f"/blob/{cid}")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    answer = await client("GET", f"/blob/{cid}", headers={"range": "bytes=0-"})
    assert answer.status == 416


async def test_behind_a_token_shared_caches_keep_nothing() -> None:
    client = Client(config=ApiConfig(auth="required"), unix=True)
    cid = await kept(client)
    assert (await client("GET", f"/blob/{cid}")).headers["cache-control"].startswith("private")


HEADER = re.compile(r'^attachment; filename="([ !#-\[\]-~]*)"(; filename\*=UTF-8\'\'[!-~]+)?$')


@given(name=st.text(max_size=limits.NAME_SIZE_MAX))
def test_content_disposition_is_one_clean_header_of_the_last_component(name: str) -> None:
    value = content_disposition(name.encode("utf-8", "replace").decode(), "bafk")
    match = HEADER.match(value)
    assert match is not None, value
    assert "/" not in match.group(1)
    assert match.group(1) not in ("", ".", "..")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("application/json", "application/json"),
        ("application/*", "application/json"),
        ("text/plain;q=0.5, application/json", "application/json"),
        ("application/json;q=0.5, text/*;q=0.6", "text/plain"),
        ("application/json;q=0, */*;q=0.1", "text/plain"),
        ("image/png", "text/plain"),
        ("APPLICATION/JSON", "application/json"),
        ("application/json;q=high", "application/json"),
        (";;;,,,", "text/plain"),
    ],
)
def test_the_preferred_media_type(accept: str, chosen: str) -> None:
    assert preferred(accept, "text/plain", "application/json") == chosen
