"""The doors of the fuzzer stay shut to anything, also without the fuzzer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import wire


@pytest.mark.parametrize("door", range(len(wire.DOORS)))
@given(data=st.binary(max_size=400))
def test_no_door_raises(door: int, data: bytes) -> None:
    wire.knock(bytes((door,)) + data)


def test_every_door_leads_somewhere() -> None:
    wire.pair.cache_clear()
    _, ours, _ = wire.pair()
    counters = ours.transport.endpoint.counters
    before = (counters.packets_in, counters.bad_initiation, counters.bad_hello)
    wire.knock(b"\0" + bytes(100))
    wire.knock(b"\2" + bytes(100))
    assert counters.packets_in == before[0] + 2
    assert counters.bad_hello == before[2] + 1, "it got past the keys"
    requests = ours.transport.counters.requests_in
    wire.knock(b"\3" + bytes.fromhex("020a00") + bytes(8) + b"\x40" + b"x")
    assert ours.transport.counters.requests_in > requests
