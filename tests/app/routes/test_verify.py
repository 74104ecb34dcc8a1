"""Images sent back: whether they are what their metadata says."""

import io
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app import png
from app.bundled import install_bundled


def verified(service, data: bytes):
    return service.post("/v1/images/verify", files={"file": ("image.png", data, "image/png")})


def told(service, data: bytes) -> dict[str, Any]:
    answer = verified(service, data)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(service, data: bytes, status: int = 422) -> str:
    answer = verified(service, data)
    assert answer.status_code == status, answer.text
    return answer.json()["detail"]


def image(service, seed: int = 7, model: str = "toy", **asked: Any) -> bytes:
    answer = service.images(model=model, seed=seed, response="image", **asked)
    assert answer.status_code == 200, answer.text
    return answer.content


def opened(data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    pixels, metadata = png.read(data, max_bytes=len(data), max_pixels=10**6)
    assert metadata is not None
    return pixels.copy(), metadata


def claiming(data: bytes, **claims: Any) -> bytes:
    """The same pixels, with other words; `...` takes a word away."""
    pixels, metadata = opened(data)
    changed = {**metadata, **claims}
    return png.encode_png(pixels, {k: v for k, v in changed.items() if v is not ...})


# As they were made


@pytest.mark.parametrize("seed", [0, 7, 2**53 - 1])
@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("toy", {}),
        ("toy@2", {"truncation": 0.3}),
        ("toy", {"class": "cat"}),
        ("toy", {"class": {"1": 0.1, "cat": 0.7, "dog": 1.9}}),
        ("plain", {}),
    ],
)
def test_an_image_as_it_was_made_matches(toy, seed: int, model: str, asked: Any) -> None:
    said = told(toy, image(toy, seed, model, **asked))
    assert (said["match"], said["verdict"]) == (True, "match")
    assert (said["differing_pixels"], said["largest_difference"]) == (0, 0)
    assert said["first_difference"] is None
    made = f"{model.split('@')[0]}@{said['version']} makes of seed {seed}"
    assert said["detail"] == f"every pixel is what {made}"


def test_images_of_the_bundled_digits_match_one_by_one(registry, start) -> None:
    install_bundled(registry)
    with start() as service:
        files = [service.get(f"/v1/models/mnist/images/{seed}.png").content for seed in range(20)]
        answers = service.together(
            [("POST", "/v1/images/verify", {"files": {"file": data}}) for data in files]
        )
    said = [answer.json() for answer in answers]
    assert [(one["verdict"], one["seed"]) for one in said] == [("match", s) for s in range(20)]


def test_an_answer_repeats_what_was_verified(toy) -> None:
    data = image(toy, 7, "toy@2", truncation=0.3, **{"class": "cat"})
    said, metadata = told(toy, data), opened(data)[1]
    assert {name: said[name] for name in metadata} == metadata
    assert said["certificate_here"] == metadata["certificate"]
    assert said["pixels"] == 64


# Not as they were made


def test_the_first_pixel_that_differs_is_told_row_by_row(toy) -> None:
    pixels, metadata = opened(image(toy, 7, "plain"))
    expected = pixels.copy()
    pixels[5, 0] ^= 255
    pixels[2, 6, 1] ^= 1
    pixels[2, 7, 0] ^= 128
    said = told(toy, png.encode_png(pixels, metadata))
    assert (said["match"], said["verdict"], said["differing_pixels"]) == (False, "differs", 3)
    assert said["first_difference"] == {
        "x": 6,
        "y": 2,
        "expected": expected[2, 6].tolist(),
        "found": pixels[2, 6].tolist(),
    }
    assert said["largest_difference"] == np.abs(pixels.astype(int) - expected).max()
    assert f"x 6, y 2, is {pixels[2, 6].tolist()}" in said["detail"]


@pytest.mark.parametrize("value", [0, 255])
def test_a_difference_is_told_in_full_both_ways(toy, value: int) -> None:
    pixels, metadata = opened(image(toy))
    expected = int(pixels[0, 0, 0])
    pixels[0, 0] = value
    said = told(toy, png.encode_png(pixels, metadata))
    assert said["largest_difference"] == abs(value - expected)


@pytest.mark.parametrize(
    "claims", [{"seed": 8}, {"class": "cat"}, {"truncation": 0.5}, {"class": {"cat": 1, "dog": 9}}]
)
def test_an_image_that_claims_to_be_another_differs(toy, claims: dict[str, Any]) -> None:
    data = image(toy, 7, **{"class": "dog"})
    said = told(toy, claiming(data, **claims))
    assert said["verdict"] == "differs"
    assert said["first_difference"] is not None


def test_under_another_certificate_the_largest_difference_is_told(toy) -> None:
    pixels, metadata = opened(image(toy))
    pixels[3, 4] = pixels[3, 4] - 1 if pixels[3, 4] else 1
    said = told(toy, png.encode_png(pixels, {**metadata, "certificate": "elsewhere"}))
    assert (said["match"], said["verdict"]) == (False, "other certificate")
    assert (said["differing_pixels"], said["largest_difference"]) == (1, 1)
    assert (said["certificate"], said["certificate_here"]) == ("elsewhere", metadata["certificate"])
    assert "by at most 1 of 255; it was made under certificate 'elsewhere'" in said["detail"]


def test_under_another_certificate_a_match_is_a_match(toy) -> None:
    said = told(toy, claiming(image(toy), certificate="elsewhere"))
    assert (said["match"], said["verdict"]) == (True, "match")


# What cannot be judged


def test_an_image_without_metadata_is_refused(toy) -> None:
    pixels, _ = opened(image(toy))
    plain = io.BytesIO()
    Image.fromarray(pixels[:, :, 0]).save(plain, "PNG")
    assert "no metadata 'noisewell'" in refused(toy, plain.getvalue())


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_what_is_no_png_is_refused(toy, data: bytes) -> None:
    assert "PNG" in refused(toy, data)


def test_a_png_that_is_cut_off_anywhere_is_refused(toy) -> None:
    data = image(toy)
    for end in range(0, len(data) - 1, 37):
        refused(toy, data[:end])


def test_an_image_of_explicit_latents_is_refused(toy) -> None:
    data = toy.images(latents=[[0.5] * 8], response="image").content
    assert "explicit latents, which it does not hold" in refused(toy, data)


def test_a_picture_of_many_images_is_refused(toy) -> None:
    grid = toy.images(seed=7, n=4, response="grid").content
    walk = {"model": "toy", "seeds": [1, 2], "frames": 4, "format": "grid"}
    for data in (grid, toy.post("/v1/interpolations", json=walk).content):
        assert "more than one image" in refused(toy, data)


def test_a_version_that_is_not_here_is_named(toy) -> None:
    data = image(toy)
    said = refused(toy, claiming(data, version=9), 404)
    assert said == "Model version 9 of 'toy' is not registered; registered: 1, 2, 3."
    assert "'gone' is not registered" in refused(toy, claiming(data, model="gone"), 404)


def test_a_version_that_is_gone_is_named(registry, make_version, start) -> None:
    for weights in range(2):
        make_version(registry, weights=weights)
    with start() as service:
        data = image(service, model="toy@2")
    shutil.rmtree(registry.path("toy", 2))
    with start() as service:
        assert "version 2 of 'toy' is not registered" in refused(service, data, 404)


def test_weights_of_another_digest_are_named(toy) -> None:
    said = refused(toy, claiming(image(toy), digest="0" * 64))
    assert f"made by weights with digest '{'0' * 64}'; toy@1 here has '" in said
    assert "made by weights with digest" in refused(toy, claiming(image(toy), version=2))


@pytest.mark.parametrize("shape", [(8, 7, 1), (9, 8, 1), (8, 8, 3), (16, 16, 1)])
def test_an_image_of_another_size_is_refused(toy, shape: tuple[int, int, int]) -> None:
    _, metadata = opened(image(toy))
    data = png.encode_png(np.zeros(shape, np.uint8), metadata)
    assert "toy@1 makes 8×8 pixels of 1 channel;" in refused(toy, data)


@pytest.mark.parametrize(
    "claims",
    [
        {"model": 7},
        {"model": "../toy"},
        {"model": "a" * 64},
        {"version": "1"},
        {"version": 0},
        {"version": True},
        {"version": 10**30},
        {"digest": None},
        {"digest": "0" * 129},
        {"seed": -1},
        {"seed": 2**53},
        {"seed": 7.5},
        {"seed": "7"},
        {"seed": [7]},
        {"class": 1},
        {"class": ["cat"]},
        {"class": {}},
        {"class": {"cat": -1}},
        {"class": {"cat": "1"}},
        {"class": {str(i): 1 for i in range(33)}},
        {"class": {"x" * 1000: 1}},
        {"class": "mouse"},
        {"class": {"mouse": 1}},
        {"truncation": 0},
        {"truncation": 1.5},
        {"truncation": "1"},
        {"certificate": 7},
        *({name: ...} for name in ("model", "version", "digest", "seed", "class", "truncation")),
    ],
)
def test_what_metadata_says_is_checked_as_a_request_is(toy, claims: dict[str, Any]) -> None:
    said = refused(toy, claiming(image(toy), **claims))
    assert next(iter(claims)) in said
    assert len(said) < 500


@pytest.mark.parametrize("metadata", [b"[]", b"{", b"7", b'{"seed": NaN}', b"[" * 10_000])
def test_metadata_that_is_no_object_is_refused(toy, metadata: bytes) -> None:
    data = image(toy)
    start, end = data.index(b"{"), data.index(b"}") + 1
    altered = replaced(data, data[start:end], metadata)
    assert "metadata" in refused(toy, altered)


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    """A PNG whose text chunk holds other bytes, with a right length and checksum."""
    at = data.index(b"iTXt") - 4
    size = int.from_bytes(data[at : at + 4], "big")
    body = data[at + 8 : at + 8 + size].replace(old, new)
    return data[:at] + png.chunk(b"iTXt", body) + data[at + 12 + size :]


# Limits


def test_a_file_over_a_limit_is_refused_by_the_name_of_its_setting(
    registry, make_version, start
) -> None:
    make_version(registry)
    with start(max_verify_bytes=2000, max_verify_pixels=64) as service:
        data = image(service)
        assert told(service, data)["match"]
        said = refused(service, data + bytes(2001 - len(data)), 413)
        assert said == "the file is over the 2000 bytes that max_verify_bytes allows"
        assert "max_verify_bytes) sets how many" in refused(service, bytes(200_000), 413)
        large = png.encode_png(np.zeros((8, 9, 1), np.uint8), {})
        assert "max_verify_pixels allows 64 pixels" in refused(service, large)


@pytest.mark.parametrize(
    "options",
    [
        {"json": {}},
        {"content": b"", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"files": {"image": b"x"}},
        {"data": {"file": "text"}},
    ],
)
def test_a_body_without_a_file_is_refused(toy, options: dict[str, Any]) -> None:
    answer = toy.post("/v1/images/verify", **options)
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_key_is_wanted(registry, make_version, start) -> None:
    make_version(registry)
    with start(api_key="secret") as service:
        assert verified(service, b"").status_code == 401
