"""The JSON objects about what nobody wants any more."""

from dataclasses import asdict

from pydantic import StrictBool

from molia.api.schemas import Count, Model
from molia.base import views


class GarbageRequest(Model):
    """With `dry_run` nothing is removed."""

    dry_run: StrictBool = False


class Garbage(Model):
    """What went, or would go. `doubt` says why nothing goes for its age at the moment."""

    blobs: Count
    blob_bytes: Count
    trashed: Count
    trashed_bytes: Count
    held: Count
    held_bytes: Count
    doubt: str

    @classmethod
    def of(cls, found: views.Garbage) -> "Garbage":
        """Return the object for what was found."""
        return cls.model_validate(asdict(found))
