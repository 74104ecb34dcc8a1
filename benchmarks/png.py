"""Owns the proof of the PNG writer: what a file costs in time and bytes, and what a browser sees.

    python benchmarks/png.py table
    python benchmarks/png.py table --data cifar/train.zip
    python benchmarks/png.py browser --command chromium

`table` holds our writer against Pillow's with its defaults, in turns. Photo-like images are noise
with the spectrum of a photograph (amplitude 1/f, colours that mostly agree) and a camera's grain.
"""

import base64
import io
import json
import os
import queue
import statistics
import subprocess
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from app import animations, png
from training.model.checkpoint import load_generator
from training.model.sampling import Sampler

BATCH = 64
TURN_SEC = 0.02
PATIENCE_SEC = 120
ABOUT = {"model": "mnist", "version": 1, "digest": "0123456789abcdef" * 4, "seed": 2**52}
ABOUT |= {"class": "7", "truncation": 1.0, "certificate": "0123456789ab"}

cli = typer.Typer(add_completion=False, help=__doc__)


@cli.command()
def table(
    data: Annotated[Path | None, typer.Option(help="A zip of RGB images of one size.")] = None,
    seconds: Annotated[float, typer.Option(help="Spent on each row.")] = 5,
) -> None:
    """Print microseconds an image, metadata included: alone, and as one of a batch. The last
    columns are how many times faster the better of them is, and bytes as a share of Pillow's."""
    torch.set_num_threads(1)
    report("digits in the box", digits(512), seconds)
    if data is not None:
        images = images_of(data, 256)
        report(data.name, images, seconds)
        for size in (64, 256):
            report(f"{data.name}, enlarged", enlarged(images[: 2**14 // size], size), seconds)
    for size, n in ((32, 128), (64, 128), (256, 16), (1024, 3)):
        photographs = np.stack([photograph(size, seed) for seed in range(n)])
        report("photo-like", photographs, seconds)
    Console(width=100).print(TABLE)
    print(f"beside a busy Python thread: {beside_a_busy_thread()}")


TABLE = Table("images", "size", "alone", f"of {BATCH}", "Pillow", "times", "bytes")


def report(name: str, images: np.ndarray, seconds: float) -> None:
    n, height, width, channels = images.shape
    batch = images[np.arange(BATCH) % n] if height <= 256 else images
    alone, together, pillow = medians(
        seconds,
        lambda i: png.encode_png(images[i % n], ABOUT),
        lambda _: png.encode_many(batch, [ABOUT] * len(batch)),
        lambda i: by_pillow(images[i % n]),
    )
    together /= len(batch)
    ours = sum(map(len, png.encode_many(images, [None] * n)))
    TABLE.add_row(
        name,
        f"{height}×{width}×{channels}",
        *(f"{1e6 * sec:.1f}" for sec in (alone, together, pillow)),
        f"{pillow / min(alone, together):.1f}",
        f"{ours / sum(len(by_pillow(image)) for image in images):.3f}",
    )


def medians(seconds: float, *calls: Callable[[int], object]) -> list[float]:
    """Seconds of each call. They take turns, of some calls each, until the time is over."""
    taken: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken[0]) < 3:
        for call, times in zip(calls, taken, strict=True):
            times += turn(call)
    return [statistics.median(times) for times in taken]


def turn(call: Callable[[int], object]) -> list[float]:
    times: list[float] = []
    while sum(times) < TURN_SEC:
        began = time.perf_counter()
        call(len(times))
        times.append(time.perf_counter() - began)
    return times


def beside_a_busy_thread() -> str:
    """What a batch of digits takes while another thread computes without pause."""
    images = digits(BATCH)
    alone, _ = batches(images)
    with busy_thread():
        beside, worst = batches(images)
    return (
        f"a batch of {BATCH} digits takes {beside:.2f} ms (median; {worst:.1f} ms for the slowest "
        f"of ten) in place of {alone:.2f}"
    )


def batches(images: np.ndarray, rounds: int = 200) -> tuple[float, float]:
    """Median and 90th percentile, in ms."""
    times: list[float] = []
    for _ in range(rounds):
        time.sleep(0.002)
        began = time.perf_counter()
        png.encode_many(images, [ABOUT] * len(images))
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times), statistics.quantiles(times, n=10)[-1]


@contextmanager
def busy_thread() -> Iterator[None]:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def by_pillow(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    png.to_pillow(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def digits(n: int) -> np.ndarray:
    """(n, 28, 28, 1) of the seeds from 0 on."""
    with resources.as_file(resources.files("training.model") / "bundled" / "mnist") as version_dir:
        sampler = Sampler(*load_generator(version_dir), torch.device("cpu"))
    return sampler.from_seeds(range(n))


def images_of(path: Path, n: int) -> np.ndarray:
    """Up to n images of a zip, from all over it, (n, H, W, 3)."""
    with zipfile.ZipFile(path) as archive:
        names = [x for x in archive.namelist() if x.lower().endswith((".png", ".jpg", ".jpeg"))]
        some = names[:: -(-len(names) // n)]
        return np.stack([np.asarray(Image.open(archive.open(x)).convert("RGB")) for x in some])


def enlarged(images: np.ndarray, size: int) -> np.ndarray:
    big = [
        Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in images
    ]
    return np.stack([np.asarray(image) for image in big])


def photograph(size: int, seed: int) -> np.ndarray:
    """Noise with a photograph's spectrum and a grain of 2 levels, (size, size, 3)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    grey, *colours = (
        np.fft.irfft2(np.fft.rfft2(rng.normal(size=(size, size))) / frequency, (size, size))
        for _ in range(4)
    )
    image = np.stack([grey + 0.3 * colour for colour in colours], axis=2)
    grain = rng.normal(scale=2, size=image.shape)
    return np.clip(128 + 50 * image / image.std() + grain, 0, 255).astype(np.uint8)


@cli.command()
def browser(
    command: Annotated[str, typer.Option(help="A Chromium.")] = "chromium",
) -> None:
    """Let a browser decode PNG, APNG and WebP, and compare every pixel of every frame."""
    cases = [case(f"{size}", image[None]) for size, image in stills()]
    for format in ("apng", "webp"):
        for channels in (1, 3):
            frames = moving(9, channels)
            cases.append(case(format, frames, animations.encode(frames, format, 40, ABOUT), format))
    verdict = asked_of(command, json.dumps(cases).encode())
    print(verdict)
    if not verdict.startswith(f"{len(cases)} of {len(cases)} "):
        raise typer.Exit(1)


def asked_of(command: str, cases: bytes) -> str:
    """What the page says once it has looked at all cases."""
    verdicts: queue.Queue[str] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(cases if self.path == "/cases" else PAGE)

        def do_POST(self) -> None:
            verdicts.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.answer(b"")

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = ["--headless", "--disable-gpu", *["--no-sandbox"] * (os.geteuid() == 0)]
    page = f"http://127.0.0.1:{server.server_port}/"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        chromium = subprocess.Popen(
            [command, *options, f"--user-data-dir={profile}", page], stderr=subprocess.DEVNULL
        )
        try:
            return verdicts.get(timeout=PATIENCE_SEC)
        except queue.Empty:
            return f"no verdict within {PATIENCE_SEC} s"
        finally:
            chromium.terminate()
            chromium.wait()
            server.shutdown()


def stills() -> list[tuple[int, np.ndarray]]:
    rng = np.random.default_rng(0)
    images: list[tuple[int, np.ndarray]] = []
    for size in (1, 2, 28, 33, 256, 1024):
        kinds = (
            photograph(size, 0) if size > 1 else rng.integers(0, 256, (1, 1, 3), np.uint8),
            rng.integers(0, 256, (size, size, 3), np.uint8),
            np.full((size, size, 3), 77, np.uint8),
        )
        for image in kinds:
            images += [(size, image), (size, np.ascontiguousarray(image[:, :, :1]))]
    return images


def moving(n: int, channels: int) -> np.ndarray:
    image = photograph(64, 1)[:, :, :channels]
    return np.stack([np.roll(image, 5 * i, axis=1) for i in range(n)])


def case(
    name: str, frames: np.ndarray, data: bytes | None = None, format: str = "png"
) -> dict[str, object]:
    """A file and what it must show: frames as RGB."""
    shown = np.ascontiguousarray(np.broadcast_to(frames, (*frames.shape[:3], 3)))
    return {
        "name": f"{name} {frames.shape}",
        # Chromium's decoder has one name for both.
        "type": "image/png" if format == "apng" else f"image/{format}",
        "file": base64.b64encode(data or png.encode_png(frames[0], ABOUT)).decode(),
        "frames": [base64.b64encode(frame.tobytes()).decode() for frame in shown],
        "size": frames.shape[1:3],
    }


PAGE = b"""<!doctype html><body><script>
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0))

function equal(drawable, [height, width], wanted) {
  const canvas = new OffscreenCanvas(width, height).getContext("2d")
  canvas.drawImage(drawable, 0, 0)
  const seen = canvas.getImageData(0, 0, width, height).data
  for (let pixel = 0; pixel < width * height; pixel++)
    for (let k = 0; k < 4; k++)
      if (seen[4 * pixel + k] !== (k < 3 ? wanted[3 * pixel + k] : 255)) return false
  return true
}

async function check(one) {
  const data = bytes(one.file)
  if (one.frames.length === 1) {
    const bitmap = await createImageBitmap(new Blob([data], { type: one.type }))
    return equal(bitmap, one.size, bytes(one.frames[0]))
  }
  const decoder = new ImageDecoder({ data, type: one.type })
  await decoder.tracks.ready
  const { frameCount, repetitionCount } = decoder.tracks.selectedTrack
  if (frameCount !== one.frames.length || repetitionCount !== Infinity) return false
  for (let frameIndex = 0; frameIndex < frameCount; frameIndex++) {
    const { image } = await decoder.decode({ frameIndex })
    if (!equal(image, one.size, bytes(one.frames[frameIndex]))) return false
  }
  return true
}

async function main() {
  const cases = await (await fetch("/cases")).json(), wrong = []
  for (const one of cases)
    if (!await check(one).catch(() => false)) wrong.push(one.name)
  const said = `${cases.length - wrong.length} of ${cases.length} files are equal in every pixel`
  await fetch("/", { method: "POST", body: [said, ...wrong].join("; ") })
}
main()
</script>
"""


if __name__ == "__main__":
    cli()
