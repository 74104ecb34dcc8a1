"""Owns what the table of scopes means to a request: which route would answer it, and its scope."""

import re
from collections.abc import Iterator, Sequence

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Mount, compile_path

from app.scopes import SCOPE_OF


class UndeclaredError(RuntimeError):
    """A route and the table of scopes do not fit; the service is not built."""


class Doors:
    """The routes of an application, and the scope that each of them wants."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        """Raises UndeclaredError if a route has no scope, or a scope no route."""
        found = list(doors_of(routes))
        if wrong := set(found) ^ SCOPE_OF.keys():
            raise UndeclaredError(
                f"{', '.join(sorted(wrong))}: in app/scopes.py or among the routes, but not both;"
                " declare there who may use a route"
            )
        self._doors: dict[str, list[str]] = {}
        for door in found:
            self._doors.setdefault(door.partition(" ")[0], []).append(door)
        self._patterns = {method: _alternatives(doors) for method, doors in self._doors.items()}

    def methods(self, path: str) -> list[str]:
        """With which a route answers at this path; none if there is nothing."""
        return [method for method, pattern in self._patterns.items() if pattern.match(path)]

    def wanted(self, method: str, path: str) -> str | None:
        """The scope of the route that will answer, PUBLIC if it wants no key; None if there is
        no such route, whose 404 or 405 any key may see."""
        pattern = self._patterns.get(method)
        found = pattern.match(path) if pattern else None
        if found is None:
            return None
        return SCOPE_OF[self._doors[method][int(str(found.lastgroup)[1:])]]


def doors_of(routes: Sequence[BaseRoute]) -> Iterator[str]:
    """`METHOD /path` of all routes in the order in which they are tried; of a mount, all below."""
    for context in iter_route_contexts(routes):
        if isinstance(context.original_route, Mount):
            for method in ("GET", "HEAD"):
                yield f"{method} {context.path}/{{path:path}}"
            continue
        for method in sorted(context.methods or ()):
            yield f"{method} {context.path}"


def _alternatives(doors: Sequence[str]) -> re.Pattern[str]:
    """One pattern for all; the group that matched has the place of the door as its name.

    Each with the router's own anchors: its `$` lets a last line break pass, and so must this.
    """
    patterns = [compile_path(door.partition(" ")[2])[0].pattern for door in doors]
    return re.compile("|".join(f"(?P<d{i}>{_plain(p)})" for i, p in enumerate(patterns)))


def _plain(pattern: str) -> str:
    """Without names: those of two paths may be the same."""
    return re.sub(r"\(\?P<\w+>", "(?:", pattern)
