"""Owns the command line of the data side: `python -m training.data import | inspect`."""

import csv
import json
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from training.data.dataset import DataError, is_packed, load_dataset
from training.data.importing import import_dataset, inspect_source
from training.data.options import MAX_RESOLUTION, MIN_DECODER_BYTES, ImportOptions, Limits
from training.data.progress import as_lines, shown
from training.parent import Interrupt, exit_with_stdin, fail

DISK_ERROR = 1
STOPPED = 143  # as a shell reports an end by SIGTERM
LISTED = 20

cli = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Source = Annotated[
    Path, typer.Argument(help="Folder, zip, .npy, .npz, IDX, CIFAR batches or packed dataset.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
MaxFiles = Annotated[int, typer.Option(min=1, help="Files, or entries of a zip.")]
MaxBytes = Annotated[int, typer.Option(min=1, help="Unpacked bytes.")]
MaxZipRatio = Annotated[int, typer.Option(min=1, help="Unpacked bytes to those of the zip.")]
MaxImageBytes = Annotated[int, typer.Option(min=1, help="Of one image file.")]
MaxImagePixels = Annotated[int, typer.Option(min=16, help="Of one image.")]
MaxImageSec = Annotated[float, typer.Option(min=0.01, help="Processor time for one image.")]
MaxDecoderBytes = Annotated[
    int, typer.Option(min=MIN_DECODER_BYTES, help="Memory of a process that decodes.")
]


@cli.command("import")
def import_(
    source: Source,
    out: Annotated[Path, typer.Option(help="Directory to make; it must not exist.")],
    name: Annotated[str, typer.Option(help="What the dataset is called.")],
    resolution: Annotated[int | None, typer.Option(help="Side in pixels.")] = None,
    max_resolution: Annotated[
        int, typer.Option(min=28, help="Of those that are chosen from the images.")
    ] = MAX_RESOLUTION,
    channels: Annotated[int | None, typer.Option(help="1 (grey) or 3 (colour).")] = None,
    background: Annotated[str, typer.Option(help="Under transparent pixels, as in CSS.")] = "white",
    labels: Annotated[Path | None, typer.Option(help="CSV or JSON lines of file, class.")] = None,
    classes: Annotated[str | None, typer.Option(help="Only these, by commas.")] = None,
    max_per_class: Annotated[int | None, typer.Option(min=1, help="Images, not more.")] = None,
    append_to: Annotated[
        Path | None, typer.Option(help="Packed dataset whose images come first.")
    ] = None,
    max_files: MaxFiles = Limits.max_files,
    max_bytes: MaxBytes = Limits.max_bytes,
    max_zip_ratio: MaxZipRatio = Limits.max_zip_ratio,
    max_bad_share: Annotated[float, typer.Option(min=0, max=1)] = Limits.max_bad_share,
    min_images: Annotated[int, typer.Option(min=1)] = Limits.min_images,
    max_image_bytes: MaxImageBytes = Limits.max_image_bytes,
    max_image_pixels: MaxImagePixels = Limits.max_image_pixels,
    max_image_sec: MaxImageSec = Limits.max_image_sec,
    max_decoder_bytes: MaxDecoderBytes = Limits.max_decoder_bytes,
    licence: Annotated[str | None, typer.Option(help="Of the images; the cards tell it.")] = None,
    follow_stdin: Annotated[bool, typer.Option("--exit-with-stdin", hidden=True)] = False,
    as_json: AsJson = False,
    json_progress: Annotated[bool, typer.Option("--json-progress", hidden=True)] = False,
) -> None:
    """Turn images into a packed dataset, each file with a verdict."""
    stop_cleanly(follow_stdin)
    options = ImportOptions(
        name,
        resolution=resolution,
        max_resolution=max_resolution,
        channels=channels,
        background=background,
        labels=labels,
        classes=None if classes is None else comma_separated(classes),
        max_per_class=max_per_class,
        append_to=append_to,
        licence=licence,
        limits=Limits(
            max_files=max_files,
            max_bytes=max_bytes,
            max_zip_ratio=max_zip_ratio,
            max_bad_share=max_bad_share,
            min_images=min_images,
            max_image_bytes=max_image_bytes,
            max_image_pixels=max_image_pixels,
            max_image_sec=max_image_sec,
            max_decoder_bytes=max_decoder_bytes,
        ),
    )
    told = as_lines() if json_progress else shown(f"Importing {source.name}")
    with bad_input_is_one_line(), told as progress:
        manifest = import_dataset(source, out, options, progress).manifest
    typer.echo(json.dumps(manifest) if as_json or json_progress else describe_packed(manifest))


@cli.command()
def inspect(
    path: Source,
    max_files: MaxFiles = Limits.max_files,
    max_bytes: MaxBytes = Limits.max_bytes,
    max_zip_ratio: MaxZipRatio = Limits.max_zip_ratio,
    max_image_bytes: MaxImageBytes = Limits.max_image_bytes,
    max_image_pixels: MaxImagePixels = Limits.max_image_pixels,
    max_image_sec: MaxImageSec = Limits.max_image_sec,
    max_decoder_bytes: MaxDecoderBytes = Limits.max_decoder_bytes,
    as_json: AsJson = False,
) -> None:
    """Say what a packed dataset holds, or what importing anything else would find."""
    stop_cleanly(follow_stdin=False)
    with bad_input_is_one_line():
        if is_packed(path):
            facts, text = load_dataset(path).manifest, describe_packed
        else:
            limits = Limits(
                max_files=max_files,
                max_bytes=max_bytes,
                max_zip_ratio=max_zip_ratio,
                max_image_bytes=max_image_bytes,
                max_image_pixels=max_image_pixels,
                max_image_sec=max_image_sec,
                max_decoder_bytes=max_decoder_bytes,
            )
            facts, text = _inspect(path, limits), describe_source
    typer.echo(json.dumps(facts) if as_json else text(facts))


def _inspect(path: Path, limits: Limits) -> dict[str, Any]:
    with shown(f"Reading {path.name}") as progress, tempfile.TemporaryDirectory() as scratch:
        return inspect_source(path, Path(scratch), limits, progress)


def comma_separated(text: str) -> tuple[str, ...]:
    """Names between commas; a name that has commas itself stands in quotes, as in a CSV."""
    return tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), []))


def describe_packed(manifest: dict[str, Any]) -> str:
    """A manifest in a few lines for people."""
    return "\n".join(
        [
            "{name}: {num_images} images of {resolution}×{resolution}×{channels},"
            " {num_heldout} held out".format(**manifest),
            *_classes(manifest),
            "{converted} converted, {rejected} rejected".format(**manifest),
            *_rejections(manifest),
            "hash {hash}".format(**manifest),
        ]
    )


def describe_source(facts: dict[str, Any]) -> str:
    """What `inspect_source` found, in a few lines for people."""
    return "\n".join(
        [
            "{source}: {files} images, shorter side {median_side} in the median".format(**facts),
            "would become {resolution}×{resolution}×{channels}".format(**facts),
            *_classes(facts),
            "{rejected} rejected by their headers".format(**facts),
            *_rejections(facts),
        ]
    )


def _classes(facts: dict[str, Any]) -> list[str]:
    counts = [f"{name} ({count})" for name, count in facts["counts"].items()]
    if not counts:
        return ["no classes"]
    more = f", … {len(counts) - LISTED} more" if len(counts) > LISTED else ""
    return [f"{len(counts)} classes: {', '.join(counts[:LISTED])}{more}"]


def _rejections(facts: dict[str, Any]) -> list[str]:
    lines = [f"  {r['file']} {r['reason']}" for r in facts["rejections"][:LISTED]]
    more = facts["rejected"] - len(lines)
    return [*lines, f"  … {more} more"] if more else lines


@contextmanager
def bad_input_is_one_line() -> Generator[None]:
    """DataError → `Error: …` and exit 2; a full disk or a missing right → the same and exit 1."""
    try:
        yield
    except DataError as error:
        fail(str(error))
    except OSError as error:
        fail(str(error), DISK_ERROR)


def stop_cleanly(follow_stdin: bool) -> None:
    """SIGTERM unwinds the stack, so that nothing half-written stays; so does the end of stdin."""
    Interrupt(exit_code=STOPPED)
    if follow_stdin:
        exit_with_stdin()


if __name__ == "__main__":
    cli(prog_name="noisewell data")
