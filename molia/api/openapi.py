"""The OpenAPI document: FastAPI's own for the control routes, a table for the bytes of blobs.

Every operation names every status code that it can give. `/openapi.json` serves it and
`docs/reference/routes.md` is generated from it.
"""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from molia.api.negotiation import JSON, TEXT
from molia.api.options import EXPIRES_MAX, NAME_LENGTH_MAX
from molia.api.problems import MEDIA_TYPE
from molia.api.schemas import REF_PATTERN, Problem, Put, Record
from molia.base import limits

_KEY_LENGTH: Final = 56
"""Characters of a peer key."""
_NAME: Final = r"^[^\u0000-\u001f\u007f]*$"
_SEGMENT: Final = r"^[^/\u0000-\u001f\u007f]+$"
_REF: Final = "#/components/schemas/{model}"
_BLOB_TYPE: Final = "application/octet-stream"
_COMMON: Final = (400, 401, 403, 421, 503)
_TEXTS: Final = {
    400: "The request is wrong.",
    401: "A token is needed.",
    403: "Refused to a page of another origin.",
    404: "Not found.",
    408: "The upload stalled.",
    409: "Not possible in this state.",
    412: "A precondition does not hold, or the blob is not kept locally.",
    413: "The body is too large.",
    416: "The range lies outside the blob.",
    421: "Not a host name of this node.",
    422: "The body does not match its digest; nothing was stored.",
    502: "Found, but damaged beyond repair.",
    503: "The node is busy, stopping, or a shard takes no writes.",
    504: "Timed out, or too few of those who have it can be reached.",
    507: "No space left.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of these statuses, each a problem document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    return {status: {"description": _TEXTS[status], "content": content} for status in statuses}


def binary(media_type: str) -> dict[str, Any]:
    """Return the `content` of a body that is bytes."""
    return {media_type: {"schema": {"type": "string", "format": "binary"}}}


def record_parameter(*, with_key: bool) -> dict[str, Any]:
    """Return the schema of a record's name, or of its whole address."""
    length = limits.RECORD_NAME_MAX + (_KEY_LENGTH + 1 if with_key else 0)
    return {"minLength": 1, "maxLength": length, "pattern": _NAME}


def openapi_document(app: FastAPI, *, needs_token: bool) -> dict[str, Any]:
    """Return the whole document. needs_token: whether all but the probes ask for one."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        license_info={"name": "Apache-2.0"},
    )
    _, definitions = models_json_schema(
        [(kind, "serialization") for kind in (Problem, Put, Record)], ref_template=_REF
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update(definitions["$defs"])
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in _data_paths().items():
        document["paths"].setdefault(path, {}).update(operations)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation, needs_token=needs_token)
    return document


def _complete(path: str, method: str, operation: dict[str, Any], *, needs_token: bool) -> None:
    """Add what every operation shares; FastAPI's 422 is our 400."""
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422", "")):
        del responses["422"]
    for status, response in problems(*_COMMON).items():
        responses.setdefault(str(status), response)
    operation["responses"] = {key: responses[key] for key in sorted(responses)}
    is_probe = path in ("/healthz", "/readyz")
    is_control = method == "delete" or (method in ("put", "post") and not path.startswith("/blob"))
    if is_control or (needs_token and not is_probe):
        operation["security"] = [{"token": []}]


# ---------------------------------------------------------------------------- the bytes of blobs


def _data_paths() -> dict[str, dict[str, Any]]:
    return {
        "/blob": {
            "put": _put_operation("put_blob", "Store the body as a blob.", []),
            "post": _put_operation("post_blob", "Store the body as a blob.", []),
        },
        "/blob/{cid}": {
            "put": _put_operation(
                "put_named_blob",
                "Store the body under a file name; a CID or a hex BLAKE3 in its place is an "
                "assertion, and the body must hash to it.",
                [_segment_parameter()],
            ),
            "get": _get_operation("get_blob", "Give a blob's bytes, whole or one range."),
            "head": _get_operation("head_blob", "Say what a GET would give, without the bytes."),
        },
    }


def _put_operation(name: str, text: str, extra: list[dict[str, Any]]) -> dict[str, Any]:
    put_content = {
        TEXT: {"schema": {"type": "string"}},
        JSON: {"schema": {"$ref": _REF.format(model="Put")}},
    }
    headers = {
        "Location": _header("Where the blob is: `/blob/{cid}`.", "string"),
        "ETag": _header("The CID, quoted.", "string"),
        "X-Molia-Survives": _header("Nodes that may vanish without losing the blob.", "integer"),
    }
    stored = {"headers": headers, "content": put_content}
    return {
        "tags": ["blobs"],
        "operationId": name,
        "summary": text,
        "parameters": [*extra, *_put_parameters()],
        "requestBody": {
            "description": "The bytes, streamed; or a form whose field `file` holds them.",
            "content": {**binary(_BLOB_TYPE), "multipart/form-data": {"schema": _form_schema()}},
        },
        "responses": {
            "200": {"description": "The node kept these bytes already.", **stored},
            "201": {"description": "Stored.", **stored},
            **_text_keys(problems(408, 413, 422, 507)),
        },
    }


def _put_parameters() -> list[dict[str, Any]]:
    name_schema = {"type": "string", "maxLength": NAME_LENGTH_MAX, "pattern": _NAME}
    return [
        _parameter("query", "name", "File name to show in listings.", name_schema),
        _parameter(
            "query",
            "wait",
            "When to answer: stored here, or placed on other nodes (here, while there are none).",
            {"enum": ["local", "placed"], "default": "placed"},
        ),
        _parameter(
            "query", "pin", "Keep the blob until removed.", {"type": "boolean", "default": True}
        ),
        _parameter(
            "query",
            "cache",
            "The blob may go at any time, in half an hour at the latest; it is not pinned.",
            {"type": "boolean", "default": False},
        ),
        _parameter(
            "query",
            "expires",
            "Unix time in seconds, in the future, at which the blob goes by itself.",
            {"type": "integer", "minimum": 0, "maximum": EXPIRES_MAX},
        ),
    ]


def _form_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}},
    }


def _segment_parameter() -> dict[str, Any]:
    return {
        "in": "path",
        "name": "cid",
        "required": True,
        "description": "A file name, or an assertion.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": NAME_LENGTH_MAX,
            "pattern": _SEGMENT,
        },
    }


def _get_operation(name: str, text: str) -> dict[str, Any]:
    headers = {
        "ETag": _header("The CID, quoted.", "string"),
        "Accept-Ranges": _header("`bytes`.", "string"),
        "Content-Disposition": _header("A file name to save it under.", "string"),
    }
    body = {"headers": headers, "content": binary(_BLOB_TYPE)}
    not_modified = {"description": "The client has this version."}
    return {
        "tags": ["blobs"],
        "operationId": name,
        "summary": text,
        "parameters": [
            {
                "in": "path",
                "name": "cid",
                "required": True,
                "description": "A CID, or the hex BLAKE3 of the bytes.",
                "schema": {"type": "string", "pattern": REF_PATTERN},
            },
        ],
        "responses": {
            "200": {"description": "The whole blob.", **body},
            "206": {"description": "The range that `Range` asked for.", **body},
            "304": not_modified,
            **_text_keys(problems(404, 412, 416, 502, 504)),
        },
    }


def _parameter(where: str, name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"in": where, "name": name, "required": False, "description": text, "schema": schema}


def _header(text: str, kind: str) -> dict[str, Any]:
    return {"description": text, "schema": {"type": kind}}


def _text_keys(responses: dict[int | str, dict[str, Any]]) -> dict[str, Any]:
    return {str(status): response for status, response in responses.items()}
