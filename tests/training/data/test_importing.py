import contextlib
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.dataset import DataError, load_dataset
from training.data.importing import import_dataset
from training.data.options import ImportOptions, Limits, Step


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "datasets").mkdir()
    return tmp_path / "datasets" / "packed"


def nothing_is_left(out: Path) -> bool:
    return list(out.parent.iterdir()) == []


def test_a_zip_of_class_folders_keeps_pixels_labels_and_names(make_zip, encode, out):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)
    entries = {f"{'ba'[i % 2]}/{i}.png": encode(pixels[i]) for i in range(6)}
    dataset = import_dataset(make_zip(entries), out, ImportOptions("letters"))
    assert dataset.class_names == ("a", "b")
    assert dataset.images.shape == (6, 28, 28, 1)
    assert np.array_equal(dataset.images[..., 0], pixels[[1, 3, 5, 0, 2, 4]])
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.manifest["counts"] == {"a": 3, "b": 3}
    assert dataset.manifest["accepted"] == dataset.manifest["num_images"] == 6
    assert dataset.manifest["converted"] == dataset.manifest["rejected"] == 0


def test_a_folder_and_a_zip_of_it_give_the_same_hash(make_zip, two_classes, tmp_path, out):
    for name, data in two_classes.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    from_folder = import_dataset(tmp_path / "folder", out, ImportOptions("x"))
    zipped = import_dataset(make_zip(two_classes), out.with_name("zipped"), ImportOptions("y"))
    assert from_folder.hash == zipped.hash


def test_the_hash_follows_pixels_labels_and_class_names(make_zip, two_classes, noise, tmp_path):
    renamed = {k.replace("a/", "c/"): v for k, v in two_classes.items()}
    moved = {k.replace("a/4", "b/9"): v for k, v in two_classes.items()}
    changed = two_classes | {"a/4.png": noise(999)}
    hashes = {
        import_dataset(make_zip(entries), tmp_path / f"d{i}", ImportOptions("x")).hash
        for i, entries in enumerate([two_classes, renamed, moved, changed])
    }
    assert len(hashes) == 4


def test_flat_images_are_unlabelled(make_zip, noise, out):
    dataset = import_dataset(
        make_zip({f"{i}.png": noise(i) for i in range(3)}), out, ImportOptions("x")
    )
    assert dataset.labels is None
    assert dataset.num_classes == 0
    assert not (out / "labels.npy").exists()


def test_an_image_stays_held_out_whatever_is_imported_beside_it(make_zip, noise, tmp_path):
    few = {f"{i}.png": noise(i) for i in range(0, 200, 2)}
    many = {f"z{200 - i}.png": noise(i) for i in range(200)}
    a = import_dataset(make_zip(few), tmp_path / "few", ImportOptions("x"))
    b = import_dataset(make_zip(many), tmp_path / "many", ImportOptions("x"))
    kept_a = {image.tobytes() for image in a.split(heldout=True)[0]}
    kept_b = {image.tobytes() for image in b.split(heldout=True)[0]}
    assert kept_a == kept_b & {image.tobytes() for image in a.images}
    assert 8 <= len(kept_b) <= 36  # 20 ± 3.8 standard deviations: wrong once in 7,000 draws
    assert b.manifest["num_heldout"] == len(kept_b)


def test_split_divides_images_and_labels_alike(make_zip, noise, out):
    entries = {f"{i % 3}/{i}.png": noise(i) for i in range(60)}
    dataset = import_dataset(make_zip(entries), out, ImportOptions("x"))
    (rest, rest_labels), (kept, kept_labels) = dataset.split(False), dataset.split(True)
    assert rest_labels is not None
    assert kept_labels is not None
    assert len(rest) == len(rest_labels)
    assert len(kept) == len(kept_labels) == dataset.manifest["num_heldout"]
    assert len(rest) + len(kept) == 60


def test_a_truncated_image_is_rejected_alone_and_listed(make_zip, two_classes, out):
    two_classes["a/broken.png"] = two_classes["a/1.png"][:200]
    dataset = import_dataset(make_zip(two_classes), out, ImportOptions("x"))
    assert dataset.num_images == 10
    [rejection] = dataset.manifest["rejections"]
    assert rejection["file"] == "a/broken.png"
    assert "truncated" in rejection["reason"]


def test_a_damaged_zip_entry_is_rejected_alone(make_zip, two_classes, out):
    path = make_zip(two_classes)
    data = path.read_bytes().replace(two_classes["b/2.png"], bytes(len(two_classes["b/2.png"])))
    path.write_bytes(data)
    manifest = import_dataset(path, out, ImportOptions("x")).manifest
    assert [r["file"] for r in manifest["rejections"]] == ["b/2.png"]


def test_a_file_too_long_for_an_image_is_rejected_alone(make_zip, two_classes, out):
    two_classes["a/long.png"] = os.urandom(50_000_001)
    manifest = import_dataset(make_zip(two_classes), out, ImportOptions("x")).manifest
    assert manifest["rejections"] == [
        {
            "file": "a/long.png",
            "reason": "is 50,000,001 bytes long; max_image_bytes allows 50,000,000",
        }
    ]


def test_files_that_are_no_images_are_rejected_and_junk_is_not_counted(make_zip, two_classes, out):
    two_classes |= {"a/notes.txt": b"hello", "readme.md": b"x", "b/empty.png": b""}
    two_classes |= {"__MACOSX/a/._1.png": b"x", "a/.DS_Store": b"x", "b/Thumbs.db": b"x"}
    manifest = import_dataset(make_zip(two_classes), out, ImportOptions("x")).manifest
    assert {r["file"]: r["reason"].split(" (")[0] for r in manifest["rejections"]} == {
        "a/notes.txt": "is not a readable image",
        "b/empty.png": "is empty",
        "readme.md": "lies beside the class folders, so it has no class",
    }


def test_a_dataset_fails_when_most_files_are_bad(make_zip, two_classes, out):
    two_classes |= {f"a/{i}.txt": b"no image" for i in range(11)}
    with pytest.raises(DataError, match=r"11 of 21 files .* at most 50% may be \(max_bad_share\)"):
        import_dataset(make_zip(two_classes), out, ImportOptions("x"))
    assert nothing_is_left(out)


def test_the_share_of_bad_files_is_a_setting(make_zip, two_classes, out):
    two_classes |= {f"a/{i}.txt": b"no image" for i in range(11)}
    path = make_zip(two_classes)
    assert (
        import_dataset(path, out, ImportOptions("x", limits=Limits(max_bad_share=0.9))).num_images
        == 10
    )


def test_a_dataset_of_one_image_fails(make_zip, noise, out):
    with pytest.raises(DataError, match=r"gives 1 images; at least 2 are needed \(min_images\)"):
        import_dataset(make_zip({"1.png": noise(1)}), out, ImportOptions("x"))
    assert nothing_is_left(out)


@pytest.mark.parametrize("extra", [{"c/": b""}, {"c/broken.png": b"\x89PNG\r\n"}])
def test_a_class_without_usable_images_fails_by_name(make_zip, two_classes, out, extra):
    with pytest.raises(DataError, match=r"Class 'c' of 'images\.zip' has no usable images"):
        import_dataset(make_zip(two_classes | extra), out, ImportOptions("x"))
    assert nothing_is_left(out)


def test_a_zip_without_files_fails(make_zip, out):
    with pytest.raises(DataError, match="holds no files"):
        import_dataset(make_zip({"a/": b"", "b/": b""}), out, ImportOptions("x"))
    assert nothing_is_left(out)


def test_a_file_that_is_no_zip_fails(tmp_path, out):
    (tmp_path / "x.zip").write_bytes(b"hello")
    with pytest.raises(DataError, match="is not a zip"):
        import_dataset(tmp_path / "x.zip", out, ImportOptions("x"))
    assert nothing_is_left(out)


@pytest.mark.parametrize(
    ("sides", "resolution"),
    [([20, 20, 20], 28), ([28, 31, 300], 28), ([32, 32, 32], 32), ([300, 70, 40], 64)],
)
def test_resolution_is_the_step_not_above_the_median(make_zip, noise, out, sides, resolution):
    entries = {f"{i}.png": noise(i, side) for i, side in enumerate(sides)}
    assert import_dataset(make_zip(entries), out, ImportOptions("x")).resolution == resolution


def test_resolution_goes_by_the_shorter_side(make_zip, encode, out):
    wide = encode(np.zeros((40, 200), np.uint8))
    assert (
        import_dataset(make_zip({"1.png": wide, "2.png": wide}), out, ImportOptions("x")).resolution
        == 32
    )


def test_one_coloured_image_makes_the_dataset_coloured(make_zip, noise, out):
    entries = {"1.png": noise(1), "2.png": noise(2), "3.png": noise(3, channels=3)}
    dataset = import_dataset(make_zip(entries), out, ImportOptions("x"))
    assert dataset.channels == 3
    assert dataset.manifest["converted"] == 2
    assert dataset.manifest["conversions"] == {"L to RGB": 2}


def test_resolution_and_channels_can_be_asked_for(make_zip, noise, out):
    path = make_zip({f"{i}.png": noise(i, 40, 3) for i in range(3)})
    dataset = import_dataset(path, out, ImportOptions("x", resolution=16, channels=1))
    assert dataset.images.shape == (3, 16, 16, 1)
    assert dataset.manifest["converted"] == 3


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"resolution": 3}, "resolution 3"),
        ({"resolution": 5000}, "resolution 5000"),
        ({"channels": 2}, "channels 2"),
        ({"name": "../x"}, r"'\.\./x'"),
        ({"name": ""}, "Dataset name ''"),
        ({"background": "whitish"}, "background 'whitish'"),
        ({"background": (0, 0, 256)}, r"background \(0, 0, 256\)"),
    ],
)
def test_a_request_outside_what_is_allowed_is_refused(make_zip, two_classes, out, asked, named):
    with pytest.raises(DataError, match=named):
        import_dataset(make_zip(two_classes), out, ImportOptions(**{"name": "x", **asked}))
    assert nothing_is_left(out)


def test_an_existing_directory_is_not_overwritten(make_zip, two_classes, out):
    out.mkdir()
    (out / "precious").touch()
    with pytest.raises(DataError, match="exists already"):
        import_dataset(make_zip(two_classes), out, ImportOptions("x"))
    assert [p.name for p in out.iterdir()] == ["precious"]


def test_a_packed_size_over_the_limit_is_refused_before_the_work(make_zip, two_classes, out):
    with pytest.raises(DataError, match="choose a smaller resolution"):
        import_dataset(
            make_zip(two_classes),
            out,
            ImportOptions("x", resolution=1024, limits=Limits(max_bytes=10**6)),
        )
    assert nothing_is_left(out)


def test_a_full_disk_leaves_nothing_behind(make_zip, two_classes, out, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.data.packing.write_json", full)
    with pytest.raises(OSError, match="No space left"):
        import_dataset(make_zip(two_classes), out, ImportOptions("x"))
    assert nothing_is_left(out)


@pytest.mark.parametrize("kind", ["zip", "npy", "npz"])
def test_flipped_bytes_end_in_a_dataset_or_in_a_sentence(make_zip, noise, tmp_path, out, kind):
    if kind == "zip":
        entries = {f"{'ab'[i % 2]}/{i}.png": noise(i, 8) for i in range(4)}
        path = make_zip(entries, compression=zipfile.ZIP_DEFLATED)
    else:
        path = tmp_path / f"x.{kind}"
        save = np.save if kind == "npy" else np.savez_compressed
        save(path, np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8))
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 6)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):
            import_dataset(path, out, ImportOptions("x", resolution=8))
            shutil.rmtree(out)
        assert nothing_is_left(out)


def test_progress_ends_at_its_total(make_zip, two_classes, out):
    steps: list[Step] = []
    import_dataset(make_zip(two_classes), out, ImportOptions("x"), progress=steps.append)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert (steps[-1].done, steps[-1].accepted, steps[-1].rejected) == (steps[-1].total, 10, 0)


def test_an_array_of_the_article_s_shape_is_taken_as_it_is(tmp_path, out):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), np.uint8)
    np.save(tmp_path / "real_images.npy", images)
    dataset = import_dataset(tmp_path / "real_images.npy", out, ImportOptions("x"))
    assert np.array_equal(dataset.images, images)
    assert dataset.labels is None


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("signed", [False, True])
def test_float_arrays_come_back_as_the_pixels_they_were(tmp_path, out, kind, signed):
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, 0)
    floats = pixels / 127.5 - 1 if signed else pixels / 255
    np.save(tmp_path / "x.npy", floats.astype(kind))
    dataset = import_dataset(tmp_path / "x.npy", out, ImportOptions("x", resolution=16))
    assert np.array_equal(dataset.images[..., 0], pixels)


def test_an_npz_brings_its_labels(tmp_path, out):
    images = np.random.default_rng(0).integers(0, 256, (24, 28, 28), np.uint8)
    labels = np.arange(24) % 12
    np.savez_compressed(tmp_path / "x.npz", images=images, labels=labels)
    dataset = import_dataset(tmp_path / "x.npz", out, ImportOptions("x"))
    assert dataset.class_names == tuple(f"{i:02d}" for i in range(12))
    assert dataset.class_names == tuple(sorted(dataset.class_names))
    assert np.array_equal(dataset.labels, labels)
    assert np.array_equal(dataset.images[..., 0], images)
    assert sorted(p.name for p in out.iterdir()) == [
        "heldout.npy",
        "images.npy",
        "labels.npy",
        "manifest.json",
        "report.html",
        "thumbnails.png",
        "verdicts.jsonl",
    ]


def test_the_only_array_of_an_npz_needs_no_name(tmp_path, out):
    np.savez(tmp_path / "x.npz", np.zeros((3, 28, 28), np.uint8))
    assert import_dataset(tmp_path / "x.npz", out, ImportOptions("x")).num_images == 3


def test_a_packed_dataset_can_be_imported_again(make_zip, two_classes, out):
    first = import_dataset(make_zip(two_classes), out, ImportOptions("x"))
    again = import_dataset(out, out.with_name("again"), ImportOptions("y"))
    small = import_dataset(out, out.with_name("small"), ImportOptions("z", resolution=8))
    assert again.hash == first.hash
    assert again.class_names == small.class_names == ("a", "b")
    assert small.images.shape == (10, 8, 8, 1)


def test_sixteen_bit_and_rotated_files_arrive_right_in_the_pack(make_zip, encode, out):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    gradient = np.arange(784, dtype=np.uint16).reshape(28, 28) % 256
    entries = {
        "deep.png": encode((gradient * 257).astype(np.uint16)),
        "turned.png": encode(np.rot90(gradient, 2).astype(np.uint8).copy(), exif=exif),
    }
    dataset = import_dataset(make_zip(entries), out, ImportOptions("x"))
    assert np.array_equal(dataset.images[0, ..., 0], gradient)
    assert np.array_equal(dataset.images[1, ..., 0], gradient)


def test_a_loaded_dataset_equals_the_imported_one(make_zip, two_classes, out):
    made = import_dataset(make_zip(two_classes), out, ImportOptions("x"))
    loaded = load_dataset(out)
    assert loaded.manifest == made.manifest
    assert np.array_equal(loaded.images, made.images)
    assert np.array_equal(loaded.heldout, made.heldout)


def test_the_length_and_the_pixels_of_an_image_are_settings(make_zip, noise, out):
    path = make_zip({f"{i}.png": noise(i, side) for i, side in enumerate([8, 9, 40, 60])})
    limits = Limits(max_image_bytes=len(noise(2, 40)), max_image_pixels=1_599)
    manifest = import_dataset(path, out, ImportOptions("x", limits=limits)).manifest
    assert [r["reason"].partition(" (")[0] for r in manifest["rejections"]] == [
        "is 40×40: more than 1,599 pixels",
        f"is {len(noise(3, 60)):,} bytes long; max_image_bytes allows {len(noise(2, 40)):,}",
    ]


def test_what_was_chosen_of_a_source_stands_in_the_manifest(make_zip, two_classes, out):
    options = ImportOptions("x", classes=("b",), max_per_class=3)
    manifest = import_dataset(make_zip(two_classes), out, options).manifest
    assert (manifest["classes"], manifest["max_per_class"]) == (["b"], 3)


def test_how_many_decoders_there_are_does_not_show_in_the_dataset(
    make_zip, noise, tmp_path, monkeypatch
):
    path = make_zip({f"{i % 3}/{i}.png": noise(i) for i in range(300)} | {"0/bad.png": b"x"})
    made = []
    for count in (1, 2, 5):
        monkeypatch.setattr("training.data.workers._processors", lambda count=count: count)
        made.append(import_dataset(path, tmp_path / f"{count}", ImportOptions("x")).manifest)
        made[-1].pop("created_at")
    assert made[0] == made[1] == made[2]
