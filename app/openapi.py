"""Owns what the OpenAPI document says beside the routes' own words: who may use each of them, and
how it refuses."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from app.problems import MEDIA_TYPE
from app.schemas import Problem
from app.scopes import PUBLIC, SCOPE_OF

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "basic": {"type": "http", "scheme": "basic", "description": "Any name, the key as password."},
}


_SECONDS = {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds to wait."}
# FastAPI's own, which no answer here is made of
_NOT_OURS = ("HTTPValidationError", "ValidationError")


def describe(app: FastAPI) -> None:
    """Have the application's document name the keys it takes, the scope of each route, and the
    statuses of its problem documents.

    The scope stands where OpenAPI 3.1 has roles of schemes that are not OAuth.
    """
    make = app.openapi

    def openapi() -> dict[str, Any]:
        made = app.openapi_schema is not None
        document = make()
        if not made:
            _guard(document)
            _refuse(document)
            _leave_out_nulls(document)
        return document

    app.openapi = openapi


def _guard(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = _SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = SCOPE_OF[f"{method.upper()} {path}"]
            if scope != PUBLIC:
                operation["security"] = [{scheme: [scope]} for scheme in _SCHEMES]


def _refuse(document: dict[str, Any]) -> None:
    """Every refusal is a problem document. 4XX are those that any request may meet, whatever it
    asks for: a head too large, a body too slow, a method that is none."""
    schemas = document["components"]["schemas"]
    for name in _NOT_OURS:
        schemas.pop(name, None)
    schemas[Problem.__name__] = Problem.model_json_schema()
    for operations in document["paths"].values():
        for method, operation in operations.items():
            told = {str(int(status)): _refusal(status) for status in _statuses(method, operation)}
            operation["responses"] |= told | {"4XX": _refusal(None)}


def _refusal(status: HTTPStatus | None) -> dict[str, Any]:
    """What the document says of a status; of None, what it says of the others."""
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    told: dict[str, Any] = {
        "description": status.phrase if status else "Any other refusal",
        "content": {MEDIA_TYPE: {"schema": schema}},
    }
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        told["headers"] = {"Retry-After": _SECONDS}
    return told


def _statuses(method: str, operation: dict[str, Any]) -> Iterator[HTTPStatus]:
    """With which an operation may refuse: as its key, its parameters and its body allow."""
    parameters, generates = operation.get("parameters", []), "images" in operation["tags"]
    if "security" in operation:
        yield from (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.MISDIRECTED_REQUEST)
    if any(parameter["in"] == "path" for parameter in parameters) or generates:
        yield HTTPStatus.NOT_FOUND
    if parameters or "requestBody" in operation:
        yield HTTPStatus.UNPROCESSABLE_ENTITY
    if "requestBody" in operation:
        yield HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    if generates:
        yield HTTPStatus.TOO_MANY_REQUESTS
    elif method != "get":
        yield from (HTTPStatus.CONFLICT, HTTPStatus.INSUFFICIENT_STORAGE)
    yield HTTPStatus.SERVICE_UNAVAILABLE


def _leave_out_nulls(document: dict[str, Any]) -> None:
    """From parameters, which can be left out but cannot be null."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                schema = parameter["schema"]
                kinds = [one for one in schema.pop("anyOf", ()) if one != {"type": "null"}]
                schema |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}
