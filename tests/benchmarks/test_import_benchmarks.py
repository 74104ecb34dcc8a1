"""What the benchmarks of imports say when a bar is missed: tiny runs, and made-up findings."""

import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import typer

from benchmarks.imports import batches, big_zip, mutated, speed
from benchmarks.imports.batches import Tally, Verdict, good_image, with_good, without_one_verdict
from benchmarks.imports.corpus import all_cases, unexpected
from benchmarks.imports.handmade.case import Case
from benchmarks.imports.mutated import Maker
from benchmarks.imports.service_batches import zipped
from benchmarks.imports.watching import Eye, Look, Said, Stop, Watched, watch
from training.data.sources import open_source

linux = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
FILES = {"all/a.png": b"bad", "all/b.png": b"worse"}


# ── an import under watch ────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in with_good({}, 9).items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(data)
    return tmp_path


@linux
def test_an_import_is_watched_from_its_start_to_its_manifest(folder: Path) -> None:
    watched = watch(folder / "source", folder / "pack", "--name=x", look_sec=0.01)
    assert (watched.code, watched.error, watched.orphans) == (0, "", [])
    assert watched.manifest is not None
    assert watched.manifest["num_images"] == 9
    assert watched.said[-1].done == watched.said[-1].total
    assert 0 < watched.cpu_sec < watched.sec * 64
    assert watched.eye.main_peak > 10_000_000
    assert list(big_zip.ended_well(watched, 9)) == []
    assert list(big_zip.ended_well(watched, 10)) == ["9 of 10 images are there"]


@linux
@pytest.mark.parametrize("stop", big_zip.STOPS, ids=lambda stop: stop.name)
def test_an_import_that_is_stopped_leaves_nothing(stop: Stop, folder: Path) -> None:
    found = big_zip.stopped(folder / "source", replace(stop, share=0.0))
    assert found.wrong == []


@linux
def test_a_stop_that_leaves_something_is_told(folder: Path, monkeypatch) -> None:
    def careless(source: Path, where: Path, stop: Stop) -> Watched:
        (where / "pack").mkdir()
        return replace(watched(), code=0, stopped_after_sec=0.0, sec=9.0, orphans=[7])

    monkeypatch.setattr(big_zip, "import_", careless)
    found = big_zip.stopped(folder / "source", Stop(signal.SIGTERM))
    assert found.wrong == [
        "it left ['pack']",
        "it ended with 0",
        "1 of its processes live on",
        "it took 9.0 s to end",
    ]


def watched(*said: Said) -> Watched:
    return Watched(Eye(os.getpid(), 0.0), said=list(said), sec=20.0)


def test_progress_that_stops_goes_back_or_ends_early_is_told() -> None:
    fine = [Said(float(i), i, 20) for i in range(21)]
    assert list(big_zip.progress_wrong(watched(*fine))) == []
    assert list(big_zip.progress_wrong(watched())) == ["no progress was told"]
    assert "went back" in next(big_zip.progress_wrong(watched(*fine[:5], *fine[3:])))
    still = [*fine[:4], *(replace(fine[3], sec=3.0 + i) for i in range(17))]
    assert watched(*still).silences[-1] == (3.0, 20.0)
    late = list(big_zip.progress_wrong(watched(*fine[:4])))
    assert late == ["progress ended at 3 of 20", "nothing was told for 17.0 s"]


@linux
def test_memory_that_grows_from_the_first_quarter_to_the_last_is_told(capsys) -> None:
    found = watched()
    found.eye.looks = [Look(float(i), 100, 0, {}) for i in range(8)]
    assert speed.tell_memory(found, 1)
    found.eye.looks[-1] = Look(7.0, 100, 90, {})
    assert not speed.tell_memory(found, 1)
    assert "100 / 100 / 100 / 190" not in capsys.readouterr().out  # these are bytes, not MB


@linux
def test_a_worker_is_weighed_and_its_work_counted_by_the_processor() -> None:
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        while time.monotonic() < began + 0.5:
            pass
        os._exit(0)
    with Eye(os.getpid(), began, 0.02) as eye:
        os.waitpid(pid, 0)
    assert eye.num_workers == 1
    assert eye.peaks[pid] == eye.worker_peak > 1_000_000
    assert 0 < eye.busiest(0.0, 1.0) <= 0.6
    assert eye.busiest(0.0, 0.0) == 0.0
    eye.looks.append(Look(2.0, 1, 1, {pid: 2.0}))
    eye.looks += [Look(3.0, 1, 1, {pid: 7.0, 1: 0.5}), Look(4.0, 1, 1, {1: 1.0})]  # pid is gone
    assert eye.busiest(2.0, 4.0) == 5.0
    assert eye.alive() == [os.getpid()]


# ── speed ────────────────────────────────────────────────────────────────────────────────────


@linux
@pytest.mark.parametrize(("bar", "code"), [(0.0, 0), (99.0, 1)])
def test_a_speed_below_the_bar_ends_the_command_with_1(
    bar: float, code: int, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(speed, "BAR", bar)
    monkeypatch.setattr(speed, "tell_memory", lambda watched, count: True)  # of 12 images
    with pytest.raises(typer.Exit) as ended:
        speed.main(count=12, rounds=1, seed=3, folder=tmp_path)
    assert ended.value.exit_code == code
    assert "import to bare decoder, median of 1: " in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["jpegs-12-3"]


def test_the_bare_decoder_does_the_whole_work(tmp_path: Path) -> None:
    speed.make_jpegs(tmp_path / "all", 3, seed=1)
    files = sorted((tmp_path / "all").rglob("*.jpg"))
    assert {len(speed.decode(file.read_bytes())) for file in files} == {speed.RESOLUTION**2 * 3}


# ── bad images ───────────────────────────────────────────────────────────────────────────────


def test_mutations_are_the_same_every_time_and_few_are_good_files() -> None:
    first, again = (list(map(Maker(7).mutation, range(0, 20_000, 100))) for _ in range(2))
    assert first == again
    assert len({mutation.name for mutation in first}) == 200
    good = set(Maker(7)._all)
    assert sum(mutation.data in good for mutation in first) < 10


def test_files_without_one_verdict_and_rejected_good_ones_are_told() -> None:
    files = with_good(FILES, 1)
    found = [Verdict("all/a.png", "reject", "x"), Verdict("all/good-0.png", "accept")]
    assert list(without_one_verdict(files, found)) == ["all/b.png has 0 verdicts"]
    found += [Verdict("all/b.png", "accept"), Verdict("c", "accept"), Verdict("c", "accept")]
    assert list(without_one_verdict(files, found)) == ["c has a verdict and is no file"]
    found[1] = Verdict("all/good-0.png", "reject", "x")
    assert list(without_one_verdict(files, found))[-1] == "a good image was rejected"


def test_a_worker_that_is_too_large_or_never_seen_is_told() -> None:
    tally, eye = Tally(), Eye(1, 0.0)
    tally.look_at(eye)
    eye.peaks = {1: 10, 2: 1_200_000_000}
    tally.look_at(eye)
    assert tally.wrong == ["no worker was seen", "a worker took 1,200 MB"]


def test_verdicts_are_read_with_their_reasons_and_conversions(tmp_path: Path) -> None:
    lines = [
        {"file": "a", "verdict": "reject", "reason": "takes more than 5 s (max_image_sec)"},
        {"file": "b", "verdict": "convert", "conversions": ["resized", "L to RGB"], "index": 0},
    ]
    (tmp_path / "verdicts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    killed, converted = batches.read_verdicts(tmp_path)
    assert killed.killed
    assert converted == Verdict("b", "convert", "resized, L to RGB")


def test_a_case_with_another_verdict_or_other_words_is_told() -> None:
    case = Case("x.png", b"", "reject", "empty")
    assert list(unexpected(case, Verdict("x.png", "reject", "is empty"))) == []
    (told,) = unexpected(case, Verdict("x.png", "accept"))
    assert told == "x.png: accept (), expected reject"
    (told,) = unexpected(case, Verdict("x.png", "reject", "is odd"))
    assert "expected words like 'empty'" in told


def test_the_corpus_names_each_file_once_and_most_have_to_be_rejected() -> None:
    cases = list(islice((case for case in all_cases() if len(case.data) < 1_000_000), 300))
    assert len({case.name for case in cases}) == 300
    assert Counter(case.expected for case in cases)["reject"] > 50


def test_what_is_sent_to_a_service_is_an_archive_that_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped(with_good(FILES, 2)))
    with open_source(tmp_path / "x.zip", max_files=9, max_bytes=10**6, scratch=tmp_path) as source:
        assert len(source.items) == 4
        assert source.read(source.items[-1]) == good_image(1)


def test_an_evenly_chosen_part_of_the_mutations_is_imported(monkeypatch, capsys) -> None:
    asked: list[str] = []

    def importer(files: dict[str, bytes], tally: Tally) -> dict[str, Verdict]:
        asked.extend(files)
        tally.add([Verdict(name, "accept") for name in files], 1.0)
        return {}

    assert mutated.mutated(importer, 4, 7, None) == []
    assert [name[:9] for name in asked] == [f"all/{i:05}" for i in (0, 5_000, 10_000, 15_000)]
    assert "4 files, 4 accept" in capsys.readouterr().out
