"""Owns what every peer serves: the generator in the box, one PNG a seed, encoded by Pillow."""

import io
import os
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.model.checkpoint import load_generator
from training.model.pixels import to_uint8
from training.model.sampling import classes_of, latents_of

BATCH = 64
WAIT_SEC = 0.002


class Generator:
    """The bundled model, with the torch threads that THREADS says."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ["THREADS"]))
        box = Path(str(resources.files("training.model").joinpath("bundled")))
        self.model, self.config = load_generator(box / "mnist")

    @torch.inference_mode()
    def images(self, seeds: list[int]) -> np.ndarray:
        """uint8 (n, H, W, C)."""
        z = torch.from_numpy(latents_of(seeds, self.config.z_dim))
        c = torch.from_numpy(classes_of(seeds, self.config.num_classes))
        return to_uint8(self.model(z, c)).permute(0, 2, 3, 1).numpy()


def png_of(pixels: np.ndarray) -> bytes:
    """pixels uint8 (H, W, 1) → PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2)).save(buffer, "PNG")
    return buffer.getvalue()
