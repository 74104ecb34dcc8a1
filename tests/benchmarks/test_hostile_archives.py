"""Hostile archives and folders: none is taken wrongly, and the judge would notice if one were."""

import hashlib
from pathlib import Path

import pytest

from benchmarks.imports.hostile_archives import FAMILIES, Yard, all_cases, folders, judge_all, kinds
from training.data import archives
from training.data import folders as reading


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_sample_of_every_family_becomes_what_it_should(family):
    cases = list(family())
    findings = list(judge_all(cases[:: max(1, len(cases) // 12)]))
    assert [(f.case.name, f.outcome, f.words, f.wrong) for f in findings if f.wrong] == []


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
    monkeypatch.setattr(reading, "open_beneath", lambda root, path: (root / path).open("rb"))
    [case] = [case for case in folders() if case.name == "a link to the canary"]
    finding = Yard(tmp_path).judge(case)
    assert finding.outcome == "accept"
    assert finding.wrong in (
        "1 images that nobody gave; the canary was read",
        "1 images that nobody gave",  # where the file system keeps no time of reading
    )
