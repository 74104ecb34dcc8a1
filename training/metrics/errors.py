"""Owns standard errors: how far a number would move if its samples were drawn again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatT = TypeVar("FloatT", bound=np.floating[Any])

GROUPS = 20


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error, the reals it was measured against held fixed."""

    value: float
    se: float


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of estimates from samples that share nothing."""
    values, errors = [e.value for e in estimates], [e.se for e in estimates]
    return Estimate(float(np.mean(values)), math.hypot(*errors) / len(estimates))


def share(hits: NDArray[np.bool_]) -> Estimate:
    """The share of n independent samples that have a property; se = √(p(1-p)/n)."""
    p = float(hits.mean())
    return Estimate(p, math.sqrt(p * (1 - p) / len(hits)))


def jackknife(left_out: NDArray[np.float64]) -> float:
    """Standard error from the values (g,) that a number has without each of g equal parts.

    √((g-1)/g Σ(θ₍ᵢ₎ - θ̄)²) (Tukey 1958). On average it is not too small (Efron & Stein 1981).
    """
    g = len(left_out)
    return math.sqrt((g - 1) / g * float(((left_out - left_out.mean()) ** 2).sum()))


def interleaved(rows: NDArray[FloatT]) -> list[NDArray[FloatT]]:
    """rows (n, …), n ≥ 4, in at most GROUPS groups, every g-th in one: rows sorted by class fall
    into groups of the same shares."""
    groups = min(GROUPS, len(rows) // 2)
    return [rows[g::groups] for g in range(groups)]


def delete_a_group(
    statistic: Callable[[NDArray[np.float64]], float], rows: NDArray[np.float64]
) -> float:
    """The jackknife of `statistic` over interleaved groups of rows (n, …), n ≥ 4."""
    parts = interleaved(rows)
    left_out = [np.concatenate(parts[:g] + parts[g + 1 :]) for g in range(len(parts))]
    return jackknife(np.array([statistic(kept) for kept in left_out]))
