"""Owns what the API reference says: OpenAPI's description of each route, made fit to read."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

Json = Mapping[str, Any]

# What a curl example says where a route leaves it open.
EXAMPLES: Json = {
    "model": "mnist",
    "seed": 7,
    "seeds": [3, 8, 5],  # where there is no seed
    "version": 1,
    "class": "3",
    "dataset": "digits",
    "minutes": 5,
    "n": 16,
    "response": "grid",
    "dataset_id": "digits",
    "job_id": "JOB_ID",
    "cur_nimg": 8192,
    "file": "@digits.zip",
    "name": "digits",
}
_BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "maxItems": "at most {}",
    "maxLength": "at most {} characters",
    "maxProperties": "at most {}",
    "pattern": "like {}",
}


@dataclass(frozen=True)
class Field:
    """A parameter, a member of a body or of an answer; `place` is where it goes."""

    name: str
    place: str
    type: Markup
    required: bool
    help: str


@dataclass(frozen=True)
class Operation:
    """One route; `answers` are its good ends, such as '202 TrainingJob'."""

    anchor: str
    method: str
    path: str
    help: Sequence[str]
    fields: Sequence[Field]
    answers: Sequence[Markup]
    curl: str
    scope: str  # of the key it wants; empty if it wants none


@dataclass(frozen=True)
class Shape:
    """A JSON object that answers are made of."""

    name: str
    help: str
    fields: Sequence[Field]


@dataclass(frozen=True)
class Reference:
    """The whole API: operations by tag, and the shapes they answer with."""

    groups: Mapping[str, Sequence[Operation]]
    shapes: Sequence[Shape]


def make_reference(openapi: Json, host: str, *, keyed: bool) -> Reference:
    """`openapi` as FastAPI makes it; `host` and `keyed` are for the examples."""
    shapes: dict[str, Json] = openapi.get("components", {}).get("schemas", {})
    groups: dict[str, list[Operation]] = {}
    bodies: set[str] = set()
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            schema = _body(operation)
            bodies.add(_name(schema))
            body = shapes.get(_name(schema), schema)
            made = _operation(method.upper(), path, operation, body, host, keyed)
            groups.setdefault(operation["tags"][0], []).append(made)
    told = [
        Shape(name, shape.get("description", ""), _members(shape, "answer"))
        for name, shape in sorted(shapes.items())
        if name not in bodies
    ]
    by_use = sorted(groups.items(), key=lambda group: group[0] == "health")  # probes come last
    return Reference(dict(by_use), told)


def _operation(
    method: str, path: str, operation: Json, body: Json, host: str, keyed: bool
) -> Operation:
    parameters: list[Json] = operation.get("parameters", [])
    place = "form" if _is_form(operation) else "body"
    return Operation(
        anchor=re.sub(r"\W+", "-", f"{method} {path}".lower()).strip("-"),
        method=method,
        path=path,
        help=operation.get("description", "").split("\n\n"),
        fields=[_parameter(p) for p in parameters] + _members(body, place),
        answers=[
            _answer(status, response)
            for status, response in operation["responses"].items()
            if status < "300"
        ],
        curl=_curl(method, path, operation, body, host, keyed),
        scope=_scope(operation),
    )


def _parameter(parameter: Json) -> Field:
    schema, required = parameter["schema"], parameter["required"]
    said = parameter.get("description", "")
    name, place = parameter["name"], parameter["in"]
    return Field(name, place, type_of(schema, nullable=False), required, _help(said, schema))


def _members(schema: Json, place: str) -> list[Field]:
    required = schema.get("required", ())
    nullable = place == "answer"  # in a request, null is the same as leaving it out
    return [
        Field(
            name,
            place,
            type_of(member, nullable=nullable),
            name in required,
            _help(member.get("description", ""), member),
        )
        for name, member in schema.get("properties", {}).items()
    ]


def _help(said: str, schema: Json) -> str:
    default = schema.get("default")
    told = [] if default in (None, "", {}) else [f"Default: {json.dumps(default)}."]
    return " ".join([*([said] if said else []), *told])


def _answer(status: str, response: Json) -> Markup:
    told = [escape(status)]
    for media_type, content in response.get("content", {}).items():
        schema = content.get("schema", {})
        is_json = media_type == "application/json"
        told.append(type_of(schema) if is_json and schema else escape(media_type))
    return Markup(", ").join(told) if len(told) > 1 else told[0]


def type_of(schema: Json, *, nullable: bool = True) -> Markup:
    """A schema in a few words; the names of shapes are links."""
    if "$ref" in schema:
        return Markup('<a href="#{0}">{0}</a>').format(_name(schema))
    if "anyOf" in schema:
        kept = [s for s in schema["anyOf"] if nullable or s.get("type") != "null"]
        return Markup(" or ").join(type_of(s) for s in kept)
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return Markup(" | ").join(json.dumps(value) for value in values)
    words = escape(schema.get("contentMediaType", schema.get("type", "any")))
    if words == "array":
        words = Markup("array of {}").format(type_of(schema.get("items", {})))
    if isinstance(values := schema.get("additionalProperties"), Mapping):
        words = Markup("object of {}").format(type_of(values))
    bounds = [told.format(_shown(schema[key])) for key, told in _BOUNDS.items() if key in schema]
    return Markup(", ").join([words, *bounds])


def _shown(bound: Any) -> str:
    return str(int(bound) if isinstance(bound, float) and bound.is_integer() else bound)


def _name(schema: Json) -> str:
    return schema.get("$ref", "").rpartition("/")[2]


def _is_form(operation: Json) -> bool:
    return "multipart/form-data" in operation.get("requestBody", {}).get("content", {})


def _body(operation: Json) -> Json:
    contents: dict[str, Json] = operation.get("requestBody", {}).get("content", {})
    return next((content["schema"] for content in contents.values()), {})


def _scope(operation: Json) -> str:
    security = operation.get("security", [])
    return next(iter(security[0].values()))[0] if security else ""


def _curl(method: str, path: str, operation: Json, body: Json, host: str, keyed: bool) -> str:
    """A command that can be pasted into a shell."""
    url = host + path.format_map(EXAMPLES)
    if any(p["name"] == "class" for p in operation.get("parameters", [])):
        url += f"?class={EXAMPLES['class']}"
    takes = body.get("properties", {})
    given = {
        k: EXAMPLES[k] for k in takes if k in EXAMPLES and not (k == "seeds" and "seed" in takes)
    }
    words = ["curl", *_output(path, operation, given)]
    if method != ("POST" if given else "GET"):
        words.append(f"-X {method}")
    words.append(shlex.quote(url))
    if keyed:
        words.append('-H "Authorization: Bearer $NOISEWELL_API_KEY"')
    if _is_form(operation):
        words += [f"-F {k}={v}" for k, v in given.items()]
    elif given:
        words += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(given))}"]
    return " ".join(words)


def _output(path: str, operation: Json, given: Json) -> list[str]:
    """Options for what does not belong on a terminal, or comes bit by bit."""
    if "text/event-stream" in operation["responses"].get("200", {}).get("content", {}):
        return ["-N", "-H 'Accept: text/event-stream'"]
    if path.endswith(".png"):
        return [f"-o {path.rpartition('/')[2].format_map(EXAMPLES)}"]
    if path.endswith("interpolations"):
        return ["-o walk.webp"]
    return [f"-o {given['response']}.png"] if "response" in given else []
