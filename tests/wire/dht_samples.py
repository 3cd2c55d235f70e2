"""Messages of the DHT: those of the vectors, and strategies for any."""

from hypothesis import strategies as st

from molia.base import limits
from molia.wire import dht_messages as dht
from molia.wire.bodies import Contact

KEY = bytes(range(32))
EIGHT = bytes(range(1, 9))
MINE, SIX = ("192.0.2.1", 4001), ("2001:db8::1", 4001)

ipv4 = st.tuples(st.integers(1, 223), *[st.integers(0, 255)] * 3).map(
    lambda p: ".".join(map(str, p))
)
ipv6 = st.ip_addresses(v=6, network="2000::/3").map(str)
ports = st.integers(1, 65535)
addresses = st.tuples(ipv4 | ipv6, ports)
keys = st.binary(min_size=32, max_size=32)
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
contacts = st.builds(Contact, keys, addresses)
eights = st.binary(min_size=8, max_size=8)
many_contacts = st.lists(contacts, max_size=limits.NODES_CONTACTS_MAX).map(tuple)
signed = st.binary(min_size=1, max_size=60) | st.just(bytes(limits.RECORD_SIZE_MAX))
provider = st.binary(min_size=1, max_size=40) | st.just(bytes(limits.PROVIDER_RECORD_SIZE_MAX))
providers = st.lists(provider, max_size=limits.PROVIDERS_PER_MESSAGE_MAX).map(tuple)
pages = st.integers(0, limits.PROVIDER_PAGES_MAX - 1)
bits = st.integers(1, 256)
entries = st.integers(1, limits.DIGEST_ENTRIES_MAX).map(lambda count: bytes(range(13)) * count)
dht_messages: st.SearchStrategy[dht.DhtMessage] = st.one_of(
    st.builds(dht.FindNode, keys),
    st.builds(dht.Nodes, many_contacts),
    st.builds(
        dht.FindRegion, center=keys, radius_bits=bits, salt=eights,
        cursor=st.integers(0, limits.REGION_CURSOR_MAX),
    ),
    st.builds(dht.Get, keys, st.none() | u64),
    st.builds(dht.Record, st.just(b"") | signed),
    st.builds(dht.Miss, many_contacts),
    st.builds(dht.Put, signed, st.none() | u64),
    st.builds(dht.PutReply, u32, st.just(b"") | signed),
    st.builds(dht.AddProvider, providers.filter(bool)),
    st.builds(dht.Added, st.lists(u32, min_size=1, max_size=4).map(tuple)),
    st.builds(dht.GetProviders, keys, pages, st.just(b"") | eights),
    st.builds(dht.Providers, records=providers, total=st.integers(4, 64), page=pages),
    st.builds(dht.Digest, entries),
    st.builds(dht.DigestReply, st.binary(max_size=10)),
    st.builds(dht.Pull, bits),
    st.builds(dht.Pulled, st.booleans()),
    st.builds(dht.Reach, eights),
    st.builds(dht.Reached, u32),
    st.builds(dht.Dial, key=keys, address=addresses, nonce=eights),
    st.builds(dht.Dialed, u32),
)  # fmt: skip

TOP = 2**64 - 1
LONG = b"x" * limits.RECORD_SIZE_MAX
FOUR = (b"x" * limits.PROVIDER_RECORD_SIZE_MAX,) * 4
DHT_EXPECTED: list[dht.DhtMessage] = [
    dht.FindNode(KEY),
    dht.Nodes(()),
    dht.Nodes((Contact(KEY, MINE), Contact(KEY, SIX))),
    dht.FindRegion(center=KEY, radius_bits=244, salt=EIGHT),
    dht.FindRegion(center=KEY, radius_bits=1, salt=EIGHT, cursor=4096),
    dht.Get(KEY),
    dht.Get(KEY, 0),
    dht.Get(KEY, TOP),
    dht.Record(b""),
    dht.Record(b"short"),
    dht.Record(LONG),
    dht.Miss((Contact(KEY, MINE),)),
    dht.Put(b"signed"),
    dht.Put(b"signed", 0),
    dht.Put(LONG, TOP),
    dht.PutReply(dht.PutCode.OK),
    dht.PutReply(dht.PutCode.CONFLICT, LONG),
    dht.AddProvider((b"one",)),
    dht.AddProvider(FOUR),
    dht.Added((dht.AddCode.OK, dht.AddCode.BAD, 2**32 - 1)),
    dht.GetProviders(KEY),
    dht.GetProviders(KEY, 15, EIGHT),
    dht.Providers(records=(), total=0, page=0),
    dht.Providers(records=FOUR, total=64, page=15),
    dht.Digest(b"x" * 13),
    dht.Digest(b"x" * 1040),
    dht.DigestReply(b""),
    dht.DigestReply(b"abcdefghij"),
    dht.Pull(256),
    dht.Pulled(accepted=False),
    dht.Pulled(accepted=True),
    dht.Reach(EIGHT),
    dht.Reached(dht.DialCode.SILENT),
    dht.Dial(key=KEY, address=MINE, nonce=EIGHT),
    dht.Dialed(dht.DialCode.LATER),
]
