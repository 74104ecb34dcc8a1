"""Owns the generator behind Ray Serve, batched by `@serve.batch` as its page on batching says."""

import os

import ray
from generator import BATCH, WAIT_SEC, Generator, png_of
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(max_ongoing_requests=4 * BATCH)
class Images:
    def __init__(self) -> None:
        self.generator = Generator()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_SEC)
    async def generate(self, seeds: list[int]) -> list[bytes]:
        return [png_of(pixels) for pixels in self.generator.images(seeds)]

    async def __call__(self, request: Request) -> Response:
        data = await self.generate(int(request.query_params["seed"]))
        return Response(data, media_type="image/png")


if __name__ == "__main__":
    ray.init(include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Images.bind(), blocking=True)
