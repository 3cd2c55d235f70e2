"""Every setting: frozen, with its default, its range and what moving it costs.

These dataclasses are the only definition of a setting. `cli/settings.py` reads flags, environment
and `molia.toml` into them; `docs/reference/settings.md` is generated from them. A field whose name
ends in `_bytes` takes `10GiB` or a number, one that ends in `_s` takes `30s`, `2h`, `30d` or a
number of seconds.
"""

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from molia.base import limits
from molia.base.errors import BadConfig

_BOOTSTRAP: Final = re.compile(r"molia://b[a-z2-7]{55}@[^@\s]{1,260}:[0-9]{1,5}")


def require(holds: bool, setting: str, allowed: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raise BadConfig naming `setting` and what it may be, unless `holds`."""
    if not holds:
        raise BadConfig(setting, f"must be {allowed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """The local HTTP API."""

    listen: tuple[str, ...] = ("127.0.0.1:7070", "[::1]:7070")
    """TCP addresses. One that is not loopback needs `auth = "required"`."""
    auth: str = "local"
    """`local`: local programs may put and get without a token. `required`: all need it."""
    loopback: str = "restricted"
    """`trusted` lets local programs delete and control without a token; any local user can."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names beside localhost under which the API answers, such as a reverse proxy's."""
    max_blob_bytes: int = limits.BLOB_SIZE_MAX
    """Largest body that a put takes; a larger one gets 413."""
    socket: str = ""
    """Path of the Unix socket. Empty: `api.sock` in the home."""

    def __post_init__(self) -> None:
        require(self.auth in ("local", "required"), "api.auth", "local or required")
        require(self.loopback in ("restricted", "trusted"), "api.loopback", "restricted or trusted")
        in_range = 1 <= self.max_blob_bytes <= limits.BLOB_SIZE_MAX
        require(in_range, "api.max_blob_bytes", "1 byte to 1 TiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """The store on this machine's disk."""

    path: str = ""
    """Directory of the store. Empty: `data` in the home. Local disks only: LMDB needs mmap."""
    shards: int = 0
    """Logs written side by side; fixed at init. 0: the physical cores, down to a power of two."""
    quota_bytes: int = 0
    """Disk bytes the store may use, recorded at init. 0: half of what is free then."""
    reserve_bytes: int = 64 * limits.MIB
    """Free disk space below which puts are refused, so that deletes and checkpoints still work."""
    offer_bytes: int = 0
    """Space for shares that other nodes bring, inside the quota. 0: none is offered."""
    offer_owner_percent: int = 50
    """How much of it one owner may have. Less keeps one from taking the place of all others."""
    cache_percent: int = 10
    """How much of the quota may hold what was read from other nodes; what was read first goes
    first. 0: nothing is cached."""

    trash_s: int = 0
    """How long a removed blob can be brought back. Its space returns only then. 0: not at all."""

    def __post_init__(self) -> None:
        require(0 <= self.trash_s <= 365 * 86_400, "store.trash_s", "0 to 1 year")
        shards_fit = 0 <= self.shards <= limits.SHARDS_MAX
        require(shards_fit, "store.shards", f"0 to {limits.SHARDS_MAX}")
        quota_fits = self.quota_bytes == 0 or self.quota_bytes >= 256 * limits.MIB
        require(quota_fits, "store.quota_bytes", "0, or at least 256 MiB")
        require(self.reserve_bytes >= 0, "store.reserve_bytes", "0 or more")
        require(self.offer_bytes >= 0, "store.offer_bytes", "0 or more")
        share_fits = 1 <= self.offer_owner_percent <= 100
        require(share_fits, "store.offer_owner_percent", "1 to 100")
        require(0 <= self.cache_percent <= 90, "store.cache_percent", "0 to 90")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseConfig:
    """How long things are kept."""

    default_s: int = 30 * 86_400
    """Lease of a blob that is put with `pin=false`; pinned blobs are renewed for as long."""
    sweep_s: int = 60
    """How often leases that ran out are looked for. Less gives space back sooner, costs a scan."""
    min_age_s: int = 3_600
    """Nothing younger goes, whatever its lease says, unless the put asked for `expires`."""

    def __post_init__(self) -> None:
        require(60 <= self.default_s <= 10 * 365 * 86_400, "leases.default_s", "1 min to 10 years")
        require(1 <= self.sweep_s <= 86_400, "leases.sweep_s", "1 s to 1 day")
        require(0 <= self.min_age_s <= 30 * 86_400, "leases.min_age_s", "0 to 30 days")


@dataclass(frozen=True, slots=True, kw_only=True)
class DurabilityConfig:
    """What counts as stored well enough."""

    floor: int = 0
    """Nodes that may vanish before a put is called `degraded`. A lone node survives 0."""

    def __post_init__(self) -> None:
        require(0 <= self.floor <= 4, "durability.floor", "0 to 4")


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairConfig:
    """Watching the blobs that are held or pinned here, and making again what others lost."""

    enabled: bool = True
    """`false`: this node audits and repairs nothing. What it holds depends on others then."""
    look_s: int = 60
    """How often a blob's other holders are looked at, if there are few blobs; of many about ten a
    second. Less finds out sooner who is gone, and asks more."""
    grace_13_s: int = 86_400
    """With 13 of 14 shares left: the longest time that a holder may be away; a sixth of it for one
    that was never away for long. Less repairs what would have come back."""
    grace_12_s: int = 3_600
    """The longest with 12 or 11 left."""
    grace_urgent_s: int = 60
    """With 10 left, and for shares that are lost and not only away."""
    takeover_s: int = 600
    """After so long without a claim the next holder in rank repairs. Less repairs twice what a slow
    holder was about to."""
    budget_bytes: int = 4_000_000
    """What repairs may read and write a second, in the long run."""

    def __post_init__(self) -> None:
        require(1 <= self.look_s <= 86_400, "repair.look_s", "1 s to 1 day")
        graces = (self.grace_13_s, self.grace_12_s, self.grace_urgent_s)
        month_s = 30 * 86_400
        for name, grace_s in zip(("13", "12", "urgent"), graces, strict=True):
            require(1 <= grace_s <= month_s, f"repair.grace_{name}_s", "1 s to 30 days")
        require(1 <= self.takeover_s <= 86_400, "repair.takeover_s", "1 s to 1 day")
        fits = 1_000 <= self.budget_bytes <= 10**12
        require(fits, "repair.budget_bytes", "1000 to 10^12")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionConfig:
    """Who gets a session when many want one."""

    handshake_percent: int = 20
    """Percent of a worker's core that handshakes may take before strangers have to prove their
    address and solve puzzles. More serves more strangers and leaves less for everybody else."""
    asn_database: str = ""
    """Path of an .mmdb file that gives the ASN of an address, so that under load no operator gets
    more than a quarter. Empty: an IPv4 /16 or IPv6 /32 stands for the operator."""

    def __post_init__(self) -> None:
        in_range = 1 <= self.handshake_percent <= 100
        require(in_range, "admission.handshake_percent", "1 to 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class DhtConfig:
    """How the node finds others and what it does for them."""

    bootstrap: tuple[str, ...] = ()
    """Nodes to begin with, as `molia://<peer key>@<host>:<port>`. Once joined the node remembers
    others, and needs these only when none of them answers."""
    lan: bool = False
    """Look for nodes on the local network too. It tells everybody there that a node runs here."""
    reachable: str = "auto"
    """`auto`: others are asked whether they reach this node, and it serves when they do. `yes`
    serves at once; wrongly said, others waste their time on it. `no`: it asks and never serves."""
    snapshot_s: int = 600
    """How often the routing table is kept on disk. Less finds the way back sooner after a crash."""
    records_max: int = 250_000
    """Records of others that are held, about 1 KiB each. More serves a larger network."""

    def __post_init__(self) -> None:
        few = len(self.bootstrap) <= limits.BOOTSTRAP_MAX
        require(few, "dht.bootstrap", f"at most {limits.BOOTSTRAP_MAX} addresses")
        spelled = all(_BOOTSTRAP.fullmatch(address) for address in self.bootstrap)
        require(spelled, "dht.bootstrap", "addresses like molia://b…@host:port")
        require(self.reachable in ("auto", "yes", "no"), "dht.reachable", "auto, yes or no")
        require(10 <= self.snapshot_s <= 86_400, "dht.snapshot_s", "10 s to 1 day")
        held = 1_000 <= self.records_max <= limits.RECORDS_MAX
        require(held, "dht.records_max", f"1000 to {limits.RECORDS_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """What the node says on stderr."""

    level: str = "info"
    """`debug`, `info`, `warning` or `error`."""
    format: str = "auto"
    """`text`, `json`, or `auto`: text on a terminal, json elsewhere."""

    def __post_init__(self) -> None:
        levels = ("debug", "info", "warning", "error")
        require(self.level in levels, "log.level", "debug, info, warning or error")
        require(self.format in ("auto", "text", "json"), "log.format", "auto, text or json")


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpConfig:
    """The port where nodes talk to each other."""

    listen: tuple[str, ...] = ("127.0.0.1:7071",)
    """UDP addresses. Loopback alone reaches nobody else; `0.0.0.0:7071` is open to the network."""
    external: str = ""
    """`HOST:PORT` with a numeric host under which others reach this node, if you know it: behind a
    port forwarding, say. The identity proof is computed for it. Empty: not known."""

    def __post_init__(self) -> None:
        few = len(self.listen) <= limits.UDP_ADDRESSES_MAX
        require(few, "udp.listen", f"at most {limits.UDP_ADDRESSES_MAX} addresses")
        known = not self.external or self.external_address is not None
        require(known, "udp.external", "HOST:PORT with a numeric host, or empty")

    @property
    def external_address(self) -> tuple[str, int] | None:
        """The host and port of `external`; None when it is empty or none."""
        host, _, port = self.external.rpartition(":")
        try:
            numeric = str(ip_address(host.strip("[]")))
        except ValueError:
            return None
        return (numeric, int(port)) if port.isdecimal() and 0 < int(port) < 65_536 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a node."""

    network: str = "molia"
    """Name of the network; nodes of different networks never meet."""
    bind_ids: bool = True
    """Positions in the DHT follow from addresses, so that nobody chooses where they land. `false`
    suits a network whose many nodes share few address ranges and trust each other; it makes
    another network: nodes that differ in it never meet."""
    workers: int = 0
    """Processes of the node. 0: the physical cores. 1: no second process and no parent."""
    threads: int = 0
    """Threads of a worker that hash, code and read. 0: its part of the cores and two more."""
    api: ApiConfig = field(default_factory=ApiConfig)
    udp: UdpConfig = field(default_factory=UdpConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    leases: LeaseConfig = field(default_factory=LeaseConfig)
    durability: DurabilityConfig = field(default_factory=DurabilityConfig)
    repair: RepairConfig = field(default_factory=RepairConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    dht: DhtConfig = field(default_factory=DhtConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        require(1 <= len(self.network.encode()) <= 64, "network", "1 to 64 bytes")
        workers_fit = 0 <= self.workers <= limits.WORKERS_MAX
        require(workers_fit, "workers", f"0 to {limits.WORKERS_MAX}")
        require(0 <= self.threads <= 256, "threads", "0 to 256")
