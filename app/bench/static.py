"""Owns the ceiling: the service's framework and server, answering a ready PNG from memory."""

from pathlib import Path

import typer
import uvicorn
from fastapi import FastAPI, Response


def main(png: Path, port: int) -> None:
    """Answer the bytes of PNG at /image.png on a loopback PORT."""
    app = FastAPI()
    data = png.read_bytes()

    @app.get("/image.png")
    async def image() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(data, media_type="image/png")

    uvicorn.run(
        app, port=port, http="httptools", loop="uvloop", access_log=False, log_level="critical"
    )


if __name__ == "__main__":
    typer.run(main)
