"""Who may ask what: Host, Origin, token, and that a refusal reads no byte of the body."""

import pytest

from molia.base.config import ApiConfig
from tests.api.asgi import BEARER, TOKEN, Client

pytestmark = pytest.mark.anyio
CID = "bafkr4i" + "a" * 52
CONTROL = [
    ("DELETE", f"/blob/{CID}"),
    ("PUT", f"/pin/{CID}"),
    ("DELETE", f"/pin/{CID}"),
    ("POST", f"/trash/{CID}"),
    ("POST", "/clock/trust"),
    ("POST", "/gc"),
    ("POST", "/jobs"),
    ("DELETE", "/jobs/x"),
    ("PATCH", "/blob"),
    ("PUT", "/no/such/route"),
]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1",
        "localhost.",
        "127.0.0.1:7070",
        "[::1]",
        "[::1]:7070",
        "Node.Lan:8",
    ],
)
async def test_our_own_names_pass(host: str) -> None:
    client = Client(config=ApiConfig(allowed_hosts=("node.lan",)))
    assert (await client("GET", "/healthz", headers={"host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "evil.com:7070",
        "127.0.0.1.evil.com",
        "localhost@evil.com",
        "localhost:7070:7070",
        "localhost:port",
        "localhost, evil.com",
        "[::1",
        "::1",
        "192.168.1.5:7070",
        "l\xf6calhost",
        "\x7f",
        " ",
        "a" * 5000,
    ],
)
async def test_a_foreign_host_is_421_before_anything_else(host: str) -> None:
    client = Client()
    for method, target in (("PUT", "/blob"), ("GET", "/healthz"), ("GET", "/nope")):
        answer = await client(method, target, headers={"host": host, **BEARER}, body=b"x" * 50)
        assert (answer.status, answer.code) == (421, "misdirected")
    assert client.node.chunks_taken == 0


async def test_a_request_has_one_host() -> None:
    client = Client()
    assert (await client("GET", "/healthz", headers={"host": ""})).status == 400
    twice = [("host", "localhost"), ("host", "localhost")]
    assert (await client("GET", "/healthz", headers=twice)).status == 421


async def test_a_wildcard_bind_takes_addresses_but_not_names() -> None:
    client = Client(config=ApiConfig(listen=("0.0.0.0:7070",), auth="required"))
    assert (await client("GET", "/healthz", headers={"host": "192.168.1.5:7070"})).status == 200
    assert (await client("GET", "/healthz", headers={"host": "evil.com"})).status == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.com"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://localhost:7070.evil.com"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://localhost:7070", "sec-fetch-site": "cross-site"},
    ],
)
async def test_writes_of_foreign_pages_are_403_even_with_the_token(
    headers: dict[str, str],
) -> None:
    client = Client()
    for method, target in [("PUT", "/blob"), ("POST", "/blob"), *CONTROL]:
        answer = await client(method, target, headers={**headers, **BEARER}, body=b"x")
        assert (answer.status, answer.code) == (403, "forbidden")
    assert not client.node.kept


async def test_our_own_page_needs_the_token_for_everything_of_the_node() -> None:
    client = Client()
    own = {"origin": "http://localhost:7070", "sec-fetch-site": "same-origin"}
    for method, target in (("PUT", "/blob"), ("GET", "/blob"), ("GET", "/node"), ("GET", "/jobs")):
        body = b"x" if method == "PUT" else None
        assert (await client(method, target, headers=own, body=body)).status == 401
        answer = await client(method, target, headers={**own, **BEARER}, body=body)
        assert answer.status in (200, 201)
    typed = {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}
    for target in ("/docs", "/docs/errors", "/openapi.json", "/healthz", "/readyz"):
        assert (await client("GET", target, headers=typed)).status == 200
    assert (await client("GET", "/node", headers=typed)).status == 401


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN}, Bearer {TOKEN}"},
        {"authorization": "Bearer \xff"},
    ],
)
async def test_loopback_programs_may_put_and_read_but_not_control(given: dict[str, str]) -> None:
    client = Client()
    for method, target in CONTROL:
        answer = await client(method, target, headers=given, body=b"x")
        assert (answer.status, answer.code) == (401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    cid = (await client("PUT", "/blob", headers=given, body=b"x")).body.decode().strip()
    assert (await client("GET", f"/blob/{cid}", headers=given)).status == 200
    assert (await client("GET", "/node", headers=given)).status == 200


async def test_the_token_opens_control() -> None:
    client = Client()
    statuses = [
        (await client(method, target, headers={"authorization": f"bearer {TOKEN}"})).status
        for method, target in CONTROL
    ]
    assert statuses == [404, 404, 404, 404, 204, 400, 400, 404, 405, 404]


async def test_the_unix_socket_has_full_rights_under_any_host() -> None:
    client = Client(unix=True)
    for method, target in CONTROL:
        answer = await client(method, target, headers={"host": "molia"})
        assert answer.status in (204, 400, 404, 405)
    client = Client(unix=True, config=ApiConfig(auth="required"))
    assert (await client("GET", "/node")).status == 200


async def test_a_tcp_peer_without_an_address_is_no_unix_socket() -> None:
    client = Client()
    scope = client._scope("DELETE", f"/blob/{CID}", [(b"host", b"localhost")])
    for server in (("127.0.0.1", 7070), None):
        answer = await client._run({**scope, "client": None, "server": server}, b"", leaves=False)
        assert answer.status == 401


async def test_trusted_loopback_opens_control_to_programs_but_not_to_browsers() -> None:
    client = Client(config=ApiConfig(loopback="trusted"))
    assert (await client("DELETE", f"/blob/{CID}")).status == 404
    own = {"origin": "http://localhost:7070"}
    assert (await client("DELETE", f"/blob/{CID}", headers=own)).status == 401


async def test_required_auth_leaves_only_the_probes_open() -> None:
    client = Client(config=ApiConfig(auth="required", loopback="trusted"))
    closed = ["/blob", f"/blob/{CID}", "/node", "/metrics", "/docs", "/openapi.json", "/nope"]
    for target in closed:
        assert (await client("GET", target)).status == 401
        assert (await client("GET", target, headers=BEARER)).status in (200, 404)
    assert (await client("PUT", "/blob", body=b"x")).status == 401
    for target in ("/healthz", "/readyz"):
        assert (await client("GET", target)).status == 200


async def test_a_node_without_a_token_opens_to_nobody() -> None:
    for token in (None, ""):
        client = Client(token=token)
        for given in ("Bearer ", "Bearer None", "Bearer"):
            answer = await client("DELETE", f"/blob/{CID}", headers={"authorization": given})
            assert answer.status == 401


async def test_a_refusal_reads_no_byte_for_the_node_and_closes() -> None:
    client = Client(config=ApiConfig(auth="required"))
    answer = await client("PUT", "/blob", body=b"x" * 100_000)
    assert (answer.status, answer.headers["connection"]) == (401, "close")
    assert (client.node.chunks_taken, client.node.puts_failed) == (0, 0)
    assert answer.complete
