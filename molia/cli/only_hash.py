"""`molia put --only-hash`: the CID that a file would get, worked out here and stored nowhere.

The same core as the node's names the blob, so the answer is the node's answer.
"""

from collections.abc import Iterator

from molia.base.errors import MoliaError
from molia.blobs import upload as core
from molia.cli.output import Bar


def hash_pieces(
    pieces: Iterator[bytes | memoryview], size: int | None, bar: Bar
) -> dict[str, object]:
    """Return the CID, size and content hash of the bytes. Raises BodyTooLarge."""
    upload = core.Upload(size=size)
    for piece in pieces:
        upload.on_bytes(piece)  # smaller than a stripe: the core never holds more than two
        _answer(upload)
        bar.advance(len(piece))
    upload.on_end()
    done = _answer(upload)
    if done is None:
        raise MoliaError("the blob has no name")
    return {"cid": str(done.cid), "size": done.size, "content": done.content.hex()}


def _answer(upload: core.Upload) -> core.Done | None:
    """Do what the core asks, but keep nothing; return its end when it has come."""
    done: core.Done | None = None
    while effects := upload.take_effects():
        if any(isinstance(effect, core.StoreLeaves) for effect in effects):
            upload.on_leaves_stored()  # once for all of them
        for effect in effects:
            match effect:
                case core.Encode():
                    upload.on_encoded(core.encode(effect))
                case core.HashContent():
                    core.hash_content(effect)
                    upload.on_hashed()
                case core.Store():
                    upload.on_stored(effect.stripe_index)
                case core.Failed():
                    raise effect.error
                case core.Done():
                    done = effect
    return done
