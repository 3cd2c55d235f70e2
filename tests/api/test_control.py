"""The control routes: listing, deleting, pins, health, manifest, jobs and their events, status."""

import asyncio
import json

import cbor2
import pytest
from blake3 import blake3

from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import OUTCOMES
from molia.base.views import JobState
from tests.api.asgi import Answer, Client

pytestmark = pytest.mark.anyio
ABSENT = "bafkr4i" + "a" * 52


@pytest.fixture
def client() -> Client:
    return Client(unix=True)


async def put(client: Client, data: bytes, query: str = "") -> str:
    return (await client("PUT", f"/blob{query}", body=data)).body.decode().strip()


async def test_the_listing_is_newest_first_and_pages(client: Client) -> None:
    cids = [await put(client, b"%d" % number) for number in range(5)][::-1]
    whole = (await client("GET", "/blob")).json()
    assert [blob["cid"] for blob in whole["blobs"]] == cids
    assert whole["next"] is None
    assert whole["blobs"][0]["content"] == blake3(b"4").hexdigest()
    first = await client("GET", "/blob?limit=2")
    assert first.headers["link"] == '</blob?cursor=2&limit=2>; rel="next"'
    target, pages = "/blob?limit=2", []
    while target:
        page = (await client("GET", target)).json()
        pages += [blob["cid"] for blob in page["blobs"]]
        target = f"/blob?limit=2&cursor={page['next']}" if page["next"] else ""
    assert pages == cids
    text = await client("GET", "/blob/", headers={"accept": "text/plain"})
    assert text.status in (200, 405)
    text = await client("GET", "/blob", headers={"accept": "text/plain"})
    assert text.body.decode().split() == cids
    assert (await client("GET", "/blob?state=at-risk")).json() == {"blobs": [], "next": None}


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        f"limit={limits.LIST_LIMIT_MAX + 1}",
        "limit=" + "9" * 5000,
        "limit=abc",
        "limit=1.5",
        "limit=",
        "limit=%00",
        "limit=%ff",
        "cursor=" + "c" * 257,
        "cursor=not-ours",
        "cursor=%ff%00",
        "state=fine",
    ],
)
async def test_a_bad_query_is_a_400(client: Client, query: str) -> None:
    answer = await client("GET", f"/blob?{query}")
    assert (answer.status, answer.code) == (400, "bad-request")


async def test_delete_frees_and_is_404_the_second_time(client: Client) -> None:
    cid = await put(client, b"x")
    gone = await client("DELETE", f"/blob/{cid}")
    assert (gone.status, gone.body) == (204, b"")
    assert (await client("DELETE", f"/blob/{cid}")).code == "blob-not-found"
    assert (await client("DELETE", "/blob/what")).code == "bad-cid"


async def test_what_was_removed_is_listed_and_comes_back_once(client: Client) -> None:
    cid = await put(client, b"x")
    assert (await client("GET", "/trash")).json() == {"blobs": []}
    assert (await client("POST", f"/trash/{cid}")).code == "blob-not-found"
    await client("DELETE", f"/blob/{cid}")
    (row,) = (await client("GET", "/trash")).json()["blobs"]
    assert (row["cid"], row["size"]) == (cid, 1)
    assert (await client("POST", f"/trash/{cid}")).json()["cid"] == cid
    assert (await client("GET", f"/blob/{cid}")).body == b"x"
    await client("DELETE", f"/blob/{cid}")
    await put(client, b"x")
    assert (await client("POST", f"/trash/{cid}")).status == 409
    assert (await client("POST", "/trash/what")).code == "bad-cid"


async def test_garbage_is_told_then_removed(client: Client) -> None:
    cid = await put(client, b"xyz")
    await client("DELETE", f"/blob/{cid}")
    for dry_run in (True, False):
        body = json.dumps({"dry_run": dry_run}).encode()
        told = await client("POST", "/gc", headers=JSON, body=body)
        assert (told.json()["trashed"], told.json()["trashed_bytes"]) == (1, 3)
        assert bool((await client("GET", "/trash")).json()["blobs"]) is dry_run
    assert (await client("POST", "/gc", headers=JSON, body=b'{"dry": 1}')).status == 400


async def test_an_operator_may_say_that_the_clock_is_right(client: Client) -> None:
    assert (await client("POST", "/clock/trust")).status == 204
    assert client.node.clock_trusted == 1


async def test_pins(client: Client) -> None:
    cid = await put(client, b"x", "?pin=false")
    assert (await client("GET", f"/pin/{cid}")).json()["pinned"] is False
    for _ in range(2):
        assert (await client("PUT", f"/pin/{cid}")).json()["pinned"] is True
    listed = await client("GET", "/pin", headers={"accept": "text/plain"})
    assert listed.body.decode().split() == [cid]
    assert (await client("DELETE", f"/pin/{cid}")).json()["pinned"] is False
    assert (await client("GET", "/pin")).json()["blobs"] == []
    assert (await client("PUT", f"/pin/{ABSENT}")).status == 404


async def test_a_pin_of_what_others_have_names_the_job_that_fetches_it(client: Client) -> None:
    cid = await put(client, b"somebody else's")
    kept = client.node.kept.pop(Cid.parse(cid))
    client.node.elsewhere[kept.info.cid] = kept.info
    answer = await client("PUT", f"/pin/{cid}")
    assert (answer.status, answer.json()["pinned"]) == (202, True)
    assert answer.headers["x-molia-job"] == "p" * 26
    assert answer.headers["location"] == "/jobs/" + "p" * 26


async def test_health_and_manifest(client: Client) -> None:
    big = await put(client, bytes(limits.RAW_SIZE_STOP))
    health = (await client("GET", f"/blob/{big}/health")).json()
    assert (health["state"], health["spare_shares"], len(health["shares"])) == ("healthy", 4, 14)
    raw = await client("GET", f"/blob/{big}/manifest")
    assert raw.headers["content-type"] == "application/vnd.ipld.dag-cbor"
    assert cbor2.loads(raw.body)["size"] == limits.RAW_SIZE_STOP
    read = await client("GET", f"/blob/{big}/manifest", headers={"accept": "application/json"})
    assert read.json()["size"] == limits.RAW_SIZE_STOP
    small = await put(client, b"x")
    assert (await client("GET", f"/blob/{small}/manifest")).status == 404
    assert (await client("GET", f"/blob/{ABSENT}/health")).status == 404


JSON = {"content-type": "application/json"}


async def start(client: Client, request: object) -> Answer:
    return await client("POST", "/jobs", headers=JSON, body=json.dumps(request).encode())


async def test_jobs_start_list_and_cancel(client: Client) -> None:
    cid = await put(client, b"x")
    started = await start(client, {"kind": "verify", "cids": [cid]})
    job = started.json()
    assert (started.status, started.headers["location"]) == (202, f"/jobs/{job['id']}")
    assert job["arguments"] == {"cids": [cid]}
    assert (await client("GET", f"/jobs/{job['id']}")).json() == job
    assert (await client("GET", "/jobs")).json() == {"jobs": [job]}
    assert (await client("DELETE", f"/jobs/{job['id']}")).json()["state"] == "cancelled"
    assert (await client("DELETE", f"/jobs/{job['id']}")).code == "conflict"
    for method, target in (("GET", "/jobs/x"), ("GET", "/jobs/x/events"), ("DELETE", "/jobs/x")):
        assert (await client(method, target)).code == "job-not-found"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"kind":"format-disk"}',
        b'{"kind":"verify","cids":"all"}',
        b'{"kind":"verify","cids":["x"]}',
        b'{"kind":"verify","cids":["\\ud800"]}',
        b'{"kind":"verify","more":1}',
        b'{"kind":"verify","cids":[' + b"1," * 20_000 + b"1]}",
        b"[" * 100_000,
        b"9" * 100_000,
        b'{"kind":' + b"NaN}",
    ],
)
async def test_a_bad_job_is_a_400(client: Client, body: bytes) -> None:
    answer = await client("POST", "/jobs", headers=JSON, body=body)
    assert (answer.status, answer.code) in [(400, "bad-request"), (400, "bad-cid")]
    assert not client.node.job_views


async def test_a_body_over_the_bound_is_413_and_a_cut_one_is_400(client: Client) -> None:
    huge = b" " * (limits.JSON_BODY_MAX + 1)
    assert (await client("POST", "/jobs", headers=JSON, body=huge)).code == "body-too-large"
    chunked = [huge[:700_000]] * 2
    assert (await client("POST", "/jobs", headers=JSON, body=chunked)).code == "body-too-large"
    left = await client("POST", "/jobs", headers=JSON, body=[b"{"], leaves=True)
    assert left.code == "upload-cut-off"


def frames(answer: Answer) -> list[tuple[str, str]]:
    found = []
    for frame in answer.body.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in frame.split("\n"))
        assert set(json.loads(fields["data"])) == {"n", "unix_ms"}
        found.append((fields["id"], fields["event"]))
    return found


async def test_events_replay_and_end_with_the_job(client: Client) -> None:
    job = (await start(client, {"kind": "verify"})).json()["id"]
    client.node.tell(job, "progress")
    client.node.tell(job, "item")
    client.node.tell(job, "done", state=JobState.DONE)
    answer = await client("GET", f"/jobs/{job}/events")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.complete
    assert frames(answer) == [("1", "progress"), ("2", "item"), ("3", "done")]
    later = {"last-event-id": "2"}
    assert frames(await client("GET", f"/jobs/{job}/events", headers=later)) == [("3", "done")]
    ended = await client("GET", f"/jobs/{job}/events", headers={"last-event-id": "3"})
    assert ended.status == 204
    for wrong in ("x", "-1", "9" * 30):
        answer = await client("GET", f"/jobs/{job}/events", headers={"last-event-id": wrong})
        assert answer.code == "bad-request"
    assert (await client("HEAD", f"/jobs/{job}/events")).body == b""


async def test_an_open_stream_tells_news_beats_and_ends_when_the_node_stops(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVENTS_HEARTBEAT_S", 0.02)
    job = (await start(client, {"kind": "verify"})).json()["id"]
    sent: list[bytes] = []
    beat = asyncio.Event()

    async def receive() -> dict[str, object]:
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: dict[str, object]) -> None:
        body = message.get("body", b"")
        assert isinstance(body, bytes)
        sent.append(body)
        if body.startswith(b":"):
            beat.set()

    scope = client._scope("GET", f"/jobs/{job}/events", [(b"host", b"localhost")])
    stream = asyncio.ensure_future(client.app(scope, receive, send))  # type: ignore[arg-type]
    await beat.wait()
    client.node.tell(job, "progress")
    while not any(b"event: progress" in body for body in sent):
        await asyncio.sleep(0)
    client.app.state.closing.set()
    await asyncio.wait_for(stream, 60)
    assert sent[-1] == b""


async def test_too_many_event_streams_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOB_STREAMS_MAX", 0)
    client = Client(unix=True)
    job = (await start(client, {"kind": "verify"})).json()["id"]
    assert (await client("GET", f"/jobs/{job}/events")).code == "busy"


async def test_status(client: Client) -> None:
    assert (await client("GET", "/healthz")).json() == {"status": "ok"}
    assert (await client("GET", "/readyz")).json() == {"ready": True, "reasons": []}
    client.node.not_ready = ("shard 0 is read-only",)
    answer = await client("GET", "/readyz")
    assert (answer.status, answer.json()["reasons"]) == (503, ["shard 0 is read-only"])
    assert (await client("GET", "/node")).json()["shards"][0]["state"] == "ok"
    metrics = await client("GET", "/metrics")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_head_works_wherever_get_does(client: Client) -> None:
    cid = await put(client, bytes(limits.RAW_SIZE_STOP))
    for target in (
        "/blob",
        f"/blob/{cid}",
        f"/blob/{cid}/health",
        f"/blob/{cid}/manifest",
        "/pin",
        f"/pin/{cid}",
        "/trash",
        "/node",
        "/jobs",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/docs/errors",
    ):
        get, head = await client("GET", target), await client("HEAD", target)
        assert (head.status, head.body) == (200, b""), target
        assert head.headers == get.headers, target


async def test_pages_need_no_other_server(client: Client) -> None:
    page = (await client("GET", "/docs")).body.decode()
    assert "/blob/{cid}/health" in page
    errors = (await client("GET", "/docs/errors")).body.decode()
    for outcome in OUTCOMES.values():
        assert f'id="{outcome.code}"' in errors
    for text in (page, errors):
        assert "http" not in text.replace("HTTP", "")
        assert "<script" not in text


async def test_what_is_no_route_or_no_method_is_a_problem(client: Client) -> None:
    for target in ("/", "/blobs", "/blob/a/b/c", "/docs/", "/%00", "/\u00e9", "/blob//health"):
        assert (await client("GET", target)).code in ("not-found", "bad-cid"), target
    for method in ("PATCH", "OPTIONS", "TRACE", "BREW"):
        answer = await client(method, "/blob")
        assert (answer.status, answer.code) == (405, "method-not-allowed")
        assert answer.headers["allow"] == "GET, HEAD, POST, PUT"
    answer = await client("POST", f"/blob/{ABSENT}")
    assert answer.headers["allow"] == "DELETE, GET, HEAD, PUT"


async def test_a_bug_is_a_problem_too() -> None:
    client = Client()
    client.node.admit_error = ZeroDivisionError("our mistake")
    with pytest.raises(ZeroDivisionError):  # the server logs it with its traceback
        await client("PUT", "/blob", body=b"x")
    assert (client.last.status, client.last.code) == (500, "failed")
    assert b"our mistake" not in client.last.body
