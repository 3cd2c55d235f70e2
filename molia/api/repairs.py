"""What the node repairs: the queue, and a repair now."""

from fastapi import FastAPI

from molia.api.openapi import problems
from molia.api.repair_schemas import Repair, RepairRequest, Repairs
from molia.base.cid import parse_ref
from molia.node.service import NodeService


def add_repair_routes(app: FastAPI, service: NodeService) -> None:
    """Register the routes on `app`."""

    @app.get("/repair", tags=["network"])
    async def list_repairs() -> Repairs:
        """List the blobs that lack shares, the most urgent first, and what was repaired so far."""
        return Repairs.of(await service.repairs())

    @app.post("/repair", tags=["network"], status_code=202, responses=problems(404, 413, 504))
    async def start_repair(request: RepairRequest) -> Repair:
        """Look at a blob that this node holds or has pinned, and repair what it lacks."""
        view = await service.start_repair(parse_ref(request.cid), dry_run=request.dry_run)
        return Repair.of(view)
