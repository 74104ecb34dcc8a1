"""Owns the generator behind BentoML, with adaptive batching as its page on that says.

A batchable endpoint answers a list, so the PNG goes as base64 in JSON; bentoml_png_server.py has
the documented way to a bare PNG.
"""

import base64

import bentoml
from generator import BATCH, Generator, png_of


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Images:
    def __init__(self) -> None:
        self.generator = Generator()

    @bentoml.api(batchable=True, max_batch_size=BATCH)
    def generate(self, seeds: list[int]) -> list[str]:
        return [base64.b64encode(png_of(p)).decode() for p in self.generator.images(seeds)]
