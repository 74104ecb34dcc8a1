"""Owns the step from a version directory to a generator in the box, its weights in fp16.

    python -m benchmarks.box DATA/models/mnist/1 training/model/bundled/mnist

Half the bytes, and the images stay what they were: the command draws with both and refuses if any
pixel moves by more than 1 of 255.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from training.cards import make_card, to_markdown
from training.model.checkpoint import load_generator, narrowed, serialize
from training.model.files import sha256_bytes, write_json
from training.model.manifest import read_manifest, sealed

PICTURES = ("samples.png", "memorisation.png")


def main(
    version_dir: Path,
    box: Path,
    licence: Annotated[str | None, typer.Option(help="Of the data, if the run knew none.")] = None,
    n: Annotated[int, typer.Option(help="Images that are drawn with both weights.")] = 256,
) -> None:
    """Put a version in the box."""
    generator, _ = load_generator(version_dir)
    weights = serialize(narrowed(generator.state_dict()))
    manifest = {**read_manifest(version_dir), "digest": sha256_bytes(weights)}
    if licence:
        manifest["lineage"]["licence"] = licence
    manifest.pop("promotion", None)  # what was decided against another registry's champion
    metrics = json.loads((version_dir / "metrics.json").read_bytes())
    card = make_card(manifest, metrics, PICTURES)
    box.mkdir(parents=True, exist_ok=True)
    (box / "generator.safetensors").write_bytes(weights)
    write_json(box / "manifest.json", sealed(manifest))
    write_json(box / "metrics.json", metrics)
    write_json(box / "card.json", card)
    (box / "card.md").write_text(to_markdown(card), "utf-8")
    for name in PICTURES:
        (box / name).write_bytes((version_dir / name).read_bytes())
    moved = np.abs(_drawn(version_dir, n) - _drawn(box, n))
    print(
        f"{box}: {len(weights) / 1e6:.1f} MB; {(moved > 0).mean():.2%} of pixels of {n} images"
        f" moved, the most by {moved.max()} of 255"
    )
    raise typer.Exit(int(moved.max() > 1))


def _drawn(version_dir: Path, n: int) -> NDArray[np.int16]:
    """Pixels of n images in fp32: bf16, in which a service draws, would add its own rounding."""
    generator, network = load_generator(version_dir)
    z = torch.randn(n, network.z_dim, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        images = generator(z, torch.arange(n) % max(network.num_classes, 1))
    return ((images.clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.int16)


if __name__ == "__main__":
    typer.run(main)
