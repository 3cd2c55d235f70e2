"""`molia get` and `cat`: whole, checked, resumed, and never over a file."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.cid import Cid, Codec
from molia.base.hashing import blake3_digest
from molia.cli.fetch import disposition_name, safe_name
from tests.cli.conftest import Run, spawn
from tests.cli.fake_node import FakeNode, Kept

SMALL, LARGE = 5000, 3_000_000


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without waiting."""
    monkeypatch.setattr("molia.cli.fetch.RETRY_AFTER_S", (0.0, 0.0, 0.0, 0.0))


@pytest.fixture
def large(node: FakeNode) -> Kept:
    return node.world.add(os.urandom(LARGE), name="film.bin")


def parts() -> list[Path]:
    return list(Path().glob(".*.part"))


def bodies_asked(node: FakeNode) -> list[str]:
    """Return the Range of each GET for a body."""
    return [
        headers.get("Range", "all")
        for method, path, headers in node.world.requests
        if method == "GET" and path.startswith("/blob/") and path.count("/") == 2
    ]


@pytest.mark.parametrize("size", [0, 1, SMALL, LARGE])
@pytest.mark.parametrize("over", ["unix", "tcp"])
def test_a_blob_lands_under_its_name(node: FakeNode, molia: Run, size: int, over: str) -> None:
    kept = node.world.add(os.urandom(size), name="my ünï.bin")
    where = f"unix:{node.socket}" if over == "unix" else node.url
    ran = molia("get", kept.cid, "--node", where)
    assert (ran.code, ran.out, ran.stderr) == (0, "my ünï.bin\n", "")
    assert Path("my ünï.bin").read_bytes() == kept.body
    assert not parts()


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_file_has_its_name_for_good_when_the_command_ends(
    node: FakeNode, molia: Run, large: Kept, monkeypatch: pytest.MonkeyPatch, force: list[str]
) -> None:
    """A synced file whose name was not is gone after a power cut."""
    synced: list[tuple[bool, list[str]]] = []

    def fsync(handle: int) -> None:
        is_directory = Path(f"/proc/self/fd/{handle}").resolve() == Path.cwd()
        synced.append((is_directory, sorted(os.listdir())))

    monkeypatch.setattr("os.fsync", fsync)
    assert molia("get", large.cid, *force).code == 0
    file, names = synced
    assert not file[0]
    assert names[0]
    assert "film.bin" in names[1]


def test_without_a_name_the_cid_is_the_name(node: FakeNode, molia: Run) -> None:
    kept = node.world.add(b"x")
    assert molia("get", kept.cid).code == 0
    assert Path(kept.cid).read_bytes() == b"x"


def test_every_spelling_of_a_reference_is_taken(node: FakeNode, molia: Run, large: Kept) -> None:
    content = blake3_digest(large.body)
    spellings = (large.cid, content.hex(), f"ipfs://{large.cid}", f"molia:{large.cid}",
                 str(Cid(Codec.RAW, content)))  # fmt: skip
    for index, spelling in enumerate(spellings):
        assert molia("get", spelling, "-o", f"f{index}").code == 0
        assert Path(f"f{index}").read_bytes() == large.body


def test_output_may_be_a_directory_a_device_or_stdout(
    node: FakeNode, molia: Run, large: Kept
) -> None:
    Path("d").mkdir()
    assert molia("get", large.cid, "-o", "d").out == "d/film.bin\n"
    assert Path("d/film.bin").read_bytes() == large.body
    assert molia("get", large.cid, "-o", "/dev/null").code == 0
    assert molia("get", large.cid, "-o", "-").stdout == large.body
    assert molia("get", large.cid, "-o", "no/such/f").code == 2
    assert molia("get", large.cid, "-o", "").code == 2


def test_a_file_that_exists_is_not_touched_without_force(
    node: FakeNode, molia: Run, large: Kept
) -> None:
    Path("film.bin").write_text("mine")
    ran = molia("get", large.cid)
    assert ran.code == 1
    assert ran.stderr == "error: film.bin exists. Name another with -o, or add --force\n"
    assert Path("film.bin").read_text() == "mine"
    Path("dangling").symlink_to("nowhere")
    assert molia("get", large.cid, "-o", "dangling").code == 1
    assert not bodies_asked(node)
    assert molia("get", large.cid, "--force").code == 0
    assert Path("film.bin").read_bytes() == large.body


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_overwritten(
    node: FakeNode, molia: Run, large: Kept, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """The file appears after the checks, when all bytes are in; with and without hard links."""
    real = os.fsync

    def fsync(handle: int) -> None:
        Path("film.bin").write_text("mine")
        real(handle)

    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "fsync", fsync)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    assert molia("get", large.cid).code == 1
    assert Path("film.bin").read_text() == "mine"
    assert [part.stat().st_size for part in parts()] == [LARGE]


def test_where_there_are_no_hard_links_a_file_still_lands(
    node: FakeNode, molia: Run, large: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", no_link)
    assert molia("get", large.cid).code == 0
    assert Path("film.bin").read_bytes() == large.body
    assert not parts()


@pytest.mark.usefixtures("quick")
class TestResume:
    """What happens when a connection does not hold."""

    @pytest.mark.parametrize("over", ["unix", "tcp"])
    def test_a_cut_connection_is_taken_up_where_it_broke(
        self, node: FakeNode, molia: Run, large: Kept, over: str
    ) -> None:
        node.world.cut_after = [1_000_000, 0, 500_000, 1]
        where = f"unix:{node.socket}" if over == "unix" else node.url
        assert molia("get", large.cid, "--node", where).code == 0
        assert Path("film.bin").read_bytes() == large.body
        ranges = bodies_asked(node)
        assert ranges[0] == "all"
        assert len(ranges) == 5
        if over == "unix":  # a reset on TCP may take bytes with it that were on their way
            assert ranges[1:3] == [f"bytes=1000000-{LARGE - 1}"] * 2

    def test_when_trying_again_does_not_help_the_part_stays_and_the_next_run_goes_on(
        self, node: FakeNode, molia: Run, large: Kept
    ) -> None:
        node.world.cut_after = [700_000, *[0] * 5]
        ran = molia("get", large.cid)
        (part,) = parts()
        assert ran.code == 5
        assert str(part) in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
        assert part.name == f".film.bin.{large.cid[-8:]}.part"
        assert part.read_bytes() == large.body[:700_000]
        assert not Path("film.bin").exists()
        node.world.requests.clear()
        node.world.cut_after = []
        ran = molia("get", large.cid)
        assert (ran.code, ran.out) == (0, "film.bin\n")
        assert "going on after 683.6 KiB" in ran.stderr
        assert bodies_asked(node) == [f"bytes=700000-{LARGE - 1}"]
        assert node.world.requests[-1][2]["If-Range"] == f'"{large.cid}"'
        assert Path("film.bin").read_bytes() == large.body
        assert not parts()

    def test_a_damaged_part_is_noticed_and_fetched_anew(
        self, node: FakeNode, molia: Run, large: Kept
    ) -> None:
        Path(f".film.bin.{large.cid[-8:]}.part").write_bytes(bytes(700_000))
        ran = molia("get", large.cid)
        assert ran.code == 0
        assert "damaged: starting again" in ran.stderr
        assert Path("film.bin").read_bytes() == large.body

    @pytest.mark.parametrize("extra", [b"", b"more than all"])
    def test_a_part_that_is_whole_or_longer_ends_well(
        self, node: FakeNode, molia: Run, large: Kept, extra: bytes
    ) -> None:
        Path(f".film.bin.{large.cid[-8:]}.part").write_bytes(large.body + extra)
        assert molia("get", large.cid).code == 0
        assert Path("film.bin").read_bytes() == large.body
        assert bodies_asked(node) == ([] if not extra else ["all"])

    def test_a_part_of_another_blob_is_left_alone(
        self, node: FakeNode, molia: Run, large: Kept
    ) -> None:
        other = Path(".film.bin.aaaaaaaa.part")
        other.write_bytes(b"other")
        assert molia("get", large.cid).code == 0
        assert bodies_asked(node) == ["all"]
        assert other.read_bytes() == b"other"

    def test_a_node_that_ignores_ranges_still_gives_the_right_bytes(
        self, node: FakeNode, molia: Run, large: Kept
    ) -> None:
        node.world.cut_after = [1_234_567]
        node.world.ignore_ranges = True
        assert molia("get", large.cid).code == 0
        assert Path("film.bin").read_bytes() == large.body

    def test_a_node_that_goes_away_meanwhile_is_exit_5(
        self, node: FakeNode, molia: Run, large: Kept
    ) -> None:
        node.world.cut_after, node.world.down_after_cut = [1000], 100
        ran = molia("get", large.cid, "-o", "f")
        assert ran.code == 5
        assert parts()[0].stat().st_size == 1000

    def test_lost_shares_are_exit_6_in_the_nodes_own_words(
        self, node: FakeNode, molia: Run, large: Kept
    ) -> None:
        node.world.lost = True
        ran = molia("get", large.cid)
        assert ran.code == 6
        assert "9 of the 10 blocks it needs are sound" in ran.stderr
        assert not parts()

    def test_two_commands_do_not_write_one_part(
        self, node: FakeNode, molia: Run, large: Kept
    ) -> None:
        import fcntl

        with Path(f".film.bin.{large.cid[-8:]}.part").open("wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            ran = molia("get", large.cid)
        assert ran.code == 5
        assert "another command is writing" in ran.stderr


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_wrong_bytes_never_get_the_files_name(node: FakeNode, molia: Run, size: int) -> None:
    kept = node.world.add(b"\1" * size, name="f")
    node.world.lie = b"\2"
    ran = molia("get", kept.cid)
    assert ran.code == 6
    assert "do not hash to" in ran.stderr
    assert not Path("f").exists()
    assert not parts()
    assert molia("get", kept.cid, "-o", "-").code == 6
    assert molia("cat", kept.cid).code == 6


def test_a_manifest_that_is_not_the_cids_is_exit_6(node: FakeNode, molia: Run, large: Kept) -> None:
    large.manifest = large.manifest[:-1] + b"\0"
    assert molia("get", large.cid).code == 6
    assert not bodies_asked(node)


def test_an_answer_for_another_blob_is_exit_6(node: FakeNode, molia: Run, large: Kept) -> None:
    asked = large.cid
    other = node.world.add(os.urandom(LARGE))
    node.world.blobs = {asked: other}
    node.world.find = lambda ref: other  # type: ignore[method-assign]
    assert molia("get", asked).code == 6


def test_what_is_not_there_is_exit_4_and_what_is_no_cid_is_exit_2(
    node: FakeNode, molia: Run
) -> None:
    missing = molia("get", str(Cid(Codec.RAW, bytes(32))))
    assert missing.code == 4
    assert missing.stderr.startswith("error: no blob bafkr4i")
    assert molia("get", "../../etc/passwd").code == 2
    assert molia("cat", "BAFK").code == 2


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="../../.ssh/authorized_keys"', "authorized_keys"),
        ('attachment; filename="/etc/passwd"', "passwd"),
        ('attachment; filename="..\\\\..\\\\evil.exe"', "evil.exe"),
        ("attachment; filename*=UTF-8''..%2F..%2Fx%00y", "x_y"),
        ("attachment; filename=\"a.txt\"; filename*=UTF-8''%c3%a4.txt", "ä.txt"),
        ('attachment; filename="say \\"hi\\".txt"', 'say "hi".txt'),
        ("attachment; filename=plain.txt; size=3", "plain.txt"),
        ('attachment; filename=".."', ""),
        ('attachment; filename="x/"', ""),
        ("attachment", ""),
        ("", ""),
    ],
)
def test_a_nodes_file_name_is_its_last_component(header: str, name: str) -> None:
    assert safe_name(disposition_name(header)) == name


def test_a_hostile_name_stays_in_the_directory(node: FakeNode, molia: Run) -> None:
    kept = node.world.add(b"evil")
    node.world.disposition = 'attachment; filename="../../../tmp/molia-evil"'
    assert molia("get", kept.cid).out == "molia-evil\n"
    assert Path("molia-evil").read_bytes() == b"evil"


@given(st.text() | st.text(alphabet="/\\..\"; =*'%filename\0\n-"))
def test_no_header_gives_an_unsafe_name(header: str) -> None:
    name = safe_name(disposition_name(f"attachment; {header}"))
    assert "/" not in name
    assert "\0" not in name
    assert name not in (".", "..")
    assert len(name.encode()) <= 200
    safe = safe_name(header)
    assert safe == "" or Path("d", safe).parent == Path("d")


class TestCat:
    """`molia cat`."""

    @pytest.mark.parametrize(
        ("flags", "start", "stop"),
        [
            ((), 0, LARGE),
            (("--offset", "10"), 10, LARGE),
            (("--length", "0"), 0, 0),
            (("--offset", "10", "--length", "5"), 10, 15),
            (("--offset", "2999999", "--length", "99"), 2_999_999, LARGE),
            (("--offset", "3000000"), LARGE, LARGE),
        ],
    )
    def test_gives_the_bytes_asked_for(
        self, node: FakeNode, molia: Run, large: Kept, flags: tuple[str, ...], start: int, stop: int
    ) -> None:
        ran = molia("cat", large.cid, *flags)
        assert (ran.code, ran.stdout, ran.stderr) == (0, large.body[start:stop], "")

    def test_an_offset_past_the_end_is_exit_2(
        self, node: FakeNode, molia: Run, large: Kept
    ) -> None:
        assert molia("cat", large.cid, "--offset", "3000001").code == 2

    def test_json_goes_to_stderr_so_that_stdout_stays_the_blob(
        self, node: FakeNode, molia: Run, large: Kept
    ) -> None:
        ran = molia("cat", large.cid, "--json", "--no-progress")
        assert ran.stdout == large.body
        assert json.loads(ran.stderr)["size"] == LARGE
        lost = molia("cat", str(Cid(Codec.RAW, bytes(32))), "--json")
        assert lost.stdout == b""
        assert json.loads(lost.stderr)["code"] == "blob-not-found"

    def test_a_reader_that_leaves_is_no_error(self, node: FakeNode) -> None:
        kept = node.world.add(os.urandom(8_000_000))
        process = spawn("cat", kept.cid)
        assert process.stdout is not None
        head = process.stdout.read(100)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(timeout=120) == 0
        assert head == kept.body[:100]

    def test_a_full_disk_behind_stdout_is_exit_9(self, node: FakeNode, large: Kept) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full on this system")
        with Path("/dev/full").open("wb") as full:
            process = spawn("cat", large.cid, stdout=full)
            _, stderr = process.communicate(timeout=120)
        assert process.returncode == 9
        assert stderr.startswith(b"error: stdout: No space left on device")


def test_ctrl_c_keeps_the_part_and_says_so(node: FakeNode, large: Kept) -> None:
    node.world.cut_after, node.world.hold_s = [1_000_000, 0], 120.0
    process = spawn("get", large.cid)
    while not parts() or parts()[0].stat().st_size < 1_000_000:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stderr.startswith(b"error: interrupted. ")
    assert stderr.count(b"\n") == 1
    assert parts()[0].read_bytes() == large.body[:1_000_000]


def test_a_full_disk_keeps_the_part_and_is_exit_9(
    node: FakeNode, molia: Run, large: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, room = os.write, [600_000]

    def write(handle: int, data: memoryview) -> int:
        if room[0] <= 0:
            raise OSError(28, "No space left on device")
        count = real(handle, data[: room[0]])
        room[0] -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        ran = molia("get", large.cid)
    assert ran.code == 9
    (part,) = parts()
    assert str(part) in ran.stderr
    assert part.read_bytes() == large.body[:600_000]


def test_stdin_is_not_read_by_get(node: FakeNode, large: Kept) -> None:
    process = spawn("get", large.cid, stdin=subprocess.PIPE)
    assert process.wait(timeout=120) == 0
    process.communicate()
