"""A node's position follows from where it is."""

from molia.dht.contact import Space, bucket_index, routing_id

NETWORK = bytes(range(32))
KEY = bytes(31) + b"\5"


def test_the_top_of_a_routing_id_follows_from_the_network_it_is_reached_in() -> None:
    one, same, other = (routing_id(NETWORK, bytes((9, 8, 7, last)), KEY) for last in (1, 2, 3))
    assert one == same == other
    moved = routing_id(NETWORK, bytes((9, 8, 6, 1)), KEY)
    assert moved >> 224 != one >> 224
    assert moved % (1 << 224) == one % (1 << 224)


def test_an_address_prefix_has_at_most_eight_places() -> None:
    tops = {routing_id(NETWORK, b"\x09\x08\x07\x01", bytes(30) + n.to_bytes(2)) >> 224
            for n in range(200)}  # fmt: skip
    assert len(tops) == 8


def test_local_and_unbound_nodes_are_where_their_key_puts_them() -> None:
    assert routing_id(NETWORK, b"\x7f\0\0\1", KEY) == routing_id(NETWORK, b"\x0a\0\0\1", KEY)
    free = routing_id(NETWORK, b"\x09\x08\x07\x01", KEY, bind_ids=False)
    assert free == routing_id(NETWORK, b"\x7f\0\0\1", KEY)


def test_a_contact_is_made_once_and_never_of_an_impossible_address() -> None:
    space = Space(NETWORK)
    contact = space.contact(KEY, ("9.8.7.6", 7071))
    assert contact is space.contact(KEY, ("9.8.7.6", 7071))
    assert contact is not None
    assert contact.group == b"\x04\x09\x08\x07"
    for host, port in (("224.0.0.1", 1), ("0.0.0.0", 1), ("9.8.7.6", 0), ("9.8.7.6", 65_536),
                       ("a.name", 1), ("255.255.255.255", 1)):  # fmt: skip
        assert space.contact(KEY, (host, port)) is None, (host, port)


def test_bucket_0_is_the_far_half() -> None:
    assert bucket_index(own=0, other=1 << 255) == 0
    assert bucket_index(own=0, other=1) == 255
