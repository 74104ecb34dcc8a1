import csv
import io
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.ask import Ask
from app.bulk import Grid
from app.engine import Engine, Loaded
from app.errors import BadRequestError
from app.sample import empty_grid, write_samples
from training.model.grid import make_grid
from training.model.registry import Registry

NAMES = ('a "quoted", one', "ünder 数", "two\nlines")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, make_version) -> Loaded:
    registry = Registry(tmp_path_factory.mktemp("models"))
    make_version(registry, classes=NAMES)
    return Engine(registry, torch.device("cpu"), 8, 1).get("toy", None)


def ask(loaded: Loaded, n: int) -> Ask:
    return Ask(loaded, range(7, 7 + n), None, None, 0.5)


def nothing(more: int) -> None:
    """Nobody watches."""


class BreaksError(Exception):
    """Something that goes wrong half-way."""


def breaking_after(images: int) -> Callable[[int], None]:
    """Raises once so many were made."""
    done = 0

    def told(more: int) -> None:
        nonlocal done
        done += more
        if done >= images:
            raise BreaksError

    return told


@pytest.mark.parametrize("out", ["out", "out.zip"])
@pytest.mark.parametrize("n", [1, 8, 100])
def test_the_manifest_says_of_every_file_what_it_is(
    loaded: Loaded, tmp_path: Path, out: str, n: int
) -> None:
    write_samples(ask(loaded, n), n, tmp_path / out, None, nothing)
    folder = zipfile.Path(tmp_path / out) if out.endswith("zip") else tmp_path / out
    text = (folder / "manifest.csv").read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["file"] for row in rows] == [f"seed-{seed}.png" for seed in range(7, 7 + n)]
    assert [row["seed"] for row in rows] == [str(seed) for seed in range(7, 7 + n)]
    assert [row["class"] for row in rows] == [NAMES[c] for c in ask(loaded, n).draw()[1]]
    about = {"truncation": "0.5", "model": "toy", "version": "1", "digest": loaded.digest}
    assert all(about.items() <= row.items() for row in rows)


def test_a_grid_is_filled_with_all_of_them(loaded: Loaded, tmp_path: Path) -> None:
    grid = empty_grid(ask(loaded, 20), 20, max_pixels=20 * 64)
    write_samples(ask(loaded, 20), 20, tmp_path / "out", grid, nothing)
    assert np.array_equal(grid.pixels, make_grid(loaded.sampler(*ask(loaded, 20).draw())))


def test_a_grid_over_the_limit_names_its_setting(loaded: Loaded) -> None:
    with pytest.raises(BadRequestError, match="is 1280 pixels; max_pixels_per_request allows 1279"):
        empty_grid(ask(loaded, 20), 20, max_pixels=1279)
    assert isinstance(empty_grid(ask(loaded, 20), 20, max_pixels=1280), Grid)


def test_progress_is_told_of_every_image_once(loaded: Loaded, tmp_path: Path) -> None:
    told: list[int] = []
    write_samples(ask(loaded, 100), 100, tmp_path / "out.zip", None, told.append)
    assert told == [8] * 12 + [4]


def test_a_folder_that_breaks_off_holds_whole_files_and_no_manifest(
    loaded: Loaded, tmp_path: Path
) -> None:
    write_samples(ask(loaded, 1), 1, tmp_path / "out", None, nothing)
    with pytest.raises(BreaksError):
        write_samples(ask(loaded, 100), 100, tmp_path / "out", None, breaking_after(40))
    files = list((tmp_path / "out").iterdir())
    assert {f"seed-{seed}.png" for seed in range(7, 47)} <= {file.name for file in files}
    assert len(files) < 100
    for file in files:
        with Image.open(file) as image:
            image.load()
    write_samples(ask(loaded, 100), 100, tmp_path / "out", None, nothing)
    assert len(list((tmp_path / "out").iterdir())) == 101


def test_a_zip_that_breaks_off_leaves_the_one_before_it(loaded: Loaded, tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    write_samples(ask(loaded, 5), 5, out, None, nothing)
    before = out.read_bytes()
    with pytest.raises(BreaksError):
        write_samples(ask(loaded, 100), 100, out, None, breaking_after(40))
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_bytes() == before


def test_an_error_while_files_are_made_is_told(loaded: Loaded, tmp_path: Path) -> None:
    (tmp_path / "out" / "seed-47.png").mkdir(parents=True)
    with pytest.raises(OSError, match=r"seed-47\.png"):
        write_samples(ask(loaded, 100), 100, tmp_path / "out", None, nothing)
    assert not (tmp_path / "out" / "manifest.csv").exists()
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("out", ["out", "out.zip"])
def test_a_disk_that_takes_no_more_keeps_no_half_of_a_file(
    loaded: Loaded, tmp_path: Path, out: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # bytes; a PNG has more
    try:
        with pytest.raises(OSError, match="File too large"):
            write_samples(ask(loaded, 20), 20, tmp_path / out, None, nothing)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_more_than_a_few_batches_are_in_memory(
    loaded: Loaded, tmp_path: Path, monkeypatch
) -> None:
    drawn: list[int] = []
    draw = Ask.draw
    monkeypatch.setattr(Ask, "draw", lambda self: drawn.append(len(self.seeds)) or draw(self))
    with pytest.raises(BreaksError):
        write_samples(ask(loaded, 1000), 1000, tmp_path / "out", None, breaking_after(8))
    assert sum(drawn) <= 6 * 8
