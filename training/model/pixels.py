"""Owns the one conversion between stored pixels [0, 255] and network pixels [-1, 1]."""

import torch
from torch import Tensor


def to_float(pixels: Tensor) -> Tensor:
    """uint8 in [0, 255] → float32 in [-1, 1], same shape."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Floats, nominally in [-1, 1] and clamped to it → uint8; inverts `to_float` exactly.

    Both steps run in float32: bf16 holds 8 bits of mantissa and would round 255 values to fewer.
    """
    return ((images.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
