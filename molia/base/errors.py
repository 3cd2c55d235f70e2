"""Every way in which Molia fails: one class per remedy, and one table for its three faces.

A class's docstring is the remedy. `OUTCOMES` gives each class its problem code (HTTP bodies, JSON
output), its HTTP status and its exit code; the API and the CLI both read it and nothing else does.
A class without a row of its own takes its nearest ancestor's.
"""

from collections.abc import Sequence
from typing import NamedTuple


class MoliaError(Exception):
    """Something promised was not done. `hint` names the next action, when there is one."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


# ---------------------------------------------------------------------------- what a client sent


class BadInput(MoliaError):
    """The request itself is wrong: mend it and send it again."""


class BadCid(BadInput):
    """The text is no CID and no content hash: check how it was copied."""

    def __init__(self, text: str) -> None:
        shown = text[:80].encode("ascii", "backslashreplace").decode()
        super().__init__(
            f"not a CID: {shown!r}",
            hint="a CID looks like bafkr4i… or bafyr4i…, a content hash has 64 hex digits",
        )


class BadPeerKey(BadInput):
    """The text is no peer key: check how it was copied."""

    def __init__(self, text: str) -> None:
        shown = text[:80].encode("ascii", "backslashreplace").decode()
        super().__init__(f"not a peer key: {shown!r}")


class BadAddress(BadInput):
    """The text is no peer's address: it looks like `molia://<peer key>@<host>:<port>`."""

    def __init__(self, text: str) -> None:
        shown = text[:120].encode("ascii", "backslashreplace").decode()
        super().__init__(
            f"not a peer's address: {shown!r}",
            hint="an address looks like molia://b…@host:port, an IPv6 host stands in brackets",
        )


class BadManifest(BadInput):
    """The bytes are no version 1 manifest: whoever gave them is wrong; ask another holder."""


class BadRecord(BadInput):
    """The bytes are no signed record of this network, or the signature does not hold: sign anew."""


class BadRecordAddress(BadInput):
    """The text names no record: it is `<peer key>`, `<peer key>/<name>`, or a name of our own."""

    def __init__(self, text: str, reason: str) -> None:
        shown = text[:120].encode("ascii", "backslashreplace").decode()
        super().__init__(
            f"not a record's address: {shown!r} ({reason})",
            hint="an address is <peer key>, <peer key>/<name>, or a name of the node's own",
        )


class BadLookupKey(BadInput):
    """The text is nothing that can be looked up: a peer key, a record, a CID or 64 hex digits."""

    def __init__(self, text: str) -> None:
        shown = text[:120].encode("ascii", "backslashreplace").decode()
        super().__init__(
            f"nothing to look up: {shown!r}",
            hint="it is a peer key, a record's address, a CID, or 64 hex digits",
        )


class BadConfig(BadInput):
    """A setting is unknown or out of its range: the message names it and what it may be."""

    def __init__(self, setting: str, allowed: str, *, hint: str = "") -> None:
        super().__init__(f"{setting}: {allowed}", hint=hint)
        self.setting = setting


class RangeNotSatisfiable(BadInput):
    """The range lies outside the blob: ask within its size."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the range lies outside the blob's {size} bytes")
        self.size = size


class BodyTooLarge(BadInput):
    """The body is larger than a blob or a field may be: split it."""


class RecordTooLarge(BodyTooLarge):
    """A record's value is larger than a record may be: store a blob and point to its CID."""

    def __init__(self, size_max: int) -> None:
        super().__init__(
            f"a record has at most {size_max} bytes",
            hint="store a blob and put its CID in the record",
        )


class DigestMismatch(BadInput):
    """The body does not hash to what the request asserts: it was damaged on its way; send again."""


class UploadCutOff(BadInput):
    """The client left before the body ended: nothing was stored; send again."""


class UploadStalled(UploadCutOff):
    """The client sent nothing for a minute: nothing was stored; send again."""


class PreconditionFailed(MoliaError):
    """`If-Match` names another version: read what is there and decide again."""


class Unauthorized(MoliaError):
    """The request needs the token of the node's home, or its Unix socket."""


class Forbidden(MoliaError):
    """A web page of another origin asked; only the node's own pages and programs may."""


class Misdirected(MoliaError):
    """The Host header names someone else: add the name to `api.allowed_hosts` if it is ours."""


class MethodNotAllowed(BadInput):
    """The route exists and does not take this method."""


class Conflict(MoliaError):
    """What is asked does not fit the present state, such as cancelling a finished job."""


class RecordStale(Conflict):
    """The network holds a later record of this address: read it, and sign one with a higher seq."""

    def __init__(self, held_seq: int) -> None:
        super().__init__(
            f"the network holds a later record of this address, with seq {held_seq}",
            hint="read it, and put one with a higher seq",
        )
        self.held_seq = held_seq


# ---------------------------------------------------------------------------- what is not there


class NotFound(MoliaError):
    """The search was completed and the thing is not there."""


class BlobNotFound(NotFound):
    """No such blob is kept here."""

    def __init__(self, ref: object) -> None:
        super().__init__(f"no blob {ref} on this node", hint="molia ls shows what is kept here")


class JobNotFound(NotFound):
    """No such job: it never was, or it ended more than 7 days ago."""

    def __init__(self, job: str) -> None:
        super().__init__(f"no job {job[:40]!r}", hint="GET /jobs lists them")


class RecordNotFound(NotFound):
    """The nodes that would hold the record were asked, and none does."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"no record at {address}", hint="a record lives 24 hours after its last put"
        )


class NoProviders(NotFound):
    """The nodes that would know who has the blob were asked, and none does."""

    def __init__(self, ref: object) -> None:
        super().__init__(f"nobody says to have {ref}")


class PeerNotFound(NotFound):
    """No address of the peer is known, and none was found: name it as a `molia://` address."""

    def __init__(self, peer: object) -> None:
        super().__init__(
            f"no address of {peer} was found", hint="name it as molia://<peer key>@<host>:<port>"
        )


class NotCached(MoliaError):
    """`Cache-Control: only-if-cached` was asked and the blob is not local."""


# ---------------------------------------------------------------------------- what broke


class BlobError(MoliaError):
    """A blob cannot be given out as it is."""


class GeometryError(BlobError):
    """Sizes or counts that no stripe can have: a mistake of the caller."""


class BlockCorrupt(BlobError):
    """A block does not hash to its leaf: drop it and take another of its stripe."""


class TooFewShares(BlobError):
    """Fewer than k blocks of a stripe are sound: nothing can be given out for it."""

    def __init__(self, ref: object, *, stripe_index: int, sound_count: int, needed: int) -> None:
        super().__init__(
            f"stripe {stripe_index} of {ref} is lost: {sound_count} of the {needed} blocks "
            "it needs are sound",
            hint="molia stat shows what is left; other stripes can still be read by range",
        )
        self.stripe_index, self.sound_count, self.needed = stripe_index, sound_count, needed


class SharesOutOfReach(BlobError):
    """Too few nodes that have shares of the blob answer: try again when they are back."""

    def __init__(
        self, ref: object, *, reachable: int, needed: int, asked: Sequence[tuple[str, str]]
    ) -> None:
        said = ", ".join(f"{who} {outcome}" for who, outcome in asked) or "nobody"
        super().__init__(
            f"{reachable} of {needed} needed shares of {ref} can be reached; asked {said}",
            hint="nodes that are offline may come back: try again later",
        )
        self.reachable, self.needed, self.asked = reachable, needed, tuple(asked)


class NoHolders(NotFound):
    """No node is known to have the blob: it was never put here, or all who had it let it go."""

    def __init__(self, ref: object, *, waited_s: float) -> None:
        super().__init__(f"nobody is known to have {ref}, after {waited_s:.0f} s of looking")


class BlobDamaged(BlobError):
    """A blob's whole copy, manifest or leaf lists are damaged beyond what is kept to mend them."""


class StoreError(MoliaError):
    """The local store cannot do what was asked."""


class NoSpace(StoreError):
    """The disk or the quota is full: delete something or give the store more room."""


class Damaged(StoreError):
    """Bytes on the disk do not match their checksum: rebuild them from other shares."""

    def __init__(self, message: str, *, kind: int = 0, key: bytes = b"", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.kind, self.key = kind, key


class ShardUnavailable(StoreError):
    """The shard takes no writes since its disk failed: check the disk, then restart the node."""


class WriteUnsettled(ShardUnavailable):
    """The worker of a shard ended while it wrote: look whether it was done, and try again."""

    def __init__(self, shard_index: int) -> None:
        super().__init__(
            f"the worker of shard {shard_index} ended while it wrote",
            hint="look whether it was done; trying again does no harm",
        )


class WorkerFailed(MoliaError):
    """A worker of the node could not start or ended early: the log says why."""


class StoreVersion(StoreError):
    """The store was written by another version: `molia migrate` says what to do."""


class StoreInvalid(StoreError):
    """The store's own description cannot be read: restore it from the copy in the home."""


class PeerRefused(MoliaError):
    """Another node will not do what it was asked: ask a third one."""


class PeerLacks(PeerRefused):
    """The peer does not have what it was asked for: ask another one."""


class Busy(MoliaError):
    """The node is at one of its bounds: try again after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: int = 5) -> None:
        super().__init__(message, hint=f"try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class ShuttingDown(Busy):
    """The node is stopping: try again when it is back."""


class TimedOut(MoliaError):
    """Someone did not answer in time: trying again may help."""


class LookupTimedOut(TimedOut):
    """Too few of the nodes that had to be asked answered in time: trying again may help."""


class PeerSilent(TimedOut):
    """The peer did not answer: it is down, elsewhere, or something between drops the packets."""


class NotJoined(MoliaError):
    """The node knows no other node: give it one with `dht.bootstrap`, or wait until it joins."""

    def __init__(self) -> None:
        super().__init__(
            "this node knows no other node yet",
            hint="molia run --bootstrap names one to begin with",
        )


class ChannelFault(MoliaError):
    """A peer broke the rules of streams: its channel ends; other peers have what it offered."""

    def __init__(self, reason: int) -> None:
        super().__init__(f"the peer broke the rules of streams (reason {int(reason)})")
        self.reason = reason


class Interrupted(MoliaError):
    """The user pressed Ctrl-C."""


# ---------------------------------------------------------------------------- the home, the CLI


class NotInitialised(MoliaError):
    """There is no node in this home: `molia init` makes one."""


class HomeLocked(MoliaError):
    """Another process holds this home: stop it first."""


class CannotListen(MoliaError):
    """The address is taken or is not this machine's: stop the other program or choose another."""


class HomeUnsafe(MoliaError):
    """Others can read or write the home or a key in it: mend the permissions."""


class NodeNotRunning(MoliaError):
    """No node answers: start it with `molia run`."""


class ConnectionLost(MoliaError):
    """The connection to the node broke: run the same command again."""


class BadAnswer(MoliaError):
    """What answered is no Molia node, or one of another version: check `--node`."""


class FileUnusable(BadInput):
    """A local file cannot be read or written: check its path."""


class FileDenied(FileUnusable):
    """A local file is closed to this user: check its permissions."""


class WouldOverwrite(MoliaError):
    """The file exists: name another or say `--force`."""


class Partial(MoliaError):
    """Some of what was asked was done; the messages before say what was not."""


class IntegrityFailure(MoliaError):
    """Damage was found that could not be healed."""


class Outcome(NamedTuple):
    """The three faces of an error class."""

    code: str
    status: int
    exit_code: int
    title: str


OUTCOMES: dict[type[MoliaError], Outcome] = {
    MoliaError: Outcome("failed", 500, 1, "The node failed"),
    BadInput: Outcome("bad-request", 400, 2, "The request is wrong"),
    BadCid: Outcome("bad-cid", 400, 2, "Not a CID"),
    BadPeerKey: Outcome("bad-peer-key", 400, 2, "Not a peer key"),
    BadAddress: Outcome("bad-address", 400, 2, "Not a peer's address"),
    BadManifest: Outcome("bad-manifest", 400, 6, "Not a manifest"),
    BadRecord: Outcome("bad-record", 400, 6, "Not a sound record"),
    BadRecordAddress: Outcome("bad-record-address", 400, 2, "Not a record's address"),
    BadLookupKey: Outcome("bad-lookup-key", 400, 2, "Nothing to look up"),
    BadConfig: Outcome("bad-config", 400, 2, "A setting is wrong"),
    RangeNotSatisfiable: Outcome("range-not-satisfiable", 416, 2, "Range outside the blob"),
    BodyTooLarge: Outcome("body-too-large", 413, 2, "The body is too large"),
    RecordTooLarge: Outcome("record-too-large", 413, 2, "The record is too large"),
    DigestMismatch: Outcome("digest-mismatch", 422, 6, "The body does not match its digest"),
    UploadCutOff: Outcome("upload-cut-off", 400, 1, "The upload was cut off"),
    UploadStalled: Outcome("upload-stalled", 408, 5, "The upload stalled"),
    PreconditionFailed: Outcome("precondition-failed", 412, 1, "A precondition does not hold"),
    Unauthorized: Outcome("unauthorized", 401, 8, "A token is needed"),
    Forbidden: Outcome("forbidden", 403, 8, "Refused to a page of another origin"),
    Misdirected: Outcome("misdirected", 421, 8, "Not a host name of this node"),
    MethodNotAllowed: Outcome("method-not-allowed", 405, 2, "Method not allowed"),
    Conflict: Outcome("conflict", 409, 1, "Not possible in this state"),
    RecordStale: Outcome("record-stale", 409, 1, "A later record exists"),
    NotFound: Outcome("not-found", 404, 4, "Not found"),
    BlobNotFound: Outcome("blob-not-found", 404, 4, "No such blob"),
    JobNotFound: Outcome("job-not-found", 404, 4, "No such job"),
    RecordNotFound: Outcome("record-not-found", 404, 4, "No such record"),
    NoProviders: Outcome("no-providers", 404, 4, "Nobody has it"),
    PeerNotFound: Outcome("peer-not-found", 404, 4, "No way to the peer"),
    NotCached: Outcome("not-cached", 412, 4, "Not kept locally"),
    BlobError: Outcome("blob-unreadable", 502, 6, "The blob cannot be read"),
    TooFewShares: Outcome("too-few-shares", 502, 6, "Too few sound shares"),
    SharesOutOfReach: Outcome("shares-out-of-reach", 504, 5, "Too few shares can be reached"),
    NoHolders: Outcome("no-holders", 404, 4, "Nobody has the blob"),
    BlobDamaged: Outcome("blob-damaged", 502, 6, "The blob is damaged"),
    StoreError: Outcome("store-failed", 503, 5, "The store failed"),
    NoSpace: Outcome("no-space", 507, 9, "No space left"),
    Damaged: Outcome("damaged", 502, 6, "Damage on the disk"),
    ShardUnavailable: Outcome("shard-unavailable", 503, 5, "A shard takes no writes"),
    WriteUnsettled: Outcome("write-unsettled", 503, 5, "A worker ended while it wrote"),
    WorkerFailed: Outcome("worker-failed", 503, 1, "A worker could not start"),
    StoreVersion: Outcome("needs-migration", 503, 14, "The store needs migration"),
    StoreInvalid: Outcome("store-invalid", 503, 6, "The store's description is unreadable"),
    PeerRefused: Outcome("peer-refused", 502, 5, "A peer refused"),
    Busy: Outcome("busy", 503, 5, "The node is busy"),
    ShuttingDown: Outcome("shutting-down", 503, 5, "The node is stopping"),
    TimedOut: Outcome("timed-out", 504, 5, "Timed out"),
    LookupTimedOut: Outcome("lookup-timed-out", 504, 5, "The lookup timed out"),
    PeerSilent: Outcome("peer-silent", 504, 5, "The peer does not answer"),
    NotJoined: Outcome("not-joined", 503, 5, "No other node is known"),
    Interrupted: Outcome("interrupted", 503, 130, "Interrupted"),
    NotInitialised: Outcome("not-initialised", 503, 10, "Not initialised"),
    HomeLocked: Outcome("home-locked", 503, 11, "Locked by another process"),
    CannotListen: Outcome("cannot-listen", 503, 1, "The API cannot listen"),
    HomeUnsafe: Outcome("home-unsafe", 503, 8, "Unsafe permissions"),
    NodeNotRunning: Outcome("node-not-running", 503, 13, "The node is not running"),
    ConnectionLost: Outcome("connection-lost", 503, 5, "The connection broke"),
    BadAnswer: Outcome("bad-answer", 502, 1, "Not a Molia node"),
    FileUnusable: Outcome("file-unusable", 400, 2, "A local file cannot be used"),
    FileDenied: Outcome("file-denied", 403, 8, "A local file is closed to this user"),
    WouldOverwrite: Outcome("would-overwrite", 409, 1, "The file exists"),
    Partial: Outcome("partial", 502, 3, "Partly done"),
    IntegrityFailure: Outcome("integrity-failure", 502, 6, "Damage that could not be healed"),
}


def outcome_of(error: MoliaError | type[MoliaError]) -> Outcome:
    """Return the row of an error or its class: its own, or its nearest ancestor's."""
    kind = error if isinstance(error, type) else type(error)
    for ancestor in kind.__mro__:
        if ancestor in OUTCOMES:
            return OUTCOMES[ancestor]
    raise AssertionError("MoliaError has a row")
