"""The documents say what is so: settings, commands, files and figures they name exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from typer.main import get_command

from app.cli import cli
from app.settings import Settings
from app.uploads import MAX_FORM_BYTES
from training.config import TrainConfig

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def test_every_setting_of_the_service_is_documented_and_nothing_else():
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `NOISEWELL_([A-Z_]+)`", text, re.MULTILINE))
    assert documented == {name.upper() for name in Settings.model_fields}


def test_every_setting_of_training_is_documented():
    text = (ROOT / "docs" / "training.md").read_text("utf-8")
    table = "".join(line for line in text.splitlines() if line.startswith("| `"))
    for field in fields(TrainConfig):
        name = "lr_*" if field.name == "lr" else field.name
        assert f"`{name}`" in table, name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_make_targets_exist(page):
    text = page.read_text("utf-8")
    verbs = set(get_command(cli).commands)
    for verb in re.findall(r"^noisewell ([a-z]+)", text, re.MULTILINE):
        assert verb in verbs, verb
    targets = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", targets, re.MULTILINE), target


def test_settings_that_a_page_names_exist():
    for page in set(PAGES) - {ROOT / "CHANGELOG.md"}:
        for name in re.findall(r"NOISEWELL_([A-Z_]+)", page.read_text("utf-8")):
            assert name.lower() in Settings.model_fields, (page.name, name)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_headings(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", page.read_text("utf-8")):
        assert anchor in anchors(page.parent / target if target else page), anchor


def test_for_each_threat_there_is_code_and_something_that_shows_it():
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \| (.+) \|$", text, re.MULTILINE)[1:]
    assert len(rows) >= 18
    for threat, _, where, shown_by in rows:
        code, proofs = re.findall(r"`(.+?)`", where), re.findall(r"`(.+?)`", shown_by)
        assert all((ROOT / name).is_file() for name in (*code, *proofs)), threat
        assert any(name.startswith(("app/", "training/", "tools/")) for name in code), threat
        assert any(name.startswith("tests/") for name in proofs), threat


def test_the_container_is_what_the_page_of_security_says():
    assert re.findall(r"^USER (.+)$", (ROOT / "Dockerfile").read_text(), re.M) == ["10001:10001"]
    compose = (ROOT / "deploy" / "compose.yaml").read_text()
    for line in (
        'ports: ["127.0.0.1:8000:8000"]',
        "read_only: true",
        "cap_drop: [ALL]",
        'security_opt: ["no-new-privileges:true"]',
    ):
        assert line in compose


def test_the_proxy_that_operations_shows_fits_the_service():
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    block = re.findall(r"```nginx\n(.+?)```", text, re.DOTALL)[0]
    said = dict(re.findall(r"^ *([a-z_]+) (.+);$", block, re.MULTILINE))
    default = {name: field.default for name, field in Settings.model_fields.items()}
    assert said["proxy_pass"] == f"http://{default['host']}:{default['port']}"
    assert f"NOISEWELL_ALLOWED_HOSTS={said['server_name']} noisewell serve" in text
    megabytes = int(said["client_max_body_size"].removesuffix("m"))
    assert megabytes << 20 >= default["max_upload_bytes"] + MAX_FORM_BYTES
    assert "proxy_set_header Host $http_host;" in block
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in block


def test_the_picture_of_the_house_names_every_file():
    picture = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for top in ("app", "training"):
        for path in (ROOT / top).glob("*.py"):
            if path.name != "__init__.py":
                assert path.name in picture, path


def test_the_two_commands_stand_at_the_top_of_the_readme():
    top = (ROOT / "README.md").read_text("utf-8")[:300]
    assert "make serve" in top
    assert "make test" in top
