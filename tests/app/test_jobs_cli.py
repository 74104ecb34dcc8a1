"""The verbs of `noisewell jobs` against the real routes, over real sockets."""

import io
import json
import signal
import subprocess
import sys
import threading
from typing import Any

import httpx
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from app.cli import cli
from app.client import StreamedEvent
from app.watching import Screen, describe, phrase

ASKED = ("--model", "mnist", "--dataset", "digits", "--minutes", 1)


def jobs(client: httpx.Client, *args: object) -> Result:
    url = ("--url", str(client.base_url))
    return CliRunner().invoke(cli, ["jobs", *map(str, args), *url])


def test_a_job_is_asked_for_with_all_that_training_can_be_told(
    client: httpx.Client, house: Any
) -> None:
    more = ("--preset", "tiny", "--until", "fd=2", "--set", "gamma=.5", "--set", "widths=[16,8]")
    more += ("--set", "loss=hinge", "--promote", "never", "--seed", 7)
    told = jobs(client, "submit", *ASKED, *more)
    assert told.exit_code == 0, told.output
    [job] = house.store.list_jobs(10)
    assert told.stdout == f"{job.id} is queued\n"
    assert f"noisewell jobs watch {job.id}" in told.stderr
    assert (job.preset, job.until, job.promote, job.seed) == ("tiny", {"fd": 2}, "never", 7)
    assert job.overrides == {"gamma": 0.5, "widths": "16,8", "loss": "hinge"}


def test_one_key_makes_one_job_and_each_command_has_its_own(
    client: httpx.Client, house: Any
) -> None:
    for key in ("a", "a", None):
        own = () if key is None else ("--idempotency-key", key)
        assert jobs(client, "submit", *ASKED, *own).exit_code == 0
    assert len(house.store.list_jobs(10)) == 2


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("submit", *ASKED, "--set", "gamma=-1"), "override gamma is -1; expected 0 to 10000"),
        (("submit", *ASKED, "--set", "gamma"), "expected key=value"),
        (("submit", *ASKED, "--until", "fd"), "expected fd=X"),
        (("submit", *ASKED, "--kimg", 1), "exactly one of minutes and kimg"),
        (("show", "job_0"), "'job_0' does not exist"),
        (("watch", "../datasets"), "nothing is at"),
        (("retry", "job_0"), "'job_0' does not exist"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    client: httpx.Client, house: Any, args: tuple[object, ...], told: str
) -> None:
    result = jobs(client, *args)
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert house.store.list_jobs(10) == []


def test_a_job_is_steered_by_its_verbs(client: httpx.Client, house: Any) -> None:
    job_id = house.queue()
    assert jobs(client, "pause", job_id).stdout == f"{job_id} is paused\n"
    assert jobs(client, "resume", job_id).stdout == f"{job_id} is queued\n"
    house.claim()
    assert "saving its state, then paused" in jobs(client, "pause", job_id).stdout
    assert "saving its state, then cancelled" in jobs(client, "cancel", job_id).stdout
    other = house.queue()
    assert jobs(client, "cancel", other).stdout == f"{other} is cancelled\n"
    again = json.loads(jobs(client, "retry", other, "--json").stdout)
    assert (again["retry_of"], again["status"]) == (other, "queued")


def test_jobs_are_listed_by_page_state_and_model(client: httpx.Client, house: Any) -> None:
    first, second = house.queue(), house.queue(model="parts")
    page = jobs(client, "list", "--limit", 1)
    assert second in page.stdout
    assert first not in page.stdout
    assert f"--after {second}" in page.stderr
    assert first in jobs(client, "list", "--after", second).stdout
    mine = json.loads(
        jobs(client, "list", "--model", "parts", "--status", "queued", "--json").stdout
    )
    assert [job["id"] for job in mine["data"]] == [second]


def test_a_job_is_shown_with_what_was_asked_and_how_far_it_is(
    client: httpx.Client, house: Any
) -> None:
    job_id = house.queue()
    house.store.record_progress(house.claim(), PROGRESS)
    shown = jobs(client, "show", job_id).stdout
    assert "running, training, 25 %, 5.0/20.0 kimg, 1,250 images/s, 12 s left" in shown
    assert "digits (ds_1)" in shown
    assert "trained by about" in shown


PROGRESS = {
    "phase": "training", "cur_nimg": 5000, "total_nimg": 20000, "images_per_sec": 1250.0,
    "eta_sec": 12.0, "metrics": {"fd_cnn": 3.21},
}  # fmt: skip


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 3)])
def test_watching_tells_all_and_ends_as_the_job_did(
    client: httpx.Client, house: Any, status: str, code: int
) -> None:
    job_id = house.queue()
    job = house.claim()
    threading.Timer(0.1, lambda: house.store.finish_job(job, status)).start()
    seen = jobs(client, "watch", job_id)
    assert seen.exit_code == code
    assert [line.split()[1] for line in seen.stdout.splitlines()] == ["queued", "started", status]


def test_watching_as_json_tells_each_event_on_a_line(client: httpx.Client, house: Any) -> None:
    job_id = house.queue()
    house.store.finish_job(house.claim(), "failed", error="no images")
    lines = [json.loads(x) for x in jobs(client, "watch", job_id, "--json").stdout.splitlines()]
    assert [line["id"] for line in lines] == [1, 2, 3]
    assert lines[-1]["data"]["data"] == {"error": "no images"}


def test_ctrl_c_ends_the_watching_and_not_the_job(client: httpx.Client, house: Any) -> None:
    job_id = house.queue()
    command = [sys.executable, "-m", "app.cli", "jobs", "watch", job_id]
    with subprocess.Popen(
        [*command, "--url", str(client.base_url)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert "queued" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
        assert f"{job_id} goes on" in watching.stderr.read()
    assert house.store.get_job(job_id).status == "queued"


def test_a_terminal_shows_phase_speed_time_left_and_the_newest_measure() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    with Screen(console) as screen:
        screen.tell(StreamedEvent(None, "progress", PROGRESS))
        screen.tell(event("rolled_back", {"text": "back to 4.0 kimg [1 of 3]"}))
        screen._bar.refresh()
    assert "25%" in out.getvalue()
    assert "5.0/20.0 kimg  1,250 images/s  12 s left  fd 3.21" in out.getvalue()
    assert "rolled_back back to 4.0 kimg [1 of 3]" in out.getvalue()


def event(kind: str, data: dict[str, Any]) -> StreamedEvent:
    at = "2026-01-01T12:00:00Z"
    return StreamedEvent(2, kind, {"seq": 2, "type": kind, "at": at, "data": data})


def test_how_a_job_stands_is_one_line() -> None:
    result = {"model": "parts", "version": 3, "decision": {"promote": True, "reason": "fd 2 → 1"}}
    job = {"status": "succeeded", "result": result, "error": None}
    assert describe(job) == "succeeded: parts@3 is the champion: fd 2 → 1"
    assert describe({**job, "status": "failed", "error": "no images"}) == "failed: no images"
    assert phrase("metrics", {"cur_nimg": 1500, "fd_cnn": 2, "kd": 1}) == "1.5 kimg, fd 2.00"
    assert phrase("started", {"attempt": 2, "worker": "w"}) == "attempt 2, worker w"
