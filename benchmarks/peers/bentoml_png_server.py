"""Owns the generator behind BentoML with a bare PNG as the answer, as its pages on composition say:
a service that answers one image calls another whose endpoint is batched."""

import bentoml
import numpy as np
from generator import BATCH, Generator
from PIL import Image

QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=1, traffic={"timeout": 60}, logging=QUIET)
class Batches:
    def __init__(self) -> None:
        self.generator = Generator()

    @bentoml.api(batchable=True, max_batch_size=BATCH)
    def generate(self, seeds: list[int]) -> np.ndarray:
        return self.generator.images(seeds)


@bentoml.service(workers=1, traffic={"timeout": 60}, logging=QUIET)
class Images:
    batches = bentoml.depends(Batches)

    @bentoml.api
    async def generate(self, seed: int) -> Image.Image:
        images = await self.batches.to_async.generate([seed])
        return Image.fromarray(images[0].squeeze(2))
