"""Stock WireGuard and Molia's transport understand each other, whoever speaks first."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from molia.base.crypto import ExchangeKey
from molia.wire.cookies import mac1_key, stamp
from molia.wire.gate import OpenAdmission
from molia.wire.noise import NO_PSK, WIREGUARD
from molia.wire.peer import Timing
from tests.interop.echo import echo_request
from tests.interop.wg_endpoint import WgNode
from tests.interop.wireguard_go import INNER, OURS, WireguardGo, why_not, wireguard_go

REASON = why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"wireguard-go: {REASON}")

OUR_KEY, THEIR_KEY, PSK = b"\x10" * 32, b"\x20" * 32, b"\x30" * 32
OUR_PUBLIC, THEIR_PUBLIC = ExchangeKey(OUR_KEY).public, ExchangeKey(THEIR_KEY).public
PATIENCE_S = 30.0


@contextlib.contextmanager
def node(**options: object) -> Iterator[WgNode]:
    """Serve a node in a thread."""
    ours = WgNode(listen=("127.0.0.1", 0), private=OUR_KEY, peer=THEIR_PUBLIC, **options)  # type: ignore[arg-type]
    thread = threading.Thread(target=ours.serve)
    thread.start()
    try:
        yield ours
    finally:
        ours.stop()
        thread.join(10)
        ours.close()


@contextlib.contextmanager
def pair(*, psk: bytes = NO_PSK, **options: object) -> Iterator[tuple[WgNode, WireguardGo]]:
    """Run a node and a wireguard-go that knows where the node is."""
    with (
        node(psk=psk, **options) as ours,
        wireguard_go(
            peer=OUR_PUBLIC, private=THEIR_KEY, psk=psk, endpoint=ours.address
        ) as theirs,
    ):  # fmt: skip
        yield ours, theirs


def comes(what: Callable[[], bool]) -> bool:
    """Wait until `what` holds; False if it never does."""
    until_s = time.monotonic() + PATIENCE_S
    while not what():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("psk", [NO_PSK, PSK], ids=["no psk", "psk"])
def test_wireguard_speaks_first_and_pings_through_the_tunnel(psk: bytes) -> None:
    with pair(psk=psk) as (ours, theirs):
        assert theirs.ping(OURS[0]) == 3
        assert theirs.ping(OURS[1]) == 3
        counters = ours.endpoint.counters
        assert (counters.handshakes_in, counters.handshakes_out) == (1, 0)
        assert counters.forged == counters.replayed == counters.bad_mac1 == 0


@pytest.mark.parametrize("psk", [NO_PSK, PSK], ids=["no psk", "psk"])
def test_we_speak_first_and_ping_through_the_tunnel(psk: bytes) -> None:
    with wireguard_go(peer=OUR_PUBLIC, private=THEIR_KEY, psk=psk) as theirs:  # noqa: SIM117
        with node(psk=psk, connect=theirs.address) as ours:
            inner = [bytes(map(int, text.split("."))) for text in (OURS[0], INNER[0])]
            ours.send(echo_request(inner[0], inner[1], 1))
            assert comes(lambda: any(p[20:21] == b"\0" for p in ours.plaintexts))
            assert ours.endpoint.counters.handshakes_out == 1
            assert theirs.ping(OURS[0], count=1) == 1
            assert ours.endpoint.counters.handshakes_in == 0


def test_a_wrong_psk_gives_no_session() -> None:
    with (
        wireguard_go(peer=OUR_PUBLIC, private=THEIR_KEY, psk=PSK) as theirs,
        node(connect=theirs.address) as ours,
    ):
        ours.send(b"")
        assert comes(lambda: ours.endpoint.counters.bad_response == 1)
        assert ours.endpoint.session_count == 0


def test_pings_survive_new_keys_that_we_ask_for() -> None:
    timing = Timing(rekey_on_send_s=0.5, retry_s=0.5)
    with wireguard_go(peer=OUR_PUBLIC, private=THEIR_KEY) as theirs:  # noqa: SIM117
        with node(connect=theirs.address, timing=timing) as ours:
            ours.send(b"")
            assert comes(lambda: ours.endpoint.counters.handshakes_out == 1)
            assert theirs.ping(OURS[0], count=30, interval_s=0.1) == 30
            assert ours.endpoint.counters.handshakes_out >= 4
            assert ours.endpoint.counters.expired == ours.endpoint.counters.unknown_index == 0


def test_under_load_wireguard_is_asked_for_a_cookie_and_brings_it() -> None:
    with pair(admission=OpenAdmission(loaded=True)) as (ours, theirs):
        assert theirs.ping(OURS[0], count=1) in (0, 1)  # its next try comes after 5 s
        assert comes(lambda: ours.endpoint.counters.handshakes_in == 1)
        assert ours.endpoint.counters.cookies_out >= 1
        assert theirs.ping(OURS[0], count=1) == 1


@pytest.mark.skipif(settings().max_examples < 20_000, reason="floods a core: make fuzz runs it")
def test_a_loaded_wireguard_gives_us_a_cookie_and_takes_it_back() -> None:
    timing = Timing(retry_s=0.5)
    with wireguard_go(peer=OUR_PUBLIC, private=THEIR_KEY) as theirs:  # noqa: SIM117
        with node(connect=theirs.address, timing=timing) as ours, flood(theirs):
            counters = ours.endpoint.counters
            assert comes(lambda: counters.cookies_in >= 1 or not knock(ours))
            assert comes(lambda: ours.endpoint.session_count >= 1)
            assert counters.bad_cookie == 0
            assert any(raw[:1] == b"\1" and any(raw[-16:]) for raw in ours.sent), "with mac2"


def knock(ours: WgNode) -> bool:
    """Begin a handshake again; True, so that it reads well."""
    time.sleep(0.6)
    ours.knock()
    return True


@contextlib.contextmanager
def flood(theirs: WireguardGo) -> Iterator[None]:
    """Send initiations with a sound mac1 and nothing sound in them."""
    key, stop = mac1_key(WIREGUARD, theirs.public), threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.is_set():
                for _ in range(50):
                    sender.sendto(
                        stamp(b"\1\0\0\0" + os.urandom(112), key=key, cookie=b""), theirs.address
                    )

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


def test_handshakes_that_cross_leave_a_tunnel_that_works() -> None:
    with node() as ours:  # noqa: SIM117
        with wireguard_go(
            peer=OUR_PUBLIC, private=THEIR_KEY, endpoint=ours.address
        ) as theirs:  # fmt: skip
            ours.peer.address = theirs.address
            started = threading.Thread(target=theirs.ping, args=(OURS[0],), kwargs={"count": 1})
            started.start()
            ours.send(b"")
            started.join()
            assert theirs.ping(OURS[0]) == 3


@pytest.mark.skipif(settings().max_examples < 20_000, reason="takes 200 s: make fuzz runs it")
def test_pings_survive_the_rekey_at_its_own_time() -> None:
    with pair() as (ours, theirs):
        assert theirs.ping(OURS[0], count=400, interval_s=0.5) == 400
        assert ours.endpoint.counters.handshakes_in >= 2


def test_the_command_answers_pings_of_a_stock_peer() -> None:
    root = Path(__file__).parents[2]
    with wireguard_go(peer=OUR_PUBLIC, private=THEIR_KEY, psk=PSK) as theirs:
        keys = [b64encode(key).decode() for key in (OUR_KEY, THEIR_PUBLIC, PSK)]
        words = ["--listen", "127.0.0.1:0", "--private-key", keys[0], "--peer", keys[1]]
        words += ["--psk", keys[2], "--connect", f"127.0.0.1:{theirs.port}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.interop.wg_endpoint", *words],
            cwd=root, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout
        try:
            assert "public key" in process.stdout.readline()
            assert comes(lambda: theirs.show("latest-handshakes").split()[-1] != "0")
            assert theirs.ping(OURS[0]) == 3
        finally:
            process.terminate()
            process.wait(10)
            process.stdout.close()
