"""Hostile archives and folders: none is taken wrongly, and the judge would notice if one were."""

import hashlib
import os
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.imports.hostile_archives import (
    FAMILIES,
    MAX_BYTES,
    MAX_FILES,
    Piece,
    Yard,
    all_cases,
    folders,
    judge_all,
    kinds,
    with_good,
)
from training.data import archives
from training.data import folders as reading
from training.data.archives import open_archive
from training.data.dataset import DataError
from training.data.decode import RejectedError
from training.data.sources import Source, open_source


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_sample_of_every_family_becomes_what_it_should(family):
    cases = list(family())
    findings = list(judge_all(cases[:: max(1, len(cases) // 12)]))
    assert [(f.case.name, f.outcome, f.words, f.wrong) for f in findings if f.wrong] == []


def read_everything(source: Source) -> Iterator[str]:
    """The reasons for which files are rejected before they are decoded."""
    for item in source.items:
        try:
            source.read(item)
        except RejectedError as error:
            yield str(error)


DECODED = {"readable"}  # reasons that only a decoder finds


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_what_is_refused_and_rejected_is_so_before_anything_is_decoded(family, tmp_path):
    limits = {"max_files": MAX_FILES, "max_bytes": MAX_BYTES, "scratch": tmp_path}
    for i, case in enumerate(family()):
        (tmp_path / str(i)).mkdir()
        source = case.make(tmp_path / str(i))
        if case.expected == "refuse":
            with pytest.raises(DataError, match=case.said), open_source(source, **limits):
                pass
        elif case.expected == "reject" and case.said not in DECODED:
            with open_source(source, **limits) as opened:
                reasons = list(read_everything(opened))
            assert [r for r in reasons if re.search(case.said, r)] == reasons != [], case.name


def test_a_bomb_that_says_it_is_small_is_unpacked_no_further_than_that(tmp_path):
    bomb = Piece(b"a/x.png", bytes(100_000_000)).deflated()
    lie = {"size": 100}
    (tmp_path / "x.zip").write_bytes(with_good(replace(bomb, local=lie, central=lie)))
    with open_archive(tmp_path / "x.zip", MAX_FILES, MAX_BYTES) as archive:
        tracemalloc.start()
        with pytest.raises(RejectedError, match="not as long"):
            archive.read(archive.names.index("a/x.png"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 10_000_000


def test_there_are_more_than_three_hundred_that_differ(tmp_path: Path):
    digests = set()
    for i, case in enumerate(all_cases()):
        if case.family in ("folders", "bombs"):
            continue
        (tmp_path / str(i)).mkdir()
        path = case.make(tmp_path / str(i))
        digests.add(hashlib.sha256(path.name.encode() + path.read_bytes()).digest())
    assert len(digests) > 700


def test_a_reader_that_takes_links_for_files_is_found_out(monkeypatch):
    monkeypatch.setattr(archives, "_fault", lambda entry: None)
    assert all(finding.wrong for finding in judge_all(list(kinds())[:12]))


def test_a_reader_that_follows_a_link_is_seen_reading_the_canary(monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "_link_target", lambda shown, root, entry, relative: relative)
    monkeypatch.setattr(
        reading, "_open_file", lambda name, at: os.open(name, os.O_RDONLY, dir_fd=at)
    )
    [case] = [case for case in folders() if case.name == "a link to the canary"]
    finding = Yard(tmp_path).judge(case)
    assert finding.outcome == "accept"
    assert finding.wrong in (
        "1 images that nobody gave; the canary was read",
        "1 images that nobody gave",  # where the file system keeps no time of reading
    )
