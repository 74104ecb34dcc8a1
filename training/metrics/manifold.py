"""Owns precision, recall, density and coverage: do fakes lie where reals lie, and everywhere?"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.metrics.errors import Estimate

Features = NDArray[np.floating[Any]]
K = 5
_CHUNK = 8_000_000  # distances in memory at a time: 32 MB


def prdc(
    fakes: Features,
    reals: Features,
    k: int = K,
    device: torch.device | None = None,
) -> dict[str, Estimate]:
    """Features (n, F) and (m, F) → precision, recall, density, coverage.

    The ball of a point reaches to its k-th nearest neighbour among its own kind. precision: share
    of fakes in some real's ball; recall: of reals in some fake's ball (Kynkäänniemi et al. 2019,
    arXiv 1904.06991). density: real balls a fake is in, over k; coverage: share of reals
    whose ball holds a fake (Naeem et al. 2020, arXiv 2002.09797). All are within [0, 1]
    but density, which is 1 for equal distributions. They depend on n and m: compare equal counts.
    Raises ValueError if either has k or fewer rows.
    """
    if min(len(fakes), len(reals)) <= k:
        raise ValueError(
            f"{len(fakes)} fakes and {len(reals)} reals; expected more than k = {k} of each"
        )
    f, r = _on(fakes, reals, device)
    fake_reach, real_reach = _reach(f, k), _reach(r, k)
    balls_of_fake = torch.zeros(len(f), dtype=torch.int64, device=f.device)
    in_fake_ball, holds_fake = [], []
    for rows in _chunks(len(r), len(f)):
        distance = _distances(r[rows], f)  # (chunk, n)
        inside = distance <= real_reach[rows, None]
        balls_of_fake += inside.sum(0)
        holds_fake.append(inside.any(1))
        in_fake_ball.append((distance <= fake_reach).any(1))
    counts = balls_of_fake.cpu().double().numpy()
    n, m = len(f), len(r)
    return {
        "precision": _of_fakes(counts > 0),
        "recall": _of_reals(torch.cat(in_fake_ball), n, m),
        "density": _of_fakes(counts / k),
        "coverage": _of_reals(torch.cat(holds_fake), n, m),
    }


def _on(fakes: Features, reals: Features, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """Both as fp32 around their common centre, where squared distances lose fewest digits."""
    centre = reals.mean(axis=0)
    f, r = ((x - centre).astype(np.float32) for x in (fakes, reals))
    return torch.from_numpy(f).to(device), torch.from_numpy(r).to(device)


def _reach(points: Tensor, k: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other point, (n,)."""
    reach = torch.empty(len(points), device=points.device)
    for rows in _chunks(len(points), len(points)):
        distance = _distances(points[rows], points)
        distance[:, rows].fill_diagonal_(math.inf)
        reach[rows] = distance.topk(k, dim=1, largest=False).values[:, -1]
    return reach


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared, (len(a), len(b))."""
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1)
    return torch.addmm(squares, a, b.T, alpha=-2).clamp_(min=0)


def _chunks(rows: int, columns: int) -> list[slice]:
    size = max(1, _CHUNK // columns)
    return [slice(i, min(i + size, rows)) for i in range(0, rows, size)]


def _of_fakes(values: NDArray) -> Estimate:
    """A mean over fakes, which are independent given the reals."""
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(len(values))))


def _of_reals(hits: Tensor, n: int, m: int) -> Estimate:
    """A share of the reals, each judged by the fakes around it.

    The error has no closed form; √(p(1-p)(1/n + 1/m)/2) was .74 to 1.11 times the spread over fresh
    fakes, of Gaussians and of trained generators (`test_manifold.py`, docs/measuring.md).
    """
    p = float(hits.cpu().double().mean())
    return Estimate(p, math.sqrt(p * (1 - p) * (1 / n + 1 / m) / 2))
