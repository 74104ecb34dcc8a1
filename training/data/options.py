"""Owns what can be asked of an import: every option of it, and the limits it keeps."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageColor

from training.data.archives import MAX_ZIP_RATIO
from training.data.dataset import DataError
from training.data.decode import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, WHITE, Colour

MIN_DECODER_BYTES = 300_000_000  # what one takes before it decodes anything, and some room
MIN_RESOLUTION, MAX_RESOLUTION = 4, 1024
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Limits:
    """What an import takes on: files and unpacked bytes, and how many may be bad.

    max_image_bytes: of one image file. max_image_sec: processor time to decode one image.
    max_decoder_bytes: memory of each process that decodes.
    """

    max_files: int = 500_000
    max_bytes: int = 16_000_000_000
    max_zip_ratio: int = MAX_ZIP_RATIO
    max_bad_share: float = 0.5
    min_images: int = 2
    max_image_bytes: int = MAX_IMAGE_BYTES
    max_image_pixels: int = MAX_IMAGE_PIXELS
    max_image_sec: float = 5.0
    max_decoder_bytes: int = 1_000_000_000


@dataclass(frozen=True)
class ImportOptions:
    """How a source becomes a packed dataset.

    resolution, channels: chosen from the images when None, the resolution up to max_resolution.
    background: what transparent pixels lie on, by RGB in [0, 255] or by a name or number that CSS
    has. labels: a CSV or JSON lines of file, class. classes, max_per_class: only these, and at
    most so many of each. append_to: the packed dataset that the images are added to. licence:
    under which the images are had, for the cards of what is trained on them.
    """

    name: str
    resolution: int | None = None
    max_resolution: int = MAX_RESOLUTION
    channels: int | None = None
    background: str | Colour = WHITE
    labels: Path | None = None
    classes: tuple[str, ...] | None = None
    max_per_class: int | None = None
    append_to: Path | None = None
    licence: str | None = None
    limits: Limits = Limits()

    def check(self) -> None:
        """Raise DataError for what no import can do."""
        if not NAME.fullmatch(self.name):
            raise DataError(
                f"Dataset name {self.name!r} is not allowed; expected 1 to 63 of a-z, 0-9, '.',"
                " '_', '-', the first a letter or digit."
            )
        if self.resolution is not None and not MIN_RESOLUTION <= self.resolution <= MAX_RESOLUTION:
            raise DataError(
                f"resolution {self.resolution} is not allowed; expected {MIN_RESOLUTION} to"
                f" {MAX_RESOLUTION}, or none to have it chosen from the images."
            )
        if self.channels not in (None, 1, 3):
            raise DataError(
                f"channels {self.channels} is not allowed; expected 1 (grey) or 3 (colour)."
            )
        self.paper()

    def paper(self) -> Colour:
        """The background as RGB in [0, 255]; raises DataError if it is no colour."""
        if not isinstance(self.background, str):
            colour = tuple(self.background)
        else:
            try:
                colour = ImageColor.getrgb(self.background)
            except ValueError:
                colour = ()
        if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
            raise DataError(
                f"background {self.background!r} is not a colour; expected a name or a number as in"
                " CSS, such as 'white' or '#f0f0f0'."
            )
        return colour


@dataclass(frozen=True, slots=True)
class Step:
    """How far an import is: files done of all, and what became of them."""

    done: int
    total: int
    accepted: int
    rejected: int


Progress = Callable[[Step], None]
