"""The documents say what is so: settings, commands, files and figures they name exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from typer.main import get_command

from app.cli import cli
from app.settings import Settings
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
