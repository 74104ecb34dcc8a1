"""Owns the gradient penalties of D: zero-centred, exact or by finite differences; one-centred.

‖∇ₓD(x)‖² on reals is R1, on fakes R2 (Mescheder et al. 2018, arXiv 1801.04406, eq. 9 and the
next); the caller scales by γ/2. All return one value per image, shape (B,).
"""

import torch
from torch import Tensor


def exact_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇ₓD(x)‖² summed over all of an image, differentiable in D's weights.

    logits: D(images), shape (B,); images: shape (B, …), with requires_grad set.
    """
    # D scores each image by itself, so the gradient of the sum is every image's own gradient.
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(dim=1)


def one_centred_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """(‖∇D(x̂)‖ - 1)², the GP of Wasserstein GANs (Gulrajani et al. 2017, arXiv 1704.00028, eq. 3).

    Arguments as of `exact_penalty`; images lie between a real and a fake.
    """
    # The root has no slope at 0, where a fresh D may stand.
    return ((exact_penalty(logits, images) + 1e-12).sqrt() - 1).square()


def finite_difference_penalty(logits: Tensor, moved_logits: Tensor, epsilon: float) -> Tensor:
    """((D(x + εn) - D(x))/ε)², whose mean over n ~ N(0, I) is ‖∇D‖² + O(ε²).

    It needs no double backward. logits: D(x), moved_logits: D(x + εn), shape (B,), both in fp32,
    since ε divides their difference. Source: finite-difference R1/R2 in Adversarial Flow Models,
    arXiv 2511.22475.
    """
    return ((moved_logits - logits) / epsilon).square()
