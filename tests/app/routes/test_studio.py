import re
import shlex
from html import unescape
from html.parser import HTMLParser

import pytest
from pydantic import TypeAdapter

from app.main import create_app
from app.routes.studio import WEB
from app.schemas import ImagesRequest, InterpolationRequest, NewTrainingJob, Promotion

FILES = sorted(p for p in WEB.rglob("*") if p.suffix in {".html", ".css", ".js", ".svg"})
SCRIPTS = [p for p in FILES if p.suffix == ".js"]
BODIES = {
    "/v1/images": ImagesRequest,
    "/v1/interpolations": InterpolationRequest,
    "/v1/training/jobs": NewTrainingJob,
    "/v1/models/mnist/aliases/champion": Promotion,
}


class Page(HTMLParser):
    """What a page refers to, what can be referred to in it, and what its elements carry."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.attributes, self.scripts = set(), [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.attributes |= set(found)
        self.links |= {found[name] for name in ("href", "src") if name in found}
        self.ids += [found["id"]] if "id" in found else []
        self.scripts += [found] if tag == "script" else []


def commands(text):
    return [unescape(c) for c in re.findall(r"(?<=>)curl .*?(?=</pre>)", text, re.DOTALL)]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_come_with_a_policy_that_lets_nothing_foreign_in(toy, path):
    page = toy.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert not re.search(r"unsafe|\*|https?:", policy)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_nothing_that_the_policy_forbids(toy, path):
    page = Page(toy.get(path).text)
    assert not {a for a in page.attributes if a == "style" or a.startswith("on")}
    assert all("src" in script for script in page.scripts)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_everything_a_page_refers_to_is_there(toy, path):
    page = Page(toy.get(path).text)
    ids = {"/": Page(toy.get("/").text).ids, path: page.ids}
    for link in page.links:
        target, _, anchor = link.partition("#")
        assert toy.get(target or path).status_code == 200, link
        assert not anchor or anchor in ids[target or path], link


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_ids_are_unique(toy, path):
    ids = Page(toy.get(path).text).ids
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.name)
def test_nothing_names_a_place_outside(file):
    text = re.sub(r'xmlns="[^"]*"', "", file.read_text("utf-8"))
    assert not re.search(r"https?:|[\"'(]//", text)


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda p: p.name)
def test_scripts_import_what_is_there(toy, file):
    for module in re.findall(r'from "\./([^"]+)"', file.read_text("utf-8")):
        answer = toy.get(f"/static/{module}")
        assert answer.headers["content-type"].startswith("text/javascript")
        assert answer.headers["cache-control"] == "no-cache"


def test_scripts_find_the_elements_they_look_for(toy):
    page = Page(toy.get("/").text)
    scripts = "".join(p.read_text("utf-8") for p in SCRIPTS)
    wanted = set(re.findall(r'\(\s*"#([a-z-]+)', scripts))
    assert len(wanted) > 10
    assert wanted <= set(page.ids)


def test_what_is_no_file_of_the_page_is_not_found(toy):
    for path in ("nothing.js", "../templates/studio.html", "%2e%2e/templates/studio.html"):
        answer = toy.get(f"/static/{path}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "range_", ["bytes=0-3", "bytes=9-1", "bytes=x", "bytes=99999999-", "lines=1"]
)
def test_a_file_is_answered_whole_whatever_part_of_it_is_asked_for(toy, range_):
    for path in ("/static/style.css", "/v1/models/toy/versions/1/card"):
        answer = toy.get(path, headers={"range": range_})
        assert answer.status_code == 200
        assert answer.content == toy.get(path).content


def test_the_reference_lists_every_route(toy):
    text = toy.get("/docs").text
    routes = [
        f'<b class="badge">{method.upper()}</b> <code>{path}</code>'
        for path, methods in toy.app.openapi()["paths"].items()
        for method in methods
    ]
    assert len(routes) > 20
    assert [route for route in routes if route not in text] == []
    assert len(commands(text)) == len(routes)


def test_examples_are_for_the_address_that_was_asked(toy, start):
    for command in commands(toy.get("/docs").text):
        assert any(word.startswith("localhost/") for word in shlex.split(command)), command
    key = "k" * 16
    with start(host="0.0.0.0", api_key=key) as beyond:  # where any Host is answered
        other = beyond.get("/docs", headers={"Host": "x<script>", "X-API-Key": key})
    assert other.status_code == 200
    assert "x<script>" not in other.text


def test_examples_have_bodies_that_are_accepted(toy):
    checked = set()
    for command in commands(toy.get("/docs").text):
        words = shlex.split(command)
        if "-d" in words:
            path = next(w for w in words if w.startswith("localhost")).removeprefix("localhost")
            TypeAdapter(BODIES[path]).validate_json(words[words.index("-d") + 1])
            checked.add(path)
    assert checked == set(BODIES)


def test_with_a_key_the_pages_want_it_too_and_the_examples_show_it(start):
    with start(api_key="s3cret") as service:
        for path in ("/", "/docs", "/static/studio.js"):
            assert service.get(path).status_code == 401
        text = service.get("/docs", headers={"X-API-Key": "s3cret"}).text
    assert "s3cret" not in text
    assert all('"Authorization: Bearer $NOISEWELL_API_KEY"' in c for c in commands(text))


def test_the_pages_themselves_are_no_part_of_the_api():
    assert not {"/", "/docs"} & set(create_app().openapi()["paths"])
