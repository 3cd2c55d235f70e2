"""Who the node is, whether it lives, and what it measured."""

from fastapi import FastAPI
from fastapi.responses import Response

from molia.api.garbage_schemas import Garbage, GarbageRequest
from molia.api.negotiation import TEXT
from molia.api.openapi import problems
from molia.api.schemas import Live, Node, Ready
from molia.node.service import NodeService

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def add_status_routes(app: FastAPI, service: NodeService) -> None:
    """Register the routes on `app`."""

    @app.get("/node", tags=["node"])
    async def node() -> Node:
        """Say who this node is, what its store holds and how its shards are."""
        return Node.of(await service.node())

    @app.post("/gc", tags=["node"], responses=problems(413))
    async def collect_garbage(request: GarbageRequest) -> Garbage:
        """Remove what nobody wants any more now, or only say what would go."""
        return Garbage.of(await service.collect_garbage(dry_run=request.dry_run))

    @app.post("/clock/trust", tags=["node"], status_code=204, response_class=Response)
    async def trust_clock() -> Response:
        """Let what has had its time go again although the machine's clock jumped."""
        await service.trust_clock()
        return Response(status_code=204)

    @app.get("/healthz", tags=["node"])
    async def healthz() -> Live:
        """Answer, which is all that liveness asks."""
        return Live()

    @app.get("/readyz", tags=["node"], responses={503: {"model": Ready}})
    async def readyz(response: Response) -> Ready:
        """Say whether the node takes work; 503 with the reasons when it does not."""
        readiness = await service.readiness()
        response.status_code = 200 if readiness.ready else 503
        return Ready.of(readiness)

    @app.get(
        "/metrics",
        tags=["node"],
        response_class=Response,
        responses={200: {"content": {TEXT: {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Give all metrics in Prometheus' text format."""
        return Response(await service.metrics(), media_type=_METRICS_TYPE)
