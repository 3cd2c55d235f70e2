"""Whatever a client sends gets an answer below 500, and never a crash."""

from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.asgi import BEARER, Answer, Client

pytestmark = pytest.mark.anyio

METHODS = st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "X"])
CID = "bafkr4i" + "a" * 52
SEGMENTS = st.one_of(
    st.sampled_from(["blob", "jobs", "pin", "events", "health", "manifest", CID, "f" * 64, ""]),
    st.binary(max_size=12).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw)),
    st.text("abc%0123/-._~", max_size=8),
)
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
QUERY_NAMES = ["name", "wait", "pin", "expires", "limit", "cursor", "state", "other"]
VALUES = st.one_of(
    st.sampled_from(["", "1", "-1", "9" * 400, "true", "local", "%00", "%ff", "%ed%a0%80", "nan"]),
    st.text("abc%01=+&;", max_size=10),
)
QUERIES = st.lists(st.tuples(st.sampled_from(QUERY_NAMES), VALUES), max_size=4).map(
    lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)
)
HEADER_NAMES = [
    "accept",
    "authorization",
    "cache-control",
    "content-digest",
    "content-length",
    "content-type",
    "host",
    "if-match",
    "if-none-match",
    "if-range",
    "last-event-id",
    "origin",
    "range",
    "sec-fetch-site",
]
HEADER_VALUES = st.one_of(
    st.sampled_from(
        [
            "",
            "*",
            "bytes=0-",
            "bytes=-1",
            "bytes=" + "9" * 300 + "-",
            "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
            "application/json",
            "application/json;q=0.0.0",
            "multipart/form-data; boundary=x",
            'multipart/form-data; boundary="',
            "text/plain;charset=\xff",
            f'"{CID}"',
            "-5",
            "9" * 25,
        ]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30),
)
HEADERS = st.lists(st.tuples(st.sampled_from(HEADER_NAMES), HEADER_VALUES), max_size=5)
BODIES = st.one_of(
    st.none(),
    st.binary(max_size=200),
    st.lists(st.binary(max_size=50), max_size=4),
    st.lists(
        st.sampled_from(
            [
                b"--x\r\n",
                b"--x--\r\n",
                b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n',
                b'Content-Disposition: form-data; name="name"\r\n\r\n',
                b"\r\n",
                b"data",
                b"--x",
                b"Content-Disposition",
                b":",
            ]
        ),
        max_size=10,
    ),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=METHODS,
    path=PATHS,
    query=QUERIES,
    headers=HEADERS,
    body=BODIES,
    leaves=st.booleans(),
    with_token=st.booleans(),
)
async def test_nothing_that_a_client_sends_is_a_500(
    method: str,
    path: str,
    query: str,
    headers: list[tuple[str, str]],
    body: bytes | list[bytes] | None,
    leaves: bool,
    with_token: bool,
) -> None:
    client = fresh_client()
    pairs = [*headers, *(BEARER.items() if with_token else ())]
    answer = await client(method, f"{path}?{query}", headers=pairs, body=body, leaves=leaves)
    check(answer)
    if answer.status >= 400:
        assert not client.node.kept


FORM = {"content-type": "multipart/form-data; boundary=x"}
PIECES = st.sampled_from(
    [
        b"--x\r\n",
        b"--x--\r\n",
        b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n',
        b'Content-Disposition: form-data; name="name"\r\n\r\n',
        b"Content-Disposition: form-data; name=\xff\xfe\r\n\r\n",
        b"\r\n",
        b"\r\n--x\r\n",
        b"\r\n--x--\r\n",
        b"data",
        b"\0",
    ]
)


@settings(max_examples=300, deadline=None)
@given(pieces=st.lists(PIECES, max_size=12), junk=st.binary(max_size=5), cut=st.integers(1, 40))
async def test_no_form_is_a_500(pieces: list[bytes], junk: bytes, cut: int) -> None:
    form = b"".join(pieces) + junk
    body = [form[start : start + cut] for start in range(0, len(form), cut)]
    answer = await fresh_client()("POST", "/blob", headers=FORM, body=body)
    check(answer)
    whole = await fresh_client()("POST", "/blob", headers=FORM, body=form)
    assert whole.status == answer.status, "it does not matter how the body is cut"
    if whole.status == 201:
        assert whole.body == answer.body


@cache
def one_client() -> Client:
    return Client()


def fresh_client() -> Client:
    """Return a client of an empty node; building the application takes longer than a request."""
    client = one_client()
    client.node.kept.clear()
    client.node.job_views.clear()
    return client


def check(answer: Answer) -> None:
    assert answer.complete
    assert 200 <= answer.status < 500
    if answer.status >= 400:
        if answer.body:
            assert answer.code
        assert answer.headers["content-type"] == "application/problem+json"
