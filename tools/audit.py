"""Owns whether an installed package has a known vulnerability, and saying if nobody could tell.

pip-audit alone ends with "No known vulnerabilities found" also where no package was looked up: by
an index that has files and no advisories, or for a build such as torch's +cpu, which no index of
advisories lists. Run from the repository:

    python tools/audit.py
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import Annotated, Any, Literal

import typer

OURS = "noisewell"
FOUND, NOT_DONE = 1, 2  # exit codes
_TIMEOUT_SEC = 600
_SHOWN = 160

Ask = Callable[[Mapping[str, str], str], list[dict[str, Any]]]


class NotDoneError(Exception):
    """Nobody told anything of any package; says why."""


@dataclass(frozen=True)
class Audit:
    """What is known of the installed packages, each by its name and version.

    found: a line for each vulnerability. unknown: of whom nothing was told, and why.
    """

    packages: Mapping[str, str]
    found: tuple[str, ...]
    unknown: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        if self.found:
            return FOUND
        return NOT_DONE if self.unknown or not self.packages else 0

    def lines(self) -> list[str]:
        looked_at = len(self.packages) - len(self.unknown)
        told = f"{looked_at} of {len(self.packages)} packages looked at"
        lines = [*self.found, f"{told}, {len(self.found)} known vulnerabilities"]
        if self.unknown:
            name, why = next(iter(self.unknown.items()))
            others = f" and {len(self.unknown) - 1} more" if len(self.unknown) > 1 else ""
            lines[-1] += (
                f"; not done for {name}{others} ({why}): run it where advisories can be read, or"
                " ask others for them: make audit ARGS='--service osv'"
            )
        return lines


def installed() -> dict[str, str]:
    """Versions by name of what is installed here, but for us; without the label of a build."""
    found = {_plain(each.name): each.version.partition("+")[0] for each in distributions()}
    return {name: found[name] for name in sorted(found) if name != OURS}


def command_for(requirements: str, service: str) -> list[str]:
    """To look up the pinned packages of a file as they stand, resolving and installing nothing."""
    return [
        *(sys.executable, "-m", "pip_audit", "--requirement", requirements),
        *("--no-deps", "--disable-pip", "--vulnerability-service", service),
        *("--format", "json", "--progress-spinner", "off"),
    ]


def pip_audit(packages: Mapping[str, str], service: str) -> list[dict[str, Any]]:
    """What pip-audit tells of each; raises NotDoneError."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in packages.items())
        file.flush()
        command = command_for(file.name, service)
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SEC)
        except subprocess.TimeoutExpired:
            raise NotDoneError(f"{service} did not answer within {_TIMEOUT_SEC} s") from None
    try:
        return json.loads(ended.stdout)["dependencies"]
    except ValueError:
        said = ended.stderr.strip().splitlines() or ["it said nothing"]
        raise NotDoneError(f"{service} did not answer: {said[-1][:_SHOWN]}") from None


def audit(packages: Mapping[str, str], service: str, ask: Ask = pip_audit) -> Audit:
    """Ask about every package; one that the answer leaves out counts as unknown."""
    unknown = dict.fromkeys(packages, "it is not in the answer")
    found: list[str] = []
    try:
        for told in ask(packages, service):
            name = _plain(told["name"])
            if "skip_reason" in told:
                unknown[name] = told["skip_reason"]
            else:
                unknown.pop(name, None)
                found += [_line(name, told["version"], each) for each in told["vulns"]]
    except NotDoneError as error:
        unknown = dict.fromkeys(packages, str(error))
    return Audit(packages, tuple(found), unknown)


def _line(name: str, version: str, vulnerability: Mapping[str, Any]) -> str:
    mended = ", ".join(vulnerability["fix_versions"]) or "no version yet"
    return f"{name} {version}: {vulnerability['id']}, mended by {mended}"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    service: Annotated[
        Literal["pypi", "osv", "esms"], typer.Option(help="Whose advisories.")
    ] = "pypi",
) -> None:
    """End with 0 if every package was looked at and none is vulnerable, 1 if one is, else 2."""
    result = audit(installed(), service)
    for line in result.lines():
        typer.echo(line)
    raise typer.Exit(result.exit_code)


if __name__ == "__main__":
    cli()
