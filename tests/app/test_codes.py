import ast
import re
from pathlib import Path

import pytest

from app import codes, problems
from app.errors import QueueFullError

ROOT = Path(__file__).parents[2]


def answered() -> set[str]:
    """Every code that stands anywhere in the service's source."""
    found = {"internal", "http"}
    for path in (ROOT / "app").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            named = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "code"
            if named and isinstance(node.value, ast.Constant):
                found.add(node.value.value)
            if isinstance(node, ast.Dict) and path.name == "problems.py":
                keys = [getattr(key, "value", None) for key in node.keys]
                if keys and all(isinstance(key, int) for key in keys):
                    found |= {value.value for value in node.values}
    return found


def test_every_code_has_a_cause_and_a_fix_and_every_entry_a_code() -> None:
    told = codes.codes()
    assert {code.code for code in told} == answered()
    assert len({code.code for code in told}) == len(told) > 15
    for code in told:
        assert re.fullmatch("[a-z_]+", code.code)
        assert 400 <= code.status < 600
        assert re.fullmatch(r"[A-Z][^\n]{10,}\.", code.cause), code.code
        assert re.fullmatch(r"[A-Z`][^\n]{8,}\.", code.fix), code.code


def test_settings_that_a_fix_names_exist() -> None:
    documented = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    named = {n for c in codes.codes() for n in re.findall("NOISEWELL_[A-Z_]+", c.fix)}
    assert len(named) > 5
    for name in named:
        assert f"| `{name}` |" in documented


def test_the_page_in_the_repository_is_the_one_the_code_writes() -> None:
    written = (ROOT / "docs" / "errors.md").read_text("utf-8")
    assert written == codes.page(), "python -m app.codes > docs/errors.md"


def test_type_leads_to_the_place_in_the_services_own_pages(toy) -> None:
    page = toy.get("/docs").text
    for code in codes.codes():
        place = codes.link(code.code).removeprefix("/docs#")
        assert page.count(f'id="{place}"') == 1
    answers = [
        toy.get("/v1/models/nobody"),
        toy.get("/nowhere"),
        toy.request("PATCH", "/v1/models"),
        toy.images(n=0),
        toy.post("/v1/images", content=b"{"),
        toy.get("/v1/models", headers={"Host": "evil.example"}),
    ]
    for answer in answers:
        assert answer.json()["type"] == codes.link(answer.json()["code"])


def test_a_problem_names_the_request_that_its_header_and_the_log_name(toy) -> None:
    named = toy.get("/v1/models/nobody", headers={"X-Request-ID": "order-7"})
    assert named.json()["request_id"] == named.headers["X-Request-ID"] == "order-7"
    bad = toy.images(n=0)
    assert bad.json()["request_id"] == bad.headers["X-Request-ID"]
    fresh = toy.get("/nowhere")
    assert fresh.json()["request_id"] == fresh.headers["X-Request-ID"] != "order-7"


def test_what_answers_several_requests_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    problems.structlog.contextvars.bind_contextvars(request_id="mine")
    assert b"mine" in problems.of(QueueFullError("full")).body
    assert b"mine" not in problems.of(QueueFullError("full"), shared=True).body
    problems.structlog.contextvars.clear_contextvars()
