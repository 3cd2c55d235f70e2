"""Settings refuse what is out of range, and say so."""

import dataclasses
from collections.abc import Callable

import pytest

from molia.base import limits
from molia.base.config import (
    AdmissionConfig,
    ApiConfig,
    Config,
    DhtConfig,
    DurabilityConfig,
    LeaseConfig,
    LogConfig,
    StoreConfig,
    UdpConfig,
)
from molia.base.errors import BadConfig
from molia.base.ids import PeerKey

SECTIONS = (
    Config,
    ApiConfig,
    StoreConfig,
    LeaseConfig,
    DurabilityConfig,
    AdmissionConfig,
    DhtConfig,
    LogConfig,
)
BOOTSTRAP = f"molia://{PeerKey(bytes(32))}@[2001:db8::1]:7071"

BAD: list[tuple[str, Callable[[], object]]] = [
    ("api.auth", lambda: ApiConfig(auth="none")),
    ("api.loopback", lambda: ApiConfig(loopback="")),
    ("api.max_blob_bytes", lambda: ApiConfig(max_blob_bytes=0)),
    ("api.max_blob_bytes", lambda: ApiConfig(max_blob_bytes=limits.BLOB_SIZE_MAX + 1)),
    ("store.shards", lambda: StoreConfig(shards=-1)),
    ("store.shards", lambda: StoreConfig(shards=limits.SHARDS_MAX + 1)),
    ("store.quota_bytes", lambda: StoreConfig(quota_bytes=1)),
    ("store.reserve_bytes", lambda: StoreConfig(reserve_bytes=-1)),
    ("leases.default_s", lambda: LeaseConfig(default_s=59)),
    ("leases.sweep_s", lambda: LeaseConfig(sweep_s=0)),
    ("leases.min_age_s", lambda: LeaseConfig(min_age_s=-1)),
    ("durability.floor", lambda: DurabilityConfig(floor=5)),
    ("admission.handshake_percent", lambda: AdmissionConfig(handshake_percent=0)),
    ("admission.handshake_percent", lambda: AdmissionConfig(handshake_percent=101)),
    ("dht.bootstrap", lambda: DhtConfig(bootstrap=(BOOTSTRAP,) * (limits.BOOTSTRAP_MAX + 1))),
    ("dht.bootstrap", lambda: DhtConfig(bootstrap=("127.0.0.1:7071",))),
    ("dht.bootstrap", lambda: DhtConfig(bootstrap=(BOOTSTRAP, BOOTSTRAP + "x"))),
    ("dht.reachable", lambda: DhtConfig(reachable="maybe")),
    ("dht.snapshot_s", lambda: DhtConfig(snapshot_s=9)),
    ("dht.records_max", lambda: DhtConfig(records_max=999)),
    ("dht.records_max", lambda: DhtConfig(records_max=limits.RECORDS_MAX + 1)),
    ("log.level", lambda: LogConfig(level="loud")),
    ("log.format", lambda: LogConfig(format="xml")),
    ("network", lambda: Config(network="")),
    ("network", lambda: Config(network="é" * 33)),
    ("workers", lambda: Config(workers=65)),
    ("threads", lambda: Config(threads=257)),
]


@pytest.mark.parametrize(("setting", "make"), BAD, ids=[name for name, _ in BAD])
def test_a_setting_out_of_range_is_refused_by_its_name(
    setting: str, make: Callable[[], object]
) -> None:
    with pytest.raises(BadConfig) as caught:
        make()
    assert caught.value.setting == setting
    assert caught.value.message.startswith(f"{setting}: must be ")


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_section_has_defaults_and_cannot_be_changed(section: type) -> None:
    made = section()
    for field in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, getattr(made, field.name))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("198.51.100.7:7071", ("198.51.100.7", 7071)),
        ("[2001:db8::1]:1", ("2001:db8::1", 1)),
    ],
)
def test_an_external_address_is_a_numeric_host_and_a_port(
    text: str, address: tuple[str, int] | None
) -> None:
    assert UdpConfig(external=text).external_address == address


@pytest.mark.parametrize("text", ["example.org:7071", "1.2.3.4", "1.2.3.4:0", ":7071", "1.2.3.4:x"])
def test_what_is_no_external_address_is_refused(text: str) -> None:
    with pytest.raises(BadConfig):
        UdpConfig(external=text)


def test_the_defaults_listen_on_loopback_alone() -> None:
    for address in (*ApiConfig().listen, *UdpConfig().listen):
        host = address.rpartition(":")[0]
        assert host in ("127.0.0.1", "[::1]")


def test_a_list_to_begin_with_is_taken_as_it_is() -> None:
    assert DhtConfig(bootstrap=(BOOTSTRAP, BOOTSTRAP)).bootstrap == (BOOTSTRAP, BOOTSTRAP)
