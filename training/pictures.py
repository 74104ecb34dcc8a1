"""Owns the step from pixels to Pillow's pictures, and from those to PNG."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture_of(pixels: NDArray[np.uint8]) -> Image.Image:
    """(H, W, C), C = 1 or 3 → a grey or an RGB picture."""
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


def png_of(picture: Image.Image) -> bytes:
    """A picture as PNG bytes."""
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W, C), C = 1 or 3 → PNG bytes."""
    return png_of(picture_of(pixels))
