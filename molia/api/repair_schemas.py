"""The JSON objects about repairs."""

from dataclasses import asdict
from typing import Literal

from pydantic import StrictBool

from molia.api.schemas import CidText, Count, Model
from molia.base.views import RepairsView, RepairView


class RepairRequest(Model):
    """A blob to repair. `dry_run` only looks how it stands."""

    cid: CidText
    dry_run: StrictBool = False


class Repair(Model):
    """A blob that lacks shares, or was asked about."""

    cid: str
    state: Literal["waiting", "running", "whole", "lost"]
    reachable: Count
    needed: Count
    missing: Count
    due_s: float | None

    @classmethod
    def of(cls, view: RepairView) -> "Repair":
        """Return the object for a blob."""
        return cls.model_validate({**asdict(view), "cid": str(view.cid)})


class Repairs(Model):
    """What the node repairs."""

    enabled: bool
    repairs: list[Repair]
    repaired: Count
    shares_made: Count
    failed: Count

    @classmethod
    def of(cls, view: RepairsView) -> "Repairs":
        """Return the object for all of them."""
        return cls(
            enabled=view.enabled,
            repairs=[Repair.of(each) for each in view.repairs],
            repaired=view.repaired,
            shares_made=view.shares_made,
            failed=view.failed,
        )
