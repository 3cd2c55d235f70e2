"""Keys, counters and the replay window of one session, against a slow window."""

from hypothesis import given
from hypothesis import strategies as st

from molia.base.limits import MESSAGES_MAX, REPLAY_WINDOW
from molia.wire.noise import TransportKeys
from molia.wire.session import REJECT_AFTER_S, Session
from tests.wire.test_noise import session_of

ONE, TWO = b"1" * 32, b"2" * 32


def ends() -> tuple[Session, Session]:
    """Return both ends of a session."""
    return (
        session_of(TransportKeys(ONE, TWO, b""), is_initiator=True),
        session_of(TransportKeys(TWO, ONE, b""), is_initiator=False),
    )


class SlowWindow:
    """The rule itself: new, and not as far behind the highest as the window is long."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def accepts(self, counter: int) -> bool:
        """Tell whether a counter is taken, and take it."""
        highest = max(self.seen, default=-1)
        if counter in self.seen or counter <= highest - REPLAY_WINDOW or counter >= MESSAGES_MAX:
            return False
        self.seen.add(counter)
        return True


near = st.integers(0, 40)
jumps = st.integers(0, 3 * REPLAY_WINDOW) | st.sampled_from(
    [REPLAY_WINDOW - 1, REPLAY_WINDOW, REPLAY_WINDOW + 1, MESSAGES_MAX - 1, MESSAGES_MAX, 2**64 - 1]
)
counters = st.lists(near | jumps, min_size=1, max_size=60)


def packets_of(sender: Session, numbers: list[int]) -> list[bytes]:
    packets = []
    for number in numbers:
        sender.sent = number
        packets.append(sender.seal(b"%d" % number))
    return packets


@given(numbers=counters, cut=st.integers(0, 60))
def test_the_replay_window_is_the_slow_one_packet_by_packet_and_in_bursts(
    numbers: list[int], cut: int
) -> None:
    sender, receiver = ends()
    twin, slow = ends()[1], SlowWindow()
    packets = packets_of(sender, numbers)
    expected = [b"%d" % number for number in numbers if slow.accepts(number)]
    singly = [receiver.open(packet, 1.0) for packet in packets]
    assert [text for text in singly if text is not None] == expected
    assert twin.open_many(packets[:cut], 1.0) + twin.open_many(packets[cut:], 1.0) == expected
    assert receiver.replayed == twin.replayed == len(numbers) - len(expected)
    assert receiver.forged == 0


@given(order=st.permutations(range(24)), lost=st.sets(st.integers(0, 23)))
def test_reordered_packets_all_come_through_once(order: list[int], lost: set[int]) -> None:
    sender, receiver = ends()
    packets = sender.seal_many([b"%d" % number for number in range(24)])
    kept = [number for number in order if number not in lost]
    opened = receiver.open_many([packets[number] for number in kept], 0.0)
    assert opened == [b"%d" % number for number in kept]
    assert receiver.open_many([packets[number] for number in kept], 0.0) == []


@given(data=st.binary(max_size=60), at=st.integers(0, 200), bit=st.integers(0, 7))
def test_a_bit_flipped_after_the_index_opens_nothing_and_changes_nothing(
    data: bytes, at: int, bit: int
) -> None:
    sender, receiver = ends()
    packet = sender.seal(data)
    flipped = bytearray(packet)
    flipped[8 + at % (len(packet) - 8)] ^= 1 << bit
    assert receiver.open(bytes(flipped), 0.0) is None
    assert receiver.open_many([bytes(flipped), packet[:40], packet[:-1]], 0.0) in ([], [data])
    assert receiver.forged >= 2
    if len(packet) > 40:
        assert receiver.open(packet, 0.0) == data


def test_seal_and_seal_many_are_one_stream() -> None:
    one, two = ends()[0], ends()[0]
    texts = [b"a", b"", b"c" * 1400]
    assert one.seal_many(texts) == [two.seal(text) for text in texts]
    assert one.seal(b"next") == two.seal_many([b"next"])[0]


def test_keys_die_of_age_and_of_use() -> None:
    sender, receiver = ends()
    packet = sender.seal(b"late")
    assert receiver.open(packet, REJECT_AFTER_S) is None
    assert receiver.open_many([packet], REJECT_AFTER_S) == []
    assert sender.is_alive(REJECT_AFTER_S - 0.1)
    assert not sender.is_alive(REJECT_AFTER_S)
    sender.sent = MESSAGES_MAX
    assert not sender.is_alive(0.0)


def test_a_wiped_session_opens_nothing_and_a_cooled_one_goes_on() -> None:
    sender, receiver = ends()
    packets = sender.seal_many([b"a", b"b"])
    assert receiver.open(packets[0], 0.0) == b"a"
    receiver.cool()
    assert receiver.open(packets[1], 0.0) == b"b"
    receiver.wipe()
    assert not receiver.is_alive(0.0)
    assert receiver.open(packets[1], 0.0) is None
    assert not any(receiver._keys)
