"""An audit that could not be done never passes for one that found nothing."""

import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pytest
from typer.testing import CliRunner

import tools.audit as tool
from tools.audit import NotDoneError, audit, cli, command_for, installed

PACKAGES = {"annotated-doc": "0.0.7", "pillow": "12.3.0"}
CLEAN = [
    {"name": "annotated_doc", "version": "0.0.7", "vulns": []},
    {"name": "Pillow", "version": "12.3.0", "vulns": []},
]
HOLE = {"id": "PYSEC-1", "fix_versions": ["12.4.0"], "aliases": [], "description": "…"}


def told(answer: list[dict[str, Any]] | NotDoneError) -> tuple[int, list[str]]:
    def ask(packages: Mapping[str, str], service: str) -> list[dict[str, Any]]:
        if isinstance(answer, NotDoneError):
            raise answer
        return answer

    result = audit(PACKAGES, "pypi", ask)
    return result.exit_code, result.lines()


def test_packages_that_were_all_looked_at_pass():
    assert told(CLEAN) == (0, ["2 of 2 packages looked at, 0 known vulnerabilities"])


def test_a_vulnerability_is_named_with_what_mends_it():
    code, lines = told([CLEAN[0], {**CLEAN[1], "vulns": [HOLE]}])
    assert code == 1
    assert lines[0] == "pillow 12.3.0: PYSEC-1, mended by 12.4.0"
    assert lines[1].startswith("2 of 2 packages looked at, 1 known")


def test_a_vulnerability_counts_also_where_others_could_not_be_looked_at():
    code, lines = told([{**CLEAN[1], "vulns": [{**HOLE, "fix_versions": []}]}])
    assert code == 1
    assert lines[0].endswith("mended by no version yet")
    assert "not done for annotated-doc (it is not in the answer)" in lines[1]


@pytest.mark.parametrize(
    ("answer", "looked_at"),
    [
        ([], 0),
        (CLEAN[:1], 1),
        ([CLEAN[0], {"name": "pillow", "skip_reason": "not found"}], 1),
        ([{"name": each["name"], "skip_reason": "not found"} for each in CLEAN], 0),
        (NotDoneError("nobody answered"), 0),
    ],
)
def test_who_was_not_looked_at_makes_it_fail_in_one_line(answer, looked_at: int):
    code, lines = told(answer)
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"{looked_at} of 2 packages looked at, 0 known vulnerabilities; not")


def test_nothing_to_look_at_is_no_success():
    assert audit({}, "pypi", lambda packages, service: []).exit_code == 2


def test_all_that_is_installed_is_asked_about_by_the_version_that_is_published():
    found = installed()
    assert "noisewell" not in found
    assert found["torch"] == version("torch").partition("+")[0]
    assert found["pydantic-core"] == version("pydantic_core")


def test_pip_audit_takes_the_command(tmp_path):
    file = tmp_path / "pinned.txt"
    file.write_text("numpy==2.0.0\npillow==12.3.0\n")
    command = [*command_for(str(file), "pypi"), "--dry-run"]  # asks nobody
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "would have audited 2 packages" in ended.stderr


@pytest.mark.parametrize(
    ("stderr", "why"),
    [("Traceback …\nrequests.ConnectionError: no route\n", "no route"), ("", "it said nothing")],
)
def test_an_audit_that_breaks_off_says_its_last_line(monkeypatch, stderr: str, why: str):
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "pip_audit"]
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=stderr)

    monkeypatch.setattr(tool.subprocess, "run", run)
    result = CliRunner().invoke(cli, ["--service", "osv"])
    assert result.exit_code == 2
    assert result.stdout.count("\n") == 1
    assert "osv did not answer" in result.stdout
    assert why in result.stdout
