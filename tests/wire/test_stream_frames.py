"""Stream frames against their page, their vectors and a fuzzer."""

import re
from pathlib import Path
from struct import Struct

import hypothesis.strategies as st
import pytest
from hypothesis import given

from molia.base.errors import ChannelFault
from molia.base.limits import ACK_RANGES_MAX
from molia.sim.entropy import SeededEntropy
from molia.wire import stream_frames as frames
from molia.wire.channel import Channel, ChannelConfig
from tests.vectors.load import vectors

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "streams.md").read_text("utf-8")
LAYOUTS: dict[str, tuple[int, Struct]] = {
    "STREAM": (frames.STREAM, frames.STREAM_HEAD), "NUMBER": (frames.NUMBER, frames.NUMBER_HEAD),
    "MORE": (frames.MORE, frames.MORE_HEAD), "ACK": (frames.ACK, frames.ACK_HEAD),
    "RESET": (frames.RESET, frames.RESET_FRAME), "STOP": (frames.STOP, frames.STOP_FRAME),
    "MAX_DATA": (frames.MAX_DATA, frames.MAX_DATA_FRAME),
    "MAX_STREAM_DATA": (frames.MAX_STREAM_DATA, frames.MAX_STREAM_DATA_FRAME),
    "MAX_STREAMS": (frames.MAX_STREAMS, frames.MAX_STREAMS_FRAME),
    "CLOSE": (frames.CLOSE, frames.CLOSE_FRAME),
    "PADDING and SETTLED": (frames.SETTLED, frames.NUMBER_HEAD),
}  # fmt: skip


@pytest.mark.parametrize("heading", sorted(LAYOUTS))
def test_the_page_places_every_field(heading: str) -> None:
    kind, layout = LAYOUTS[heading]
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\w+) \|", section, re.MULTILINE)
    at = 0
    for offset, size, _ in rows:
        assert int(offset) == at, heading
        at += int(size)
    sizes = [int(size) for offset, size, _ in rows if int(offset) < layout.size]
    assert sizes == [Struct("<" + letter).size for letter in layout.format[1:]]
    assert f"Type {kind}." in section or f"type {kind}," in section


def test_the_page_numbers_the_reasons() -> None:
    rows = re.findall(r"^\| ([A-Z_]+) \| (\d+) \|", PAGE, re.MULTILINE)
    assert {name: int(value) for name, value in rows} == {f.name: f.value for f in frames.Fault}


@pytest.mark.parametrize("row", vectors("streams")["frames"], ids=lambda row: str(row["name"]))
def test_a_frame_is_packed_as_its_vector_says(row: dict[str, object]) -> None:
    data = bytes.fromhex(str(row["hex"]))
    name = str(row["name"]).split()[0]
    assert list(frames.frames_of(data)) == [(data[0], 3, len(data))]
    if name == "PADDING":
        assert frames.padding(len(data)) == data
        return
    kind, layout = LAYOUTS.get(name, LAYOUTS["PADDING and SETTLED"])
    assert data[0] == kind
    fields = layout.unpack_from(data)
    assert layout.pack(*fields) == data[: layout.size]
    if name == "ACK":
        runs = [tuple(run) for run in row["runs"]]  # type: ignore[attr-defined]
        assert frames.decode_ack(data, 3, len(data)) == (runs, 250e-6)
        assert frames.encode_ack(runs, delay_s=250e-6) == data


def test_a_request_and_its_reply_are_the_payloads_of_the_vector() -> None:
    row = vectors("streams")["conversations"][0]
    left, right = (
        Channel(ChannelConfig(), initiator=initiator, entropy=SeededEntropy(1), now_s=0.0)
        for initiator in (True, False)
    )
    stream = left.open_stream()
    assert stream == 0
    left.write(stream, b"ask")
    left.finish(stream)
    payloads = left.take_payloads(0.0, 47)
    assert [payload.hex() for payload in payloads] == [row["request"]]
    right.on_payloads(payloads, 0.0)
    assert right.read(stream, 10) == b"ask"
    right.write(stream, b"told")
    right.finish(stream)
    payloads = right.take_payloads(0.0, 47)
    assert [payload.hex() for payload in payloads] == [row["reply"]]
    left.on_payloads(payloads, 0.0)
    assert left.read(stream, 10) == b"told"
    assert left.take_payloads(0.025, 47) == [bytes.fromhex(row["ack after 25 ms"])]


gaps = st.lists(st.tuples(st.integers(1, 2**20), st.integers(1, 2**20)), max_size=80)


@given(first=st.integers(1, 1000), top=st.integers(2**40, 2**50), gaps=gaps)
def test_acknowledgements_survive_the_wire(
    first: int, top: int, gaps: list[tuple[int, int]]
) -> None:
    runs = [(top - first, top)]
    for gap, run in gaps:
        upper = runs[-1][0] - gap
        runs.append((upper - run, upper))
    data = frames.encode_ack(runs, delay_s=0.5)
    assert frames.decode_ack(data, 3, len(data)) == (runs[:ACK_RANGES_MAX], 0.5)


def test_what_32_bits_cannot_say_ends_an_acknowledgement() -> None:
    far, long = 1 << 33, 1 << 32
    for runs, kept in (
        ([(far, far + 1), (5, 6)], [(far, far + 1)]),
        ([(far, far + 1), (far - 9, far - 5), (5, 6)], [(far, far + 1), (far - 9, far - 5)]),
        ([(9, 9 + long), (5, 6)], [(9 + 1, 9 + long)]),
        ([(9 + long, 10 + long), (5, 5 + long), (1, 2)], [(9 + long, 10 + long)]),
    ):
        data = frames.encode_ack(runs, delay_s=0)
        assert frames.decode_ack(data, 3, len(data)).runs == kept


@given(data=st.binary(max_size=80))
def test_any_bytes_are_frames_or_a_fault(data: bytes) -> None:
    try:
        found = list(frames.frames_of(data))
        for kind, start, stop in found:
            if kind == frames.ACK:
                ack = frames.decode_ack(data, start, stop)
                assert all(0 <= first < last for first, last in ack.runs)
    except ChannelFault:
        return
    assert all(3 <= start <= stop <= len(data) for _, start, stop in found)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 300, 1400])
def test_padding_of_any_size_says_nothing(size: int) -> None:
    data = frames.padding(size)
    assert len(data) == size
    assert all(kind == frames.PADDING for kind, _, _ in frames.frames_of(data))
