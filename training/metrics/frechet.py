"""Owns the Fréchet distance between two sets of features."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def frechet_distance(a: Array, b: Array) -> float:
    """‖μ₁-μ₂‖² + tr(Σ₁ + Σ₂ - 2(Σ₁Σ₂)^½) of features a (n, F) and b (m, F), n, m ≥ 2.

    The distance between the Gaussians fitted to them (Dowson & Landau 1982; Heusel et al. 2017,
    arXiv 1706.08500, eq. 6). In float64; raises ValueError for fewer than 2 rows.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"Fréchet distance of {len(a)} and {len(b)} features; expected 2 or more")
    return gaussian_distance(a.mean(axis=0), _covariance(a), b.mean(axis=0), _covariance(b))


def gaussian_distance(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """The same from means (F,) and covariances (F, F)."""
    # tr (Σ₁Σ₂)^½ = tr (Σ₁^½ Σ₂ Σ₁^½)^½, which is symmetric: no complex square roots.
    root_a = _sqrt(cov_a)
    eigenvalues = np.linalg.eigvalsh(root_a @ cov_b @ root_a)
    trace_root = np.sqrt(eigenvalues.clip(min=0)).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * trace_root
    return float(max(distance, 0.0))


def _covariance(features: Array) -> Array:
    return np.atleast_2d(np.cov(features, rowvar=False))


def _sqrt(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
