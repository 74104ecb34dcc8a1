"""Owns the obvious code: a FastAPI endpoint that runs the generator on one latent."""

import os

import uvicorn
from fastapi import FastAPI, Response
from generator import Generator, png_of

app = FastAPI()
generator = Generator()


@app.get("/images/{seed}.png")
def image(seed: int) -> Response:
    return Response(png_of(generator.images([seed])[0]), media_type="image/png")


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning", access_log=False)
