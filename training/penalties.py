"""Owns the zero-centred gradient penalties ‖∇ₓD(x)‖², exact and by finite differences.

On reals it is R1, on fakes R2 (Mescheder et al. 2018, arXiv 1801.04406, eq. 9 and the next).
The caller scales by γ/2. Both return one value per image, shape (B,).
"""

import torch
from torch import Tensor


def exact_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇ₓD(x)‖² summed over C, H, W, differentiable in D's weights.

    logits: D(images), shape (B,); images: shape (B, C, H, W), with requires_grad set.
    """
    # D scores each image by itself, so the gradient of the sum is every image's own gradient.
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3))


def finite_difference_penalty(logits: Tensor, moved_logits: Tensor, epsilon: float) -> Tensor:
    """((D(x + εn) - D(x))/ε)², whose mean over n ~ N(0, I) is ‖∇D‖² + O(ε²).

    It needs no double backward. logits: D(x), moved_logits: D(x + εn), shape (B,), both in fp32,
    since ε divides their difference. Source: finite-difference R1/R2 in Adversarial Flow Models,
    arXiv 2511.22475.
    """
    return ((moved_logits - logits) / epsilon).square()
