import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.data.rows import open_rows
from training.data.similar import NONE, near_duplicates
from training.data.survey import cells_of, gradients, survey
from training.data.verdicts import read_verdicts


def pictures(n, side=48, seed=0):
    """Smooth coloured clouds, none like another: uint8 (n, side, side, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 6, 6, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((side, side))) for c in coarse])


def as_jpeg(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def found_in(tmp_path, images, skip=None):
    np.save(tmp_path / "images.npy", images)
    with open_rows(tmp_path / "images.npy") as rows:
        nothing = np.zeros(len(images), bool)
        return near_duplicates(rows, survey(rows, tmp_path), nothing if skip is None else skip)


CHANGES = {
    "saved again as a JPEG": lambda p: as_jpeg(p, 60),
    "brighter": lambda p: np.clip(p.astype(int) + 6, 0, 255).astype(np.uint8),
    "blurred a little": lambda p: np.asarray(
        Image.fromarray(p).filter(ImageFilter.GaussianBlur(0.7))
    ),
    "with a little noise": lambda p: np.clip(
        p + np.random.default_rng(1).normal(0, 3, p.shape), 0, 255
    ).astype(np.uint8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_image_that_was_changed_a_little_is_found_among_others(change, tmp_path):
    originals = pictures(200)
    changed = np.stack([CHANGES[change](p) for p in originals[:40]])
    found = found_in(tmp_path, np.concatenate([originals, changed]))
    assert (found[:200] == NONE).all()
    assert (found[200:] == np.arange(40)).mean() >= 0.95


def test_images_that_differ_are_not_near_duplicates_even_where_they_are_flat(tmp_path):
    flat = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 3 * 16 * 16).reshape(10, 16, 16, 3)
    dotted = flat.copy()
    dotted[:, 4:8, 4:8] = 255 - dotted[:, 4:8, 4:8] // 2
    images = np.concatenate([flat[:1], dotted])
    assert (found_in(tmp_path, images) == NONE).all()


def test_skipped_images_are_neither_found_nor_named(tmp_path):
    images = pictures(20)
    images = np.concatenate([images, images[:1], images[:1]])
    skip = np.arange(22) == 20
    assert found_in(tmp_path, images, skip)[20:].tolist() == [NONE, 0]


@pytest.mark.parametrize("side", [4, 8, 9, 28, 31, 64])
def test_a_hash_tells_left_from_right_at_every_size(side):
    slope = np.linspace(0, 255, side).astype(np.uint8)
    image = np.broadcast_to(slope[None, :, None], (side, side, 1))
    up, down = gradients(cells_of(np.stack([image, image[:, ::-1]])))
    assert int(up).bit_count() >= (24 if side < 9 else 64)
    assert down == 0


def test_statistics_are_those_of_all_pixels(tmp_path):
    images = pictures(300, side=33)
    np.save(tmp_path / "images.npy", images)
    with open_rows(tmp_path / "images.npy") as rows:
        looked = survey(rows, tmp_path)
    assert looked.mean == pytest.approx(images.mean((0, 1, 2)) / 255, abs=1e-5)
    assert looked.std == pytest.approx(images.std((0, 1, 2)) / 255, abs=1e-5)


def test_an_import_names_near_duplicates_in_verdicts_and_counts_them(make_zip, encode, tmp_path):
    images = pictures(6)
    entries = {f"{i}.png": encode(p) for i, p in enumerate(images)}
    entries["7.jpg"] = encode(images[2], "JPEG", quality=80)
    options = ImportOptions("x", resolution=48, channels=3)
    manifest = import_dataset(make_zip(entries), tmp_path / "packed", options).manifest
    lines = {v["file"]: v for v in read_verdicts(tmp_path / "packed")}
    assert lines["7.jpg"]["near_duplicate_of"] == 2
    assert sum("near_duplicate_of" in v for v in lines.values()) == 1
    assert (manifest["duplicates"], manifest["near_duplicates"]) == (0, 1)
    assert manifest["statistics"]["mean"] == pytest.approx(images.mean((0, 1, 2)) / 255, abs=0.02)
