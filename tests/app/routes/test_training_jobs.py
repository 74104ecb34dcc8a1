import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from app.routes import training_jobs

JOBS = "/v1/training/jobs"
PATIENCE_SEC = 30.0
BODY: dict[str, Any] = {"model": "mnist", "dataset": "digits", "minutes": 1}


def create(client: httpx.Client, **changes: object) -> dict[str, Any]:
    answer = client.post(JOBS, json={**BODY, **changes})
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_a_job_is_accepted_stored_and_the_worker_woken(client: httpx.Client, house: Any) -> None:
    answer = client.post(JOBS, json=BODY)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"{JOBS}/{job['id']}"
    assert client.get(answer.headers["Location"]).json() == job
    assert (job["status"], job["dataset"], job["dataset_name"]) == ("queued", "ds_1", "digits")
    assert (job["preset"], job["promote"], job["seed"]) == ("cpu28", "if_better", 0)
    assert house.store.get_job(job["id"]).minutes == 1.0
    assert house.woken == 1


def test_a_job_takes_all_a_training_can_be_told(client: httpx.Client, house: Any) -> None:
    asked = {
        "model": "mnist",
        "dataset": "ds_1",
        "preset": "tiny",
        "kimg": 2.5,
        "until": {"fd": 3},
        "overrides": {"batch_size": 32, "gamma": 0.1, "loss": "hinge", "mirror": True},
        "promote": "always",
        "seed": 2**53 - 1,
    }
    answer = client.post(JOBS, json=asked)
    assert answer.status_code == 202
    assert {name: answer.json()[name] for name in asked} == asked


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"minutes": None}, "exactly one of minutes and kimg"),
        ({"kimg": 1}, "exactly one of minutes and kimg"),
        ({"minutes": "3"}, "minutes"),
        ({"minutes": 0}, "minutes"),
        ({"minutes": True}, "minutes"),
        ({"minutes": 1e9}, "max_job_minutes"),
        ({"model": "../x"}, "model"),
        ({"model": "Ünder"}, "model"),
        ({"dataset": "letters"}, "'letters' does not exist; there is digits"),
        ({"dataset": ""}, "dataset"),
        ({"preset": "huge"}, "'huge' does not exist; there is cpu28"),
        ({"preset": "cpu32"}, "not 28 as dataset 'digits' has; use 'cpu28'"),
        ({"promote": "yes"}, "promote"),
        ({"seed": 2**53}, "seed"),
        ({"seed": -1}, "seed"),
        ({"until": {"fd": 0}}, "fd"),
        ({"until": {"kid": 1}}, "kid"),
        ({"overrides": {"lr": 1}}, "setting 'lr' does not exist; settings: architecture"),
        ({"overrides": {"lr_g": 2}}, "override lr_g is 2; expected 0 to 1"),
        ({"overrides": {"gamma": 0.1, "loss": "mse"}}, "override loss is 'mse'; expected one of"),
        ({"overrides": {"mirror": 1}}, "override mirror is 1; expected true or false"),
        ({"overrides": {"a": [1]}}, "overrides"),
        ({"overrides": {"A b": 1}}, "overrides"),
        ({"overrides": {"a": "x\n--set=b=1"}}, "overrides"),
        ({"overrides": {f"a{i}": i for i in range(33)}}, "overrides"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_a_job_cannot_be_is_refused_by_name(
    client: httpx.Client, house: Any, changes: dict[str, Any], named: str
) -> None:
    answer = client.post(JOBS, json={**BODY, **changes})
    assert answer.status_code == 422
    assert named in answer.text
    assert house.store.list_jobs(10) == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400"])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    body = f'{{"model":"mnist","dataset":"digits","minutes":1,"overrides":{{"lr":{number}}}}}'
    with pytest.raises(ValidationError, match="finite"):
        training_jobs.NewTrainingJob.model_validate(json.loads(body))


def test_a_dataset_that_is_not_ready_is_refused(client: httpx.Client, house: Any) -> None:
    house.store.create_dataset("ds_2", "letters", None)
    answer = client.post(JOBS, json={**BODY, "dataset": "letters"})
    assert answer.status_code == 422
    assert "'letters' is importing" in answer.json()["detail"]
    assert answer.json()["field"] == "dataset"


def test_a_dataset_no_preset_fits_is_refused(client: httpx.Client, house: Any) -> None:
    house.add_dataset("ds_2", "posters", resolution=4096, channels=3)
    answer = client.post(JOBS, json={**BODY, "dataset": "posters"})
    assert answer.status_code == 422
    assert "4096 pixels" in answer.json()["detail"]


def test_the_preset_follows_the_dataset(client: httpx.Client, house: Any) -> None:
    house.add_dataset("ds_2", "cifar", resolution=32, channels=3)
    assert create(client, dataset="cifar")["preset"] == "cpu32"


def test_a_full_queue_answers_503_and_names_its_setting(client: httpx.Client) -> None:
    for _ in range(3):
        create(client)
    answer = client.post(JOBS, json=BODY)
    assert answer.status_code == 503
    assert "max_queued_jobs" in answer.json()["detail"]


def test_pages_of_jobs_are_complete(client: httpx.Client) -> None:
    ids = [create(client)["id"] for _ in range(3)]
    first = client.get(JOBS, params={"limit": 2}).json()
    second = client.get(JOBS, params={"limit": 2, "after": first["data"][-1]["id"]}).json()
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert [job["id"] for job in first["data"] + second["data"]] == ids[::-1]
    assert client.get(JOBS, params={"limit": 101}).status_code == 422


@pytest.mark.parametrize("rest", ["", "/events", "/samples.png", "/log"])
@pytest.mark.parametrize("job_id", ["job_0", "..", "%2e%2e%2fworker.lock"])
def test_an_unknown_job_is_not_found(client: httpx.Client, rest: str, job_id: str) -> None:
    assert client.get(f"{JOBS}/{job_id}{rest}").status_code == 404


def test_cancelling_ends_a_queued_job_and_wakes_the_worker_for_a_running_one(
    client: httpx.Client, house: Any
) -> None:
    first, second = create(client), create(client)
    running = house.claim()
    assert running.id == first["id"]
    answer = client.post(f"{JOBS}/{running.id}/cancel").json()
    assert (answer["status"], answer["cancel_requested"]) == ("running", True)
    assert client.post(f"{JOBS}/{second['id']}/cancel").json()["status"] == "cancelled"
    assert house.woken == 4
    again = client.post(f"{JOBS}/{second['id']}/cancel")
    assert again.status_code == 409
    assert "has ended (cancelled)" in again.json()["detail"]
    assert client.post(f"{JOBS}/job_0/cancel").status_code == 404


def test_the_newest_grid_is_shown_once_there_is_one(client: httpx.Client, house: Any) -> None:
    job_id = create(client)["id"]
    answer = client.get(f"{JOBS}/{job_id}/samples.png")
    assert answer.status_code == 404
    assert "no samples yet" in answer.json()["detail"]
    (house.run_dir(job_id) / "samples.png").write_bytes(b"\x89PNG")
    answer = client.get(f"{JOBS}/{job_id}/samples.png")
    assert (answer.content, answer.headers["content-type"]) == (b"\x89PNG", "image/png")


def test_the_log_shows_its_end(client: httpx.Client, house: Any) -> None:
    job_id = create(client)["id"]
    assert client.get(f"{JOBS}/{job_id}/log").text == ""
    lines = [f"kimg {i} ✓" for i in range(20_000)]
    (house.run_dir(job_id) / "log.txt").write_text("\n".join(lines))
    answer = client.get(f"{JOBS}/{job_id}/log")
    shown = answer.text.split("\n")
    assert len(answer.content) <= 64 * 1024
    assert shown == lines[-len(shown) :]


def test_pages_of_events_are_complete(client: httpx.Client, house: Any) -> None:
    job_id = create(client)["id"]
    job = house.claim()
    house.store.record_progress(job, {"phase": "training"})
    first = client.get(f"{JOBS}/{job_id}/events", params={"limit": 2}).json()
    second = client.get(f"{JOBS}/{job_id}/events", params={"after": 2}).json()
    assert [event["seq"] for event in first["data"] + second["data"]] == [1, 2, 3]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert second["data"][0]["data"] == {"phase": "training"}


# Streams


Stream = Iterator[dict[str, str]]


@contextmanager
def streaming(client: httpx.Client, job_id: str, **headers: str) -> Iterator[Stream]:
    accept = {"Accept": "text/event-stream", **headers}
    with client.stream("GET", f"{JOBS}/{job_id}/events", headers=accept) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield parse_stream(answer.iter_lines())


def parse_stream(lines: Iterator[str]) -> Stream:
    event: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            yield event
            event = {}


def test_a_stream_tells_what_was_what_comes_and_then_ends(house: Any, serving: Any) -> None:
    job_id = house.queue()
    with serving(house) as client, streaming(client, job_id) as events:
        assert next(events)["event"] == "queued"
        job = house.claim()
        assert next(events)["event"] == "started"
        house.store.record_progress(job, {"phase": "training", "cur_nimg": 64})
        assert next(events)["event"] == "phase"
        progress = next(events)
        assert (progress["event"], "id" in progress) == ("progress", False)
        assert json.loads(progress["data"])["cur_nimg"] == 64
        house.store.finish_job(job, "succeeded", result={"version": 2})
        last = next(events)
        assert (last["event"], last["id"]) == ("succeeded", "4")
        assert json.loads(last["data"])["data"] == {"result": {"version": 2}}
        assert list(events) == []


def test_a_stream_goes_on_behind_the_last_event_seen(house: Any, serving: Any) -> None:
    job_id = house.queue()
    house.store.finish_job(house.claim(), "failed", error="no images")
    with serving(house) as client:
        with streaming(client, job_id, **{"Last-Event-ID": "1"}) as events:
            assert [event["id"] for event in events] == ["2", "3"]
        with streaming(client, job_id, **{"Last-Event-ID": "3"}) as events:
            assert list(events) == []


def test_a_long_history_arrives_whole(house: Any, serving: Any) -> None:
    job_id = house.queue()
    for _ in range(60):
        house.store.release_job(house.claim())
    house.store.request_cancel(job_id)
    with serving(house) as client, streaming(client, job_id) as events:
        assert [int(event["id"]) for event in events] == list(range(1, 123))


def test_streams_are_bounded_and_a_closed_one_frees_its_place(house: Any, serving: Any) -> None:
    job_id = house.queue()
    accept = {"Accept": "text/event-stream"}
    with serving(house) as client, streaming(client, job_id) as first:
        next(first)
        with streaming(client, job_id) as second:
            next(second)
            refused = client.get(f"{JOBS}/{job_id}/events", headers=accept)
            assert refused.status_code == 503
            assert "max_event_streams" in refused.json()["detail"]
        freed = wait_for_place(house)
        assert freed
        house.store.request_cancel(job_id)
        assert [event["event"] for event in first] == ["cancelled"]


def wait_for_place(house: Any) -> bool:
    """Until the server has noticed that one of its two listeners hung up."""
    changes = house.store.changes
    with changes.listening:
        return changes.listening.wait_for(lambda: len(changes) < 2, PATIENCE_SEC)


def test_closing_the_store_ends_every_stream(house: Any, serving: Any) -> None:
    job_id = house.queue()
    with serving(house) as client, streaming(client, job_id) as events:
        next(events)
        house.store.changes.close()
        assert list(events) == []


def test_an_unknown_job_has_no_stream(house: Any, serving: Any) -> None:
    with serving(house) as client:
        answer = client.get(f"{JOBS}/job_0/events", headers={"Accept": "text/event-stream"})
    assert answer.status_code == 404
