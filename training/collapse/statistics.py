"""Owns the statistics of mode collapse: pure functions of features, bins and classes.

Features are float tensors (n, F), one row an image. Distances are Euclidean.
"""

import torch
from torch import Tensor
from torch.nn.functional import pdist

NEIGHBOURS = 5
_ITERATIONS = 20


def mean_distance(features: Tensor) -> float:
    """The mean distance between two of n ≥ 2 rows: how different the images are."""
    return float(pdist(features).mean())


def mean_class_distances(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The mean distance between two rows of a class, shape (num_classes,); NaN under 2 rows."""
    of_class = (features[labels == c] for c in range(num_classes))
    return torch.stack([pdist(rows).mean() for rows in of_class])


def neighbour_radii(reals: Tensor) -> Tensor:
    """How far each real's k-th nearest other real is (k = NEIGHBOURS), shape (n,), n > k."""
    return torch.cdist(reals, reals).kthvalue(NEIGHBOURS + 1, dim=1).values  # the nearest is itself


def coverage(reals: Tensor, radii: Tensor, fakes: Tensor) -> float:
    """Share of reals with a fake nearer than their k-th real (Naeem et al. 2020, eq. 5).

    arXiv 2002.09797. In expectation 1 - 2⁻ᵏ for equally many of one distribution.
    """
    return float((torch.cdist(reals, fakes).amin(dim=1) < radii).float().mean())


def k_means(features: Tensor, bins: int, seed: int) -> Tensor:
    """Centres (bins, F) after Lloyd's algorithm from `bins` random rows; n ≥ bins."""
    draws = torch.Generator().manual_seed(seed)
    centres = features[torch.randperm(len(features), generator=draws)[:bins]]
    for _ in range(_ITERATIONS):
        nearest = torch.cdist(features, centres).argmin(dim=1)
        count = nearest.bincount(minlength=bins)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, features)
        centres = torch.where(count > 0, sums / count.clamp(min=1), centres)
    return centres


def bin_shares(features: Tensor, centres: Tensor) -> Tensor:
    """Share of the rows whose nearest centre is each of the centres, shape (bins,)."""
    nearest = torch.cdist(features, centres).argmin(dim=1)
    return nearest.bincount(minlength=len(centres)) / len(features)


def kept_share(shares: Tensor, before: Tensor) -> float:
    """How much of `before` stands in bins that hold at least a quarter of what they held.

    After the number of statistically different bins of Richardson & Weiss 2018 (arXiv 1805.12462),
    of which only the empty ones tell of lost modes; weighted, so that a rare bin counts little.
    """
    return float(before[shares >= before / 4].sum())


def class_margin(scores: Tensor, labels: Tensor) -> float:
    """How far the score of the class asked for is above the mean score; scores (n, classes).

    0 if images have nothing to do with their labels.
    """
    return float((scores.gather(1, labels[:, None]).squeeze(1) - scores.mean(dim=1)).mean())


def linear_scores(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Weights (F + 1, classes) of a linear discriminant analysis; the last row is the bias.

    Classes are Gaussians of one covariance and equal odds (Fisher 1936), the covariance shrunk by
    a hundredth of its mean variance so that it can be inverted. Each class needs a row.
    """
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(num_classes)])
    rest = features - means[labels]
    covariance = rest.T @ rest / len(features)
    covariance.diagonal().add_(0.01 * covariance.diagonal().mean() + 1e-12)
    weights = torch.linalg.solve(covariance, means.T)  # (F, classes)
    return torch.cat([weights, -0.5 * (means.T * weights).sum(dim=0, keepdim=True)])
