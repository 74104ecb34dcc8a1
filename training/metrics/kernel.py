"""Owns the kernel distance (KID): how far apart two sets of features are, without a bias by N."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.metrics.errors import Estimate, interleaved, jackknife

Features = NDArray[np.floating[Any]]
_BLOCK = 2048  # rows of a kernel matrix at a time: 2048 × 2048 doubles are 32 MB


def kernel_distance(fakes: Features, reals: Features) -> Estimate:
    """Unbiased squared MMD of features (n, F) and (m, F), n ≥ 4 and m ≥ 2.

    Kernel (x·y/F + 1)³ (Bińkowski et al. 2018, arXiv 1801.01401) over all pairs (Gretton et al.
    2012, eq. 3). Around 0 for independent samples of one distribution, so it can be negative; a
    little below 0 where both have the same share of each class. The error is `delete_a_group`'s,
    from the sums over pairs of groups. Raises ValueError for fewer rows.
    """
    if len(fakes) < 4 or len(reals) < 2:
        raise ValueError(
            f"kernel distance of {len(fakes)} and {len(reals)} features; expected 4 and 2, or more"
        )
    parts = interleaved(fakes)
    sizes = np.array([len(part) for part in parts])
    to_reals = np.array([_total(part, reals) for part in parts])
    among = _among(parts)
    among_reals = (_total(reals, reals) - _diagonal(reals)) / (len(reals) * (len(reals) - 1))

    def value(kept: NDArray[np.bool_]) -> float:
        n = sizes[kept].sum()
        pairs = among[np.ix_(kept, kept)].sum() / (n * (n - 1))
        return float(pairs - 2 * to_reals[kept].sum() / (n * len(reals)) + among_reals)

    everyone = np.ones(len(parts), bool)
    without_one = ~np.eye(len(parts), dtype=bool)
    return Estimate(value(everyone), jackknife(np.array([value(kept) for kept in without_one])))


def _among(parts: list[Features]) -> NDArray[np.float64]:
    """Sums of k over the pairs of different rows of each two groups, (g, g)."""
    sums = np.zeros((len(parts), len(parts)))
    for i, part in enumerate(parts):
        for j in range(i):
            sums[i, j] = sums[j, i] = _total(part, parts[j])
        sums[i, i] = _total(part, part) - _diagonal(part)
    return sums


def _total(a: Features, b: Features) -> float:
    """Σᵢⱼ k(aᵢ, bⱼ), a block of the kernel matrix at a time."""
    total = 0.0
    for i in range(0, len(a), _BLOCK):
        for j in range(0, len(b), _BLOCK):
            kernel = a[i : i + _BLOCK] @ b[j : j + _BLOCK].T / a.shape[1] + 1
            total += float((kernel * kernel * kernel).sum(dtype=np.float64))
    return total


def _diagonal(a: Features) -> float:
    """Σᵢ k(aᵢ, aᵢ)."""
    return float(((np.einsum("ij,ij->i", a, a) / a.shape[1] + 1) ** 3).sum(dtype=np.float64))
