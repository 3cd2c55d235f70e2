"""What people put and get with: curl in its many ways, and `b3sum`."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from molia.base.cid import Cid
from tests.node.process import Client, Node, body_of
from tests.node.scan import assert_no_orphans

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
LARGE, SMALL = 5_000_000, 40_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for all of these."""
    node = Node(
        tmp_path_factory.mktemp("clients") / "home",
        {"MOLIA_API__MAX_BLOB_BYTES": "50000000", "MOLIA_API__LOOPBACK": "restricted"},
    )
    try:
        node.start()
        yield node
        node.stop()
        assert_no_orphans(node.home)
    finally:
        node.close()


@pytest.fixture
def client(shared: Node) -> Client:
    return shared.client()


def curl(node: Node, *arguments: str, path: str = "", stdin: bytes = b"") -> tuple[str, bytes]:
    """Run curl on the node; return the status and the body."""
    url = f"http://localhost:{node.port}/blob{path}"
    # `localhost` may be ::1 first, where this node does not listen: curl tries both
    command = ["curl", "-sS", "--max-time", "60", "-w", "\n%{http_code}", *arguments, url]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=90)
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition(b"\n")
    return status.decode(), body


@pytest.fixture(params=[SMALL, LARGE])
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "some file.bin"
    path.write_bytes(body_of(crc32(request.node.name.encode()), request.param))
    return path


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["-T", "{}"], ""),
        (["-T", "{}"], "/"),
        (["-T", "{}", "-H", "Transfer-Encoding: chunked"], ""),
        (["-T", "{}", "-H", "Expect: 100-continue"], ""),
        (["-X", "PUT", "--data-binary", "@{}"], ""),
        (["--data-binary", "@{}"], ""),
        (["-F", "file=@{}"], ""),
        (["-F", "name=x", "-F", "file=@{};type=image/png"], ""),
    ],
)
def test_curl_puts_a_file_in_many_ways(
    shared: Node, client: Client, file: Path, arguments: list[str], path: str
) -> None:
    status, body = curl(shared, *(a.format(file) for a in arguments), path=path)
    assert status == "201", body
    assert client.get(body.decode().strip()) == file.read_bytes()


def test_curl_puts_what_comes_from_a_pipe_and_through_the_unix_socket(
    shared: Node, client: Client, file: Path
) -> None:
    data = file.read_bytes()
    status, body = curl(shared, "-T", "-", stdin=data)
    assert status == "201"
    cid = body.decode().strip()
    assert client.get(cid) == data
    unix = ["--unix-socket", str(shared.home / "api.sock")]
    assert curl(shared, *unix, "-T", str(file)) == ("200", body)
    assert curl(shared, *unix, path=f"/{cid}") == ("200", data)
    assert curl(shared, "-X", "DELETE", path=f"/{cid}")[0] == "401"
    assert curl(shared, *unix, "-X", "DELETE", path=f"/{cid}") == ("204", b"")
    assert curl(shared, path=f"/{cid}")[0] == "404"


def test_curl_reads_ranges_and_resumes(shared: Node, client: Client, file: Path) -> None:
    data = file.read_bytes()
    cid = client.put(data)
    for text, part in (
        ("0-0", data[:1]), ("1000-30000", data[1000:30001]), ("-500", data[-500:]),
        (f"{len(data) - 7}-", data[-7:]), (f"100-{len(data) + 5}", data[100:]),
    ):  # fmt: skip
        assert curl(shared, "-r", text, path=f"/{cid}") == ("206", part), text
    assert curl(shared, "-r", f"{len(data)}-", path=f"/{cid}")[0] == "416"
    half = file.with_name("half")
    half.write_bytes(data[: len(data) // 3])
    status, _ = curl(shared, "-C", "-", "-o", str(half), path=f"/{cid}")
    assert (status, half.read_bytes() == data) == ("206", True)
    head = subprocess.run(
        ["curl", "-sSI", f"http://localhost:{shared.port}/blob/{cid}"],
        capture_output=True, text=True, check=True,
    ).stdout.lower()  # fmt: skip
    assert f"content-length: {len(data)}" in head
    assert f'etag: "{cid}"' in head
    assert curl(shared, "-H", f'If-None-Match: "{cid}"', path=f"/{cid}") == ("304", b"")


def test_curl_sends_nothing_of_what_is_too_large(shared: Node, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(60_000_000)
    arguments = [
        "-T",
        str(big),
        "-H",
        "Expect: 100-continue",
        "-w",
        "\n%{http_code} %{size_upload}",
    ]
    done = subprocess.run(
        ["curl", "-sS", *arguments, f"http://localhost:{shared.port}/blob"],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.rpartition(b"\n")[2] == b"413 0"


def test_curl_can_assert_what_it_sends(shared: Node, client: Client, file: Path) -> None:
    cid = client.put(file.read_bytes())
    assert curl(shared, "-T", str(file), path=f"/{cid}")[0] == "200"
    other = file.with_name("other")
    other.write_bytes(file.read_bytes() + b"x")
    assert curl(shared, "-T", str(other), path=f"/{cid}")[0] == "422"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert hashlib.sha256(client.get(cid)).hexdigest() == digest


def test_b3sum_agrees_with_the_cid_and_the_content_hash(
    shared: Node, client: Client, file: Path
) -> None:
    if shutil.which("b3sum") is None:
        pytest.skip("b3sum is not installed")
    said = subprocess.run(["b3sum", "--no-names", str(file)], capture_output=True, check=True)
    digest = said.stdout.decode().strip()
    cid = client.put(file.read_bytes())
    (content,) = [blob["content"] for blob in client.listing() if blob["cid"] == cid]
    assert content == digest
    if file.stat().st_size == SMALL:
        assert Cid.parse(cid).digest.hex() == digest
    assert client.get(digest) == file.read_bytes()
