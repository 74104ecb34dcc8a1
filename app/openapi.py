"""Owns what the OpenAPI document says beside the routes' own words: who may use each of them."""

from typing import Any

from fastapi import FastAPI

from app.scopes import DECLARED, PUBLIC

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "basic": {"type": "http", "scheme": "basic", "description": "Any name, the key as password."},
}


def describe(app: FastAPI) -> None:
    """Have the application's document name the keys it takes, and the scope of each route.

    The scope stands where OpenAPI 3.1 has roles of schemes that are not OAuth.
    """
    make = app.openapi

    def openapi() -> dict[str, Any]:
        made = app.openapi_schema is not None
        document = make()
        if not made:
            _guard(document)
        return document

    app.openapi = openapi


def _guard(document: dict[str, Any]) -> None:
    scopes = {door: scope for scope, doors in DECLARED.items() for door in doors}
    document["components"]["securitySchemes"] = _SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = scopes[f"{method.upper()} {path}"]
            if scope != PUBLIC:
                operation["security"] = [{scheme: [scope]} for scheme in _SCHEMES]
