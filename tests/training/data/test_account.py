import numpy as np
import pytest
from PIL import Image

from training.data.account import warnings_of
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.data.sheet import MAX_CLASSES, sheet


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def packed(make_zip, tmp_path):
    def pack(entries, **asked):
        options = ImportOptions("parts", resolution=28, channels=1, **asked)
        manifest = import_dataset(make_zip(entries), tmp_path / "packed", options).manifest
        return manifest, tmp_path / "packed"

    return pack


def test_the_page_tells_of_every_kind_of_verdict_and_fetches_nothing(packed, noise, two_classes):
    two_classes |= {"a/<b>.png": b"no image", "a/copy.png": noise(0), "b/big.png": noise(7, 40)}
    _, folder = packed(two_classes)
    page = (folder / "report.html").read_text()
    assert "&lt;b&gt;.png" in page
    assert "<b>.png" not in page
    assert "not a readable image" in page
    assert "resized 1" in page
    assert "1 exact copies" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_the_sheet_has_a_line_for_each_class_and_the_pixels_of_its_images(packed, two_classes):
    _, folder = packed(two_classes)
    pixels = pixels_of(folder / "thumbnails.png")
    assert pixels.shape == (2 * 28 + 2, 5 * 28 + 4 * 2)
    images = np.load(folder / "images.npy")[..., 0]
    assert (pixels[:28, :28] == images[0]).all()
    assert (pixels[30:58, 30:58] == images[6]).all()


def test_images_without_classes_are_shown_in_lines_of_twelve(packed, noise):
    _, folder = packed({f"{i}.png": noise(i) for i in range(15)})
    assert pixels_of(folder / "thumbnails.png").shape == (2 * 28 + 2, 12 * 28 + 11 * 2)
    assert "have no classes" in (folder / "report.html").read_text()


def test_large_images_are_shown_at_64_pixels(make_zip, noise, tmp_path):
    entries = {f"{i}.png": noise(i, 128, 3) for i in range(3)}
    options = ImportOptions("parts", resolution=128, channels=3)
    import_dataset(make_zip(entries), tmp_path / "packed", options)
    assert pixels_of(tmp_path / "packed/thumbnails.png").shape == (64, 3 * 64 + 2 * 2, 3)


def test_of_many_classes_the_first_ones_are_shown(packed, noise):
    entries = {f"{c:02}/{i}.png": noise(10 * c + i) for c in range(30) for i in range(2)}
    _, folder = packed(entries)
    assert len(pixels_of(folder / "thumbnails.png")) == MAX_CLASSES * 30 - 2
    assert f"The first {MAX_CLASSES} of 30 classes" in (folder / "report.html").read_text()


def test_near_copies_stand_beside_what_they_are_near_to(make_zip, encode, tmp_path):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((32, 32))
    entries = {"1.png": encode(np.asarray(coarse)), "2.jpg": encode(coarse, "JPEG", quality=85)}
    import_dataset(make_zip(entries), tmp_path / "packed", ImportOptions("x"))
    page = (tmp_path / "packed/report.html").read_text()
    assert "1 near copies" in page
    assert "<figcaption>2.jpg</figcaption>" in page


MANIFEST = {
    "num_images": 5000, "counts": {"a": 4000, "b": 1000}, "accepted": 5000, "rejected": 0,
    "duplicates": 0, "near_duplicates": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_images": 300}, "300 images are few"),
        ({"counts": {"a": 4000, "b": 60}}, "class_balance=true"),
        ({"counts": {"a": 400, "b": 49}}, "1 of 2 classes have fewer than 50 images, 'b'"),
        ({"rejected": 1000}, "1,000 of 6,000 files were rejected"),
        ({"duplicates": 200, "near_duplicates": 100}, "300 of 5,000 images are, or nearly are"),
    ],
)
def test_a_person_is_told_what_to_look_at(changed, said):
    assert list(warnings_of(MANIFEST)) == []
    (warning,) = warnings_of(MANIFEST | changed)
    assert said in warning


def test_a_sheet_of_one_image_is_that_image():
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    assert (sheet([image]) == image[0]).all()
