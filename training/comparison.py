"""Owns two reports side by side: every number they share, and what the gate makes of them."""

import math
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from training.history import real_score

Metrics = Mapping[str, Any]


def shared_numbers(a: Metrics, b: Metrics) -> list[str]:
    """Names of the numbers that both reports give with a standard error, in their order."""
    return [name for name in a if f"{name}_se" in a and f"{name}_se" in b and name in b]


def difference(a: Metrics, b: Metrics, name: str) -> tuple[float, float]:
    """B less A, and the standard error of that: both were measured on fakes of their own."""
    return b[name] - a[name], math.hypot(a[f"{name}_se"], b[f"{name}_se"])


def comparison_table(a: Metrics, b: Metrics, names: tuple[str, str]) -> Table:
    """A row a number; differences of more than two standard errors are marked."""
    samples, kind = f"{a['num_samples']:,} samples each", f"evaluator {a['evaluator']}"
    table = Table("", "real images", *names, "difference", "", title=f"{samples}, {kind}")
    for name in shared_numbers(a, b):
        real = real_score(a, name)
        delta, error = difference(a, b, name)
        table.add_row(
            name,
            "" if real is None else f"{real:.4f}",
            f"{a[name]:.4f} ± {a[f'{name}_se']:.4f}",
            f"{b[name]:.4f} ± {b[f'{name}_se']:.4f}",
            f"{delta:+.4f} ± {error:.4f}",
            "*" if abs(delta) > 2 * error else "",
        )
    return table
