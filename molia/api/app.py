"""The ASGI application: guards first, then plain endpoints for bytes and FastAPI for the rest."""

import asyncio
import json
from typing import Any, cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from molia.api.blobs import add_blob_routes, add_pin_routes, add_trash_routes
from molia.api.gets import GetBlob
from molia.api.guards import Guard
from molia.api.jobs import add_job_routes
from molia.api.network import add_network_routes
from molia.api.openapi import openapi_document
from molia.api.pages import CONTENT_SECURITY_POLICY, errors_page, routes_page
from molia.api.problems import problem_answer
from molia.api.puts import PutBlob
from molia.api.records import add_record_routes
from molia.api.repairs import add_repair_routes
from molia.api.status import add_status_routes
from molia.base.config import ApiConfig
from molia.base.errors import BadInput, MethodNotAllowed, MoliaError, NotFound
from molia.node.service import NodeService

log = structlog.get_logger(__name__)

_ERRORS_SHOWN = 3


class _Api(FastAPI):
    needs_token = False

    def openapi(self) -> dict[str, Any]:
        """Return the document that `/openapi.json` serves; making it takes a tenth of a second."""
        if self.openapi_schema is None:
            self.openapi_schema = openapi_document(self, needs_token=self.needs_token)
        return self.openapi_schema


def create_app(
    service: NodeService, config: ApiConfig, *, token: str | bytes | None, version: str = "0"
) -> FastAPI:
    """Return the API over `service`.

    token: what `Authorization: Bearer` must carry; None refuses all that needs one.
    `app.state.closing` is an event: set it when the server stops and open event streams end.
    """
    app = _Api(
        title="Molia",
        version=version,
        description="A node of a content network: files that outlive any one machine.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.closing = asyncio.Event()
    _add_data_routes(app, service, config)
    add_blob_routes(app, service)
    add_pin_routes(app, service)
    add_trash_routes(app, service)
    add_job_routes(app, service, app.state.closing)
    add_record_routes(app, service)
    add_network_routes(app, service, app.state.closing)
    add_repair_routes(app, service)
    add_status_routes(app, service)
    app.needs_token = config.auth == "required"
    _add_documents(app)
    app.add_middleware(Guard, config=config, token=token)
    app.add_exception_handler(MoliaError, _on_molia_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_bug)
    return app


def _add_data_routes(app: FastAPI, service: NodeService, config: ApiConfig) -> None:
    put = PutBlob(service, config, named=False)
    put_named = PutBlob(service, config, named=True)
    get = GetBlob(service, config)
    app.router.routes += [
        Route("/blob", put, methods=["PUT", "POST"]),
        Route("/blob/", put, methods=["PUT", "POST"]),  # what `curl -T - host/blob/` asks
        Route("/blob/{cid}", put_named, methods=["PUT"]),
        Route("/blob/{cid}", get, methods=["GET", "HEAD"]),
    ]


def _add_documents(app: FastAPI) -> None:
    """Register what describes the API. It is made when it is first asked for, in a thread."""

    async def openapi_json(_: Request) -> Response:
        document = await run_in_threadpool(app.openapi)
        return Response(json.dumps(document), media_type="application/json")

    async def page(request: Request) -> Response:
        if request.url.path == "/docs":
            text = routes_page(await run_in_threadpool(app.openapi))
        else:
            text = errors_page()
        return HTMLResponse(text, headers={"content-security-policy": CONTENT_SECURITY_POLICY})

    app.router.routes += [
        Route("/openapi.json", openapi_json, methods=["GET"]),
        *(Route(path, page, methods=["GET"]) for path in ("/docs", "/docs/errors")),
    ]


# ---------------------------------------------------------------------------- errors


def _answer(error: MoliaError) -> Response:
    status, headers, body = problem_answer(error)
    text_headers = {name.decode(): value.decode() for name, value in headers}
    return Response(body, status_code=status, headers=text_headers)


async def _on_molia_error(_: Request, error: Exception) -> Response:
    return _answer(cast(MoliaError, error))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer for Starlette and FastAPI: no such route, wrong method, unreadable body."""
    exception = cast(HTTPException, error)
    if isinstance(exception.__cause__, MoliaError):
        return _answer(exception.__cause__)
    if exception.status_code == 405:
        allowed = ", ".join(_allowed_methods(request))
        problem = MethodNotAllowed(f"this route takes {allowed}")
        response = _answer(problem)
        response.headers["allow"] = allowed
        return response
    if exception.status_code == 404:
        return _answer(NotFound("no such route", hint="GET /docs lists the routes"))
    return _answer(BadInput(str(exception.detail)))


def _allowed_methods(request: Request) -> list[str]:
    methods: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods)


async def _on_invalid(_: Request, error: Exception) -> Response:
    """Answer for a request that does not fit its schema."""
    texts = []
    for item in cast(RequestValidationError, error).errors()[:_ERRORS_SHOWN]:
        place = ".".join(str(part) for part in item["loc"])
        texts.append(f"{place[:80]}: {item['msg']}")
    return _answer(BadInput("; ".join(texts) or "the request does not fit its schema"))


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("request_failed", method=request.method, error=type(error).__name__)
    return _answer(MoliaError("the node made a mistake; its log says which"))
