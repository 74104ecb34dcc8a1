"""Owns the judgement of an image file: whether it is, pixel by pixel, what its metadata says.

Three steps, so that the service renders through its queue and `noisewell verify` by itself:
`read_picture`, `again`, `verdict`.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, StringConstraints, ValidationError

from app import png
from app.ask import Ask
from app.classes import asked_classes
from app.engine import Loaded
from app.errors import BadRequestError, TooLargeError
from app.schemas import (
    ClassMix,
    ClassText,
    Name,
    Seed,
    Strict,
    Truncation,
    Verification,
)
from app.settings import Settings
from training.model.sampling import Pixels

_FIELD = "file"
_Short = Annotated[str, StringConstraints(max_length=128)]


class Claims(Strict):
    """What a file says of itself. Anybody can write it, so it is checked as a request is."""

    model_config = ConfigDict(extra="ignore")

    model: Name
    version: int = Field(ge=1, le=999_999_999)
    digest: _Short
    seed: Seed
    class_: ClassText | ClassMix | None = Field(alias="class")
    truncation: Truncation
    certificate: _Short

    @property
    def ref(self) -> str:
        """`mnist@2`."""
        return f"{self.model}@{self.version}"


@dataclass(frozen=True)
class Picture:
    """A file to verify: pixels uint8 (H, W, C), and what it says of them."""

    pixels: Pixels
    claims: Claims


def read_picture(data: bytes, settings: Settings) -> Picture:
    """A PNG of anybody's → what is to be compared, and with what.

    Raises TooLargeError, or BadRequestError for what is no image of ours or of a seed.
    """
    limits = settings.max_verify_bytes, settings.max_verify_pixels
    if len(data) > limits[0]:
        raise TooLargeError(
            f"the file is over the {limits[0]} bytes that max_verify_bytes allows", field=_FIELD
        )
    try:
        pixels, metadata = png.read(data, max_bytes=limits[0], max_pixels=limits[1])
    except ValueError as error:
        raise BadRequestError(
            f"{error} (max_verify_pixels allows {limits[1]} pixels)", field=_FIELD
        ) from error
    if metadata is None:
        raise BadRequestError(
            "the file has no metadata 'noisewell' that says how it was made; "
            "send a PNG as it was downloaded, not saved by another program",
            field=_FIELD,
        )
    return Picture(pixels, _claims(metadata))


def _claims(metadata: dict[str, Any]) -> Claims:
    if "seeds" in metadata:
        raise BadRequestError(
            "the file shows more than one image; verify files of one image each", field=_FIELD
        )
    if "seed" in metadata and metadata["seed"] is None:
        raise BadRequestError(
            "the file was made of explicit latents, which it does not hold; "
            "only images of seeds can be made again",
            field=_FIELD,
        )
    try:
        return Claims.model_validate(metadata)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadRequestError(
            f"the file's metadata cannot be checked: {first['loc'][0]}: {first['msg']}",
            field=_FIELD,
        ) from error


def again(picture: Picture, loaded: Loaded) -> Ask:
    """What to ask of the version a file names. Raises BadRequestError if it cannot have made it."""
    claims, config = picture.claims, loaded.sampler.config
    if claims.digest != loaded.digest:
        raise BadRequestError(
            f"the file was made by weights with digest {claims.digest!r}; {loaded.ref} here has "
            f"{loaded.digest!r}; verify it where it was made",
            field=_FIELD,
        )
    shape = (config.img_resolution, config.img_resolution, config.img_channels)
    if picture.pixels.shape != shape:
        raise BadRequestError(
            f"the file is {_size(picture.pixels.shape)}; {loaded.ref} makes {_size(shape)}; "
            "send it as it was made, neither cut nor scaled nor converted",
            field=_FIELD,
        )
    classes = asked_classes(loaded, claims.class_, None, 1)
    return Ask(loaded, [claims.seed], None, classes, claims.truncation)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}×{shape[0]} pixels of {shape[2]} channel{'s' if shape[2] > 1 else ''}"


def verdict(picture: Picture, loaded: Loaded, expected: Pixels) -> Verification:
    """A file against what its version makes of its claims here, uint8 (H, W, C)."""
    claims, found = picture.claims, picture.pixels
    differ = (found != expected).any(axis=2)
    same_certificate = claims.certificate == loaded.certificate_id
    result = {
        "match": not differ.any(),
        "pixels": differ.size,
        "differing_pixels": int(differ.sum()),
        "largest_difference": int(np.abs(found.astype(np.int16) - expected).max()),
        "first_difference": _first(differ, expected, found),
        "certificate_here": loaded.certificate_id,
    }
    other = "differs" if same_certificate else "other certificate"
    result["verdict"] = "match" if result["match"] else other
    about = {**claims.model_dump(by_alias=True), **result}
    return Verification.model_validate({**about, "detail": _sentence(about)})


def _first(
    differ: NDArray[np.bool_], expected: Pixels, found: Pixels
) -> dict[str, int | list[int]] | None:
    """The first pixel that differs, row by row."""
    if not differ.any():
        return None
    y, x = divmod(int(differ.argmax()), differ.shape[1])
    return {"x": x, "y": y, "expected": expected[y, x].tolist(), "found": found[y, x].tolist()}


def _sentence(about: dict[str, Any]) -> str:
    made = f"{about['model']}@{about['version']} makes of seed {about['seed']}"
    if about["match"]:
        return f"every pixel is what {made}"
    some = f"{about['differing_pixels']} of {about['pixels']} pixels are not what {made}"
    if about["verdict"] == "differs":
        first = about["first_difference"]
        return (
            f"{some}; the first, at x {first['x']}, y {first['y']}, "
            f"is {first['found']}, expected {first['expected']}"
        )
    return (
        f"{some} here, by at most {about['largest_difference']} of 255; it was made under "
        f"certificate {about['certificate']!r}, here is {about['certificate_here']!r}, "
        "and small differences between them are expected"
    )
