"""Owns how a benchmark tells what it found: figures, each beside the bar it has to pass."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Verdicts:
    """Lines as they come; `exit_code` is 1 as soon as one did not pass."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def note(self, text: str) -> None:
        """A figure without a bar."""
        print(f"         {text}", flush=True)
        self.lines.append({"text": text})

    def check(self, text: str, passed: bool) -> None:
        """`text` names the figure and its bar."""
        print(f"{'ok' if passed else 'MISSED':>7}  {text}", flush=True)
        self.lines.append({"text": text, "passed": passed})

    @property
    def exit_code(self) -> int:
        return 0 if all(line.get("passed", True) for line in self.lines) else 1
