"""Putting: what is stored under which name, and what is refused before or after the body."""

import base64
import hashlib
import time

import pytest
from blake3 import blake3

from molia.base import limits
from molia.base.cid import Cid
from molia.base.config import ApiConfig
from molia.base.errors import BlobNotFound, Busy, NoSpace, ShardUnavailable
from molia.base.views import BlobState
from tests.api.asgi import Answer, Client
from tests.api.fake_node import FakeNode

pytestmark = pytest.mark.anyio

BOUNDARY = "----molia7MA4YWxk"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def part(name: str, value: bytes, *, filename: str | None = None) -> bytes:
    shown = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{shown}\r\n\r\n'
    return head.encode() + value + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def raw_cid(data: bytes) -> str:
    return "bafkr4i" + str(Cid.from_bytes(b"\x01\x55\x1e\x20" + blake3(data).digest()))[7:]


async def put(client: Client, data: bytes, target: str = "/blob", **more: object) -> Answer:
    return await client("PUT", target, body=data, **more)  # type: ignore[arg-type]


async def test_a_put_answers_with_the_cid_of_the_bytes() -> None:
    client = Client()
    answer = await put(client, b"hello")
    assert (answer.status, answer.body.decode()) == (201, raw_cid(b"hello") + "\n")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["location"] == "/blob/" + raw_cid(b"hello")
    assert answer.headers["etag"] == f'"{raw_cid(b"hello")}"'
    assert answer.headers["x-molia-survives"] == "0"
    again = await client("POST", "/blob", body=[b"he", b"", b"llo"])
    assert (again.status, again.body) == (200, answer.body)


async def test_accept_json_gives_the_whole_result() -> None:
    answer = await put(Client(), b"hello", headers={"accept": "application/json"})
    assert answer.json() == {
        "cid": raw_cid(b"hello"),
        "size": 5,
        "content": blake3(b"hello").hexdigest(),
        "k": 1,
        "n": 1,
        "holders": 1,
        "survives": 0,
        "state": BlobState.HEALTHY,
    }


async def test_all_ways_of_sending_give_the_same_cid() -> None:
    data = bytes(range(256)) * 500
    client = Client()
    form = part("file", data, filename="f.bin") + END
    cut = [form[i : i + 97] for i in range(0, len(form), 97)]
    urlencoded = {"content-type": "application/x-www-form-urlencoded"}
    answers = [
        await put(client, data),
        await put(client, data, "/blob/"),
        await put(client, data, "/blob/some-name"),
        await put(client, data, headers=urlencoded),
        await client("POST", "/blob", body=[data[:1000], data[1000:]]),
        await client("POST", "/blob", headers=FORM, body=form),
        await client("POST", "/blob", headers=FORM, body=cut),
    ]
    assert {answer.body for answer in answers} == {f"{raw_cid(data)}\n".encode()}
    assert [answer.status for answer in answers] == [201] + [200] * 6


async def test_options_reach_the_node() -> None:
    client = Client()
    later = int(time.time()) + 1000
    query = f"name=a%20b%C3%BC+c&pin=false&wait=local&expires={later}&other=1"
    await put(client, b"1", f"/blob?{query}")
    await put(client, b"2", "/blob/p%C3%A4th.txt")
    await put(client, b"3", "/blob/path.txt?name=query.txt")
    form = (
        part("name", b"field.txt")
        + part("pin", b"false")
        + part("csrf", b"x")
        + part("file", b"4", filename="part.txt")
        + part("name", b"field.txt")
        + END
    )
    await client("POST", "/blob", headers=FORM, body=form)
    form = part("file", b"5", filename="dir/part.txt") + part("name", b"part.txt") + END
    await client("POST", "/blob", headers=FORM, body=form)
    options = client.node.puts
    names = [option.name for option in options]
    assert names == ["a bü c", "päth.txt", "query.txt", "field.txt", "part.txt"]
    assert (options[0].pin, options[0].expires_unix_s, options[0].size) == (False, later, 1)
    assert (options[1].pin, options[3].pin, options[4].pin) == (True, False, True)
    assert options[3].size is None, "the form is longer than the file in it"


@pytest.mark.parametrize("assertion", [raw_cid(b"x"), blake3(b"x").hexdigest()])
async def test_a_segment_that_is_a_cid_asserts_the_body(assertion: str) -> None:
    client = Client()
    wrong = await put(client, b"other", f"/blob/{assertion}")
    assert (wrong.status, wrong.code) == (422, "digest-mismatch")
    assert not client.node.kept
    right = await put(client, b"x", f"/blob/{assertion}")
    assert right.status == 201
    assert client.node.puts[0].name == ""


async def test_a_mistyped_assertion_is_no_file_name() -> None:
    client = Client()
    for text in (raw_cid(b"x")[:-1] + "1", raw_cid(b"x")[:-1] + "c", "bafybei" + "a" * 52):
        answer = await put(client, b"x", f"/blob/{text}")
        assert answer.status in (400, 201)
    assert all(len(option.name) != 59 or "1" in option.name for option in client.node.puts)


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/blob?wait=never", {}),
        ("/blob?pin=maybe", {}),
        ("/blob?pin=true&pin=true", {}),
        ("/blob?expires=12", {}),
        ("/blob?expires=-1", {}),
        ("/blob?expires=" + "9" * 5000, {}),
        ("/blob?expires=1e9", {}),
        ("/blob?name=%ff", {}),
        ("/blob?name=a%00b", {}),
        ("/blob?name=" + "n" * 1025, {}),
        ("/blob?" + "&".join(["a=1"] * 100), {}),
        ("/blob/%ff%fe", {}),
        ("/blob/%ed%a0%80", {}),
        ("/blob/a%0ab", {}),
        ("/blob/bafybei" + "a" * 52, {}),
        ("/blob", {"content-digest": "sha-256=abc"}),
        ("/blob", {"content-digest": "sha-256=:AAAA:"}),
        ("/blob", {"content-digest": "sha-256=:====:"}),
        ("/blob", {"content-digest": ","}),
        ("/blob", {"content-digest": ", ".join(["a=:AA==:"] * 40)}),
        ("/blob", {"content-type": "multipart/form-data"}),
        ("/blob", {"content-type": "multipart/form-data; boundary="}),
        ("/blob", {"content-type": "multipart/form-data; boundary=" + "b" * 300}),
        ("/blob", {"content-type": 'multipart/form-data; boundary="\xff'}),
        ("/blob", {"content-type": "multipart/form-data; boundary=x"}),
    ],
)
async def test_what_is_wrong_is_a_400_and_stores_nothing(
    target: str, headers: dict[str, str]
) -> None:
    client = Client()
    answer = await put(client, b"data", target, headers=headers)
    assert (answer.status, answer.code) in [(400, "bad-request"), (400, "bad-cid")]
    assert not client.node.kept


@pytest.mark.parametrize(
    "form",
    [
        b"",
        END,
        b"no form at all, but long enough to be looked at",
        part("name", b"x") + END,
        part("file", b"abc", filename="f"),
        part("file", b"abc", filename="f") + part("file", b"def", filename="g") + END,
        part("file", b"abc") + part("file", b"def") + END,
        part("upload", b"abc", filename="f") + END,
        part("file", b"abc", filename="f") + part("name", b"late") + END,
        part("file", b"abc", filename="f") + part("pin", b"false") + END,
        part("pin", b"true") + part("pin", b"true") + part("file", b"abc") + END,
        part("name", b"\xff") + part("file", b"abc") + END,
        part("name", b"n" * (limits.FIELD_SIZE_MAX + 1)) + part("file", b"abc") + END,
        part("x", b"y") * (limits.PARTS_MAX + 1) + part("file", b"abc") + END,
        f"--{BOUNDARY}\r\n\r\nabc\r\n".encode() + END,
        f"--{BOUNDARY}\r\nContent-Disposition: attachment\r\n\r\nabc\r\n".encode() + END,
        f"--{BOUNDARY}\r\n{'X: y' * 5000}\r\n\r\nabc\r\n".encode() + END,
        f"--{BOUNDARY}\r\n".encode() + b"X: y\r\n" * 100 + b"\r\nabc\r\n" + END,
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n'.encode(
            "latin-1"
        )
        + END,
    ],
)
async def test_a_bad_form_is_a_400_and_stores_nothing(form: bytes) -> None:
    client = Client()
    for body in (form, [form[i : i + 4096] for i in range(0, len(form), 4096)]):
        answer = await client("POST", "/blob", headers=FORM, body=body)
        assert (answer.status, answer.code) == (400, "bad-request")
    assert not client.node.kept


async def test_what_follows_a_form_is_thrown_away_within_a_bound() -> None:
    client = Client()
    form = part("file", b"abc", filename="f") + END
    tail = [b"e" * 4096] * 16
    assert (await client("POST", "/blob", headers=FORM, body=[form, *tail])).status == 201
    more = await client("POST", "/blob", headers=FORM, body=[form, *tail, b"e"])
    assert more.code == "bad-request"


async def test_the_query_and_the_form_may_not_disagree() -> None:
    form = part("name", b"a") + part("file", b"x") + END
    answer = await Client()("POST", "/blob?name=b", headers=FORM, body=form)
    assert answer.status == 400


def content_digest(data: bytes) -> str:
    members = []
    for name in ("sha256", "sha512"):
        text = base64.b64encode(hashlib.new(name, data).digest()).decode()
        members.append(f"{name[:3]}-{name[3:]}=:{text}:")
    return ", ".join([*members, "md5=:AAAA:"])


async def test_content_digest_is_verified() -> None:
    client = Client()
    headers = {"content-digest": content_digest(b"data")}
    for wrong in (b"Data", b"", [b"da", b"tA"]):
        answer = await client("PUT", "/blob", headers=headers, body=wrong)
        assert (answer.status, answer.code) == (422, "digest-mismatch")
    assert not client.node.kept
    assert (await put(client, b"data", headers=headers)).status == 201
    assert (await client("PUT", "/blob", headers=headers, body=[b"da", b"ta"])).status == 200
    form = part("file", b"in a form") + END
    right = FORM | {"content-digest": content_digest(form)}
    assert (await client("POST", "/blob", headers=right, body=form)).status == 201
    unknown = {"content-digest": "unixsum=:AAA=:"}
    assert (await put(client, b"u", headers=unknown)).status == 201


@pytest.mark.parametrize(
    ("error", "status"),
    [(NoSpace("full"), 507), (ShardUnavailable("shard 0"), 503), (Busy("many"), 503)],
)
async def test_no_byte_is_read_when_the_node_refuses(error: Exception, status: int) -> None:
    node = FakeNode()
    node.admit_error = error
    client = Client(node)
    answer = await put(client, b"data" * 100)
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert (client.node.chunks_taken, client.node.kept) == (0, {})
    assert ("retry-after" in answer.headers) == isinstance(error, Busy)


async def test_a_body_over_the_limit_is_refused_early_when_its_size_is_known() -> None:
    client = Client(config=ApiConfig(max_blob_bytes=10))
    assert (await put(client, b"x" * 11)).code == "body-too-large"
    assert client.node.chunks_taken == 0
    assert (await client("PUT", "/blob", body=[b"x" * 6, b"x" * 5])).status == 413
    form = part("file", b"x" * 11) + END
    assert (await client("POST", "/blob", headers=FORM, body=form)).status == 413
    assert not client.node.kept
    assert (await put(client, b"x" * 10)).status == 201
    form = part("file", b"y" * 10) + END
    assert (await client("POST", "/blob", headers=FORM, body=form)).status == 201


async def test_a_client_that_leaves_leaves_nothing() -> None:
    client = Client()
    answer = await client("PUT", "/blob", body=[b"half"], leaves=True)
    assert answer.code == "upload-cut-off"
    form = part("file", b"half")
    answer = await client("POST", "/blob", headers=FORM, body=form, leaves=True)
    assert answer.code == "upload-cut-off"
    assert (client.node.kept, client.node.puts_failed) == ({}, 2)


async def test_a_stalled_upload_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from molia.api.bodies import Body
    from molia.base.errors import UploadStalled

    monkeypatch.setattr(limits, "UPLOAD_IDLE_S", 0.01)

    async def receive() -> dict[str, object]:
        await asyncio.sleep(3600)
        raise AssertionError

    body = Body(receive, size_max=10)
    with pytest.raises(UploadStalled):
        await body.read()


async def test_a_failure_after_the_body_is_a_problem() -> None:
    node = FakeNode()
    node.put_error = BlobNotFound("x")
    answer = await put(Client(node), b"data")
    assert answer.code == "blob-not-found"
    assert "connection" not in answer.headers


async def test_an_empty_body_is_a_blob() -> None:
    client = Client()
    assert (await put(client, b"")).body.decode().strip() == raw_cid(b"")
    answer = await client("POST", "/blob", headers=FORM, body=part("file", b"") + END)
    assert answer.status == 200
