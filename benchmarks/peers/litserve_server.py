"""Owns the generator behind LitServe, batched as its pages on batching and on images say."""

import os

import litserve as ls
import numpy as np
from fastapi import Response
from generator import BATCH, WAIT_SEC, Generator, png_of


class Images(ls.LitAPI):
    def setup(self, device: str) -> None:
        self.generator = Generator()

    def decode_request(self, request: dict) -> int:
        return request["seed"]

    def predict(self, seeds: list[int]) -> np.ndarray:
        return self.generator.images(seeds)

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(png_of(output), media_type="image/png")


if __name__ == "__main__":
    api = Images(max_batch_size=BATCH, batch_timeout=WAIT_SEC)
    server = ls.LitServer(api, accelerator="cpu", timeout=60)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        log_level="warning",
        generate_client_file=False,
    )
