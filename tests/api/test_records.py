"""The record routes: names, versions, what is refused, and how a stranger's bytes are served."""

import base64
from email.utils import parsedate_to_datetime

import pytest

from molia.base import limits
from molia.base.errors import LookupTimedOut, NotJoined, RecordStale
from tests.api.asgi import Client
from tests.api.fake_network import EXPIRES, OTHER, OWN, SIGNED

pytestmark = pytest.mark.anyio


@pytest.fixture
def client() -> Client:
    return Client(unix=True)


async def test_a_put_signs_publishes_and_says_where(client: Client) -> None:
    first = await client("PUT", "/record/news", body=b"one")
    assert first.json() == {"address": f"{OWN}/news", "seq": 1, "expires": EXPIRES, "acks": 20}
    assert (first.status, first.headers["etag"]) == (201, '"1"')
    assert first.headers["location"] == f"/record/{OWN}/news"
    second = await client("PUT", "/record/news", body=b"two")
    assert (second.status, second.headers["etag"]) == (200, '"2"')


async def test_a_value_comes_back_by_address_and_by_bare_name(client: Client) -> None:
    await client("PUT", "/record/news", body=b"\x00<script>")
    for target in ("/record/news", f"/record/{OWN}/news", f"/record/{OWN}%2Fnews"):
        answer = await client("GET", target)
        assert (answer.status, answer.body) == (200, b"\x00<script>")
        assert answer.headers["content-location"] == f"/record/{OWN}/news"
    head = await client("HEAD", "/record/news")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "9")


async def test_a_strangers_bytes_are_never_run_nor_cached_as_fresh(client: Client) -> None:
    client.node.keep_record(f"{OTHER}/page", b"<html>", 7)
    headers = (await client("GET", f"/record/{OTHER}/page")).headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "sandbox"
    assert headers["content-disposition"].startswith("attachment")
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-cache"
    assert headers["etag"] == '"7"'
    assert parsedate_to_datetime(headers["expires"]).timestamp() == EXPIRES


async def test_json_carries_the_value_in_base64(client: Client) -> None:
    await client("PUT", "/record/news", body=b"\xff\x00")
    answer = await client("GET", "/record/news", headers={"accept": "application/json"})
    assert answer.json() == {
        "address": f"{OWN}/news",
        "seq": 1,
        "expires": EXPIRES,
        "size": 2,
        "value": base64.b64encode(b"\xff\x00").decode(),
    }
    listed = (await client("GET", "/record")).json()["records"]
    assert [(record["address"], record["value"]) for record in listed] == [(f"{OWN}/news", None)]
    text = await client("GET", "/record", headers={"accept": "text/plain"})
    assert text.body.decode() == f"{OWN}/news\n"


async def test_a_client_that_has_the_version_gets_304(client: Client) -> None:
    await client("PUT", "/record/news", body=b"one")
    same = await client("GET", "/record/news", headers={"if-none-match": '"1"'})
    assert (same.status, same.body) == (304, b"")
    other = await client("GET", "/record/news", headers={"if-none-match": '"2"'})
    assert other.status == 200


async def test_a_quorum_is_asked_only_when_it_is_wanted(client: Client) -> None:
    await client("PUT", "/record/news", body=b"one")
    for query in ("", "?consistent=true", "?consistent=false"):
        assert (await client("GET", f"/record/news{query}")).status == 200
    assert client.node.quorums_asked == [False, True, False]


async def test_if_match_binds_a_put_to_a_version(client: Client) -> None:
    async def put(**headers: str) -> tuple[int, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await client("PUT", "/record/news", headers=named, body=b"x")
        return answer.status, "" if answer.status < 400 else answer.code

    assert await put(if_match='"1"') == (412, "precondition-failed")
    assert await put(if_none_match="*") == (201, "")
    assert await put(if_none_match="*") == (412, "precondition-failed")
    assert await put(if_match='"1"') == (200, "")
    assert await put(if_match='"1"') == (412, "precondition-failed")
    assert client.node.seqs_asked == [1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    "headers",
    [
        {"if-match": "1"},
        {"if-match": "*"},
        {"if-match": 'W/"1"'},
        {"if-match": '"1", "2"'},
        {"if-match": '"-1"'},
        {"if-match": '"1.5"'},
        {"if-match": '"' + "9" * 400 + '"'},
        {"if-match": '"18446744073709551616"'},
        {"if-match": '"\xb2"'},
        {"if-none-match": '"1"'},
        {"if-match": '"1"', "if-none-match": "*"},
    ],
)
async def test_an_odd_condition_is_refused_and_puts_nothing(
    client: Client, headers: dict[str, str]
) -> None:
    answer = await client("PUT", "/record/news", headers=headers, body=b"x")
    assert (answer.status, answer.code) == (400, "bad-request")
    assert client.node.seqs_asked == []


@pytest.mark.parametrize(
    "path",
    [
        "",
        "%00",
        "a%09b",
        "n" * 65,
        "%C3%BC" * 33,
        "%ff",
        "%ED%A0%80",
        "molia/addr",
        str(OWN),
        f"{OWN}/news",
        str(OWN)[:-1] + "b",
    ],
)
async def test_a_name_that_cannot_be_signed_is_a_400(client: Client, path: str) -> None:
    answer = await client("PUT", f"/record/{path}", body=b"x")
    assert answer.status == 400
    assert answer.code in ("bad-record-address", "bad-request")
    assert client.node.seqs_asked == []


@pytest.mark.parametrize("path", ["", "%00", "n" * 65, "%ff", str(OWN)[:-1] + "b/x", f"{OWN}/"])
async def test_an_address_that_names_nothing_is_a_400(client: Client, path: str) -> None:
    assert (await client("GET", f"/record/{path}")).status == 400


async def test_names_may_hold_slashes_and_letters_of_any_script(client: Client) -> None:
    for name in ("a/b/c", "gr%C3%BC%C3%9Fe", "a%20b%3F%25", "..%2Fx"):
        put = await client("PUT", f"/record/{name}", body=name.encode())
        assert put.status == 201
        read = await client("GET", put.headers["location"])
        assert read.body == name.encode()
        assert read.headers["content-location"] == put.headers["location"]


async def test_a_value_over_the_limit_is_413_and_not_read_when_its_length_is_known(
    client: Client,
) -> None:
    fits = await client("PUT", "/record/n", body=bytes(limits.RECORD_VALUE_MAX))
    assert fits.status == 201
    client.pulled = 0
    known = await client("PUT", "/record/n", body=bytes(limits.RECORD_VALUE_MAX + 1))
    assert (known.status, known.code, client.pulled) == (413, "record-too-large", 0)
    chunked = await client("PUT", "/record/n", body=[bytes(600), bytes(600)])
    assert (chunked.status, chunked.code) == (413, "record-too-large")
    huge = await client("PUT", "/record", body=bytes(limits.SIGNED_RECORD_MAX + 1))
    assert (huge.status, huge.code) == (413, "record-too-large")


async def test_a_client_that_leaves_before_the_end_publishes_nothing(client: Client) -> None:
    answer = await client("PUT", "/record/n", body=[b"ha", b"lf"], leaves=True)
    assert (answer.status, answer.code) == (400, "upload-cut-off")
    assert client.node.records == {}


async def test_a_record_signed_elsewhere_is_published_as_it_is(client: Client) -> None:
    typed = {"content-type": "application/vnd.molia.record"}
    answer = await client("PUT", "/record", headers=typed, body=SIGNED + b"5 value")
    assert (answer.status, answer.json()["seq"], answer.json()["acks"]) == (201, 5, 20)
    stale = await client("PUT", "/record", headers=typed, body=SIGNED + b"4 value")
    assert (stale.status, stale.code) == (409, "record-stale")
    for body in (b"", b"\x00", b"forged:5 value"):
        bad = await client("PUT", "/record", headers=typed, body=body)
        assert (bad.status, bad.code) == (400, "bad-record")


async def test_what_the_network_cannot_do_has_its_own_code(client: Client) -> None:
    assert (await client("GET", "/record/none")).code == "record-not-found"
    for error, status, code in (
        (NotJoined(), 503, "not-joined"),
        (LookupTimedOut("too few answered"), 504, "lookup-timed-out"),
        (RecordStale(9), 409, "record-stale"),
    ):
        client.node.network_error = error
        for method, target in (("PUT", "/record/n"), ("GET", "/record/n"), ("PUT", "/record")):
            answer = await client(method, target, body=b"x")
            assert (answer.status, answer.code) == (status, code)


async def test_signing_needs_the_token_and_reading_does_not() -> None:
    client = Client()
    client.node.keep_record(f"{OWN}/n", b"x", 1)
    for target in ("/record/n", "/record"):
        client.pulled = 0
        refused = await client("PUT", target, body=b"x")
        assert (refused.status, refused.code, client.pulled > 1) == (401, "unauthorized", False)
        assert (await client("GET", target)).status == 200
