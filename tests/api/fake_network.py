"""The network as a fake node sees it: records in a table, two peers, lookups of a few steps."""

import asyncio
from collections.abc import AsyncIterator

from molia.base.cid import Cid, Codec, Ref
from molia.base.errors import (
    BadLookupKey,
    BadRecord,
    BlobNotFound,
    MoliaError,
    NoProviders,
    PeerNotFound,
    PreconditionFailed,
    RecordNotFound,
    RecordStale,
)
from molia.base.ids import PeerKey
from molia.base.record_ref import RecordRef
from molia.base.views import (
    Announced,
    LookupEvent,
    PeerState,
    PeerView,
    PingView,
    ProviderKind,
    ProviderView,
    RecordPut,
    RecordView,
    RepairsView,
    RepairView,
)

OWN = PeerKey(bytes(31) + b"\x01")
OTHER = PeerKey(bytes(31) + b"\x02")
EXPIRES = 1_800_086_400
SIGNED = b"signed:"
"""What begins so is a sound record to the fake; then come its seq and a space."""


class FakeNetwork:
    """The part of NodeService that asks other nodes."""

    def __init__(self) -> None:
        self.records: dict[str, RecordView] = {}
        self.seqs_asked: list[int | None] = []
        self.quorums_asked: list[bool] = []
        self.network_error: MoliaError | None = None
        self.lookup_error: MoliaError | None = None
        self.lookup_waits = asyncio.Event()
        self.lookup_waits.set()
        self.lookups_open = 0

    def has_blob(self, ref: Ref) -> bool:
        """Say whether the blob part of the node has it."""
        return False

    def _fail(self) -> None:
        if self.network_error is not None:
            raise self.network_error

    def keep_record(self, address: str, value: bytes, seq: int) -> RecordPut:
        before = self.records.get(address)
        self.records[address] = RecordView(
            address=address, value=value, seq=seq, expires_unix_s=EXPIRES
        )
        return RecordPut(
            address=address, seq=seq, expires_unix_s=EXPIRES, acks=20, created=before is None
        )

    async def put_record(self, name: str, value: bytes, *, if_seq: int | None) -> RecordPut:
        self._fail()
        self.seqs_asked.append(if_seq)
        address = f"{OWN}/{name}"
        held = self.records[address].seq if address in self.records else 0
        if if_seq is not None and if_seq != held:
            raise PreconditionFailed("the record has another seq", hint=f'the ETag is "{held}"')
        return self.keep_record(address, value, held + 1)

    async def publish_record(self, encoded: bytes) -> RecordPut:
        self._fail()
        seq, space, value = encoded.removeprefix(SIGNED).partition(b" ")
        if not encoded.startswith(SIGNED) or not space or not seq.isdigit():
            raise BadRecord("the signature does not hold")
        held = self.records.get("ab" * 32)
        if held is not None and held.seq > int(seq):
            raise RecordStale(held.seq)
        return self.keep_record("ab" * 32, value, int(seq))

    async def get_record(self, ref: RecordRef, *, consistent: bool) -> RecordView:
        self._fail()
        self.quorums_asked.append(consistent)
        address = str(ref.under(OWN))
        if address not in self.records:
            raise RecordNotFound(address)
        return self.records[address]

    async def own_records(self) -> tuple[RecordView, ...]:
        return tuple(view for _, view in sorted(self.records.items()) if "/" in view.address)

    async def providers(self, ref: Ref) -> tuple[ProviderView, ...]:
        self._fail()
        if not self.has_blob(ref):
            raise NoProviders(ref)
        return (
            ProviderView(
                peer=str(OTHER),
                kind=ProviderKind.SHARE,
                shares=(0, 13),
                addresses=(f"molia://{OTHER}@198.51.100.7:7071",),
                expires_unix_s=EXPIRES,
            ),
        )

    async def announce(self, ref: Ref) -> Announced:
        self._fail()
        if not self.has_blob(ref):
            raise BlobNotFound(ref)
        cid = ref if isinstance(ref, Cid) else Cid(Codec.RAW, ref.digest)
        return Announced(cid=cid, locations=2, acks=40, walks=2)

    async def repairs(self) -> RepairsView:
        cid = Cid(Codec.MANIFEST, bytes(32))
        waiting = RepairView(
            cid=cid, state="waiting", reachable=13, needed=10, missing=1, due_s=3_600.5
        )
        return RepairsView(enabled=True, repairs=(waiting,), repaired=2, shares_made=5, failed=0)

    async def start_repair(self, ref: Ref, *, dry_run: bool) -> RepairView:
        self._fail()
        if not self.has_blob(ref):
            raise BlobNotFound(ref)
        cid = ref if isinstance(ref, Cid) else Cid(Codec.RAW, ref.digest)
        return RepairView(
            cid=cid, state="waiting" if dry_run else "running", reachable=12, needed=10, missing=2,
            due_s=None,
        )  # fmt: skip

    async def peers(self) -> tuple[PeerView, ...]:
        return (
            PeerView(
                peer=str(OTHER),
                address=f"molia://{OTHER}@198.51.100.7:7071",
                state=PeerState.VERIFIED,
                rtt_ms=12.5,
                age_s=3_700.0,
                has_session=True,
                bucket=0,
            ),
            PeerView(
                peer=str(OWN),
                address=f"molia://{OWN}@[2001:db8::7]:7071",
                state=PeerState.SESSION,
                rtt_ms=None,
                age_s=1.0,
                has_session=True,
                bucket=None,
            ),
        )

    async def ping(self, peer: str) -> PingView:
        self._fail()
        key = peer.removeprefix("molia://").partition("@")[0]
        if PeerKey.parse(key) != OTHER:
            raise PeerNotFound(key)
        return PingView(
            peer=key,
            address=f"molia://{OTHER}@198.51.100.7:7071",
            rtt_ms=12.5,
            seen_address="203.0.113.9:7071",
            clock_offset_s=-0.25,
            serves=True,
        )

    async def lookup(self, key: str, *, trace: bool) -> AsyncIterator[LookupEvent]:
        if key == "nothing":
            raise BadLookupKey(key)
        self._fail()
        self.lookups_open += 1
        try:
            if trace:
                yield LookupEvent(kind="ask", data={"peer": str(OTHER), "at_ms": 0.0})
                await self.lookup_waits.wait()
                yield LookupEvent(kind="answer", data={"peer": str(OTHER), "at_ms": 12.5})
            if self.lookup_error is not None:
                raise self.lookup_error
            closest = [{"peer": str(OTHER), "address": "198.51.100.7:7071"}]
            yield LookupEvent(
                kind="done",
                data={"key": key, "closest": closest, "rpcs": 3, "took_ms": 12.5, "why": "found"},
            )
        finally:
            self.lookups_open -= 1
