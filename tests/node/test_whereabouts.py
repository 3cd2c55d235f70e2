"""What is remembered of who has a blob, and how much of it."""

from molia.base.cid import Cid, Codec
from molia.base.crypto import Identity
from molia.base.limits import SOURCES_MAX
from molia.blobs.manifest import cid_of_bytes
from molia.dht import providers
from molia.dht.providers import Kind, Provided
from molia.node.whereabouts import Find
from molia.sim.entropy import SeededEntropy
from tests.dht.world import NETWORK

NAMED = cid_of_bytes(b"content")
OWN = Identity(bytes(32)).peer_key
NOW_S = 1_800_000_000


def test_manifests_that_strangers_name_for_a_content_are_remembered_up_to_a_bound() -> None:
    find, count = Find(NAMED), SOURCES_MAX + 20
    manifests = [Cid(Codec.MANIFEST, n.to_bytes(32, "big")) for n in range(count)]
    identity, address = Identity(bytes((1,)) * 32), ("127.0.0.1", 1)
    for manifest in manifests:
        told = Provided(b"", (address,), manifest)
        record = providers.announce(
            identity, NETWORK, NAMED, Kind.BINDING, told, prefix=b"\x7f\x00\x00\x01\x00\x01",
            issued=NOW_S, expires=NOW_S + 600, entropy=SeededEntropy(1),
        )  # fmt: skip
        find.take([(record, told)], own=OWN)
    assert list(find.hints) == manifests[:SOURCES_MAX]
