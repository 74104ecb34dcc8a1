import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
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


@pytest.mark.parametrize(
    "rest", ["", "/events", "/samples.png", "/samples/0.png", "/log", "/checkpoints"]
)
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


def test_jobs_are_found_by_state_and_model(client: httpx.Client, house: Any) -> None:
    first, second = create(client), create(client, model="parts")
    house.store.request_pause(first["id"])
    for query, found in (
        ({"status": "paused"}, [first["id"]]),
        ({"status": "queued", "model": "parts"}, [second["id"]]),
        ({"status": "failed"}, []),
        ({"model": "parts", "after": second["id"]}, []),
    ):
        page = client.get(JOBS, params=query).json()
        assert ([job["id"] for job in page["data"]], page["has_more"]) == (found, False)
    assert client.get(JOBS, params={"status": "lost"}).status_code == 422


def test_a_job_says_when_it_will_have_trained(client: httpx.Client, house: Any) -> None:
    job_id = create(client)["id"]
    job = house.claim()
    for progress, known in (
        ({"phase": "measuring speed"}, False),
        ({"phase": "training", "eta_sec": 60}, True),
        ({"phase": "training", "eta_sec": 1e300}, False),
        ({"phase": "evaluating", "eta_sec": 60}, False),
    ):
        house.store.record_progress(job, progress)
        assert (client.get(f"{JOBS}/{job_id}").json()["eta"] is not None) is known


# One key, one job


KEY = {"Idempotency-Key": "monday's training"}


def test_one_key_makes_one_job_whatever_became_of_it(client: httpx.Client, house: Any) -> None:
    first = client.post(JOBS, json=BODY, headers=KEY)
    assert "Idempotency-Replayed" not in first.headers
    house.store.finish_job(house.claim(), "failed", error="no images")
    house.store.delete_dataset("ds_1")
    text = json.dumps({"minutes": 1.0, "dataset": "digits", "model": "mnist"}, indent=4)
    again = client.post(JOBS, content=text, headers={**KEY, "Content-Type": "application/json"})
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert again.headers["Location"] == first.headers["Location"]
    assert (again.json()["id"], again.json()["status"]) == (first.json()["id"], "failed")


def test_a_full_queue_still_answers_for_the_job_a_key_made(client: httpx.Client) -> None:
    first = client.post(JOBS, json=BODY, headers=KEY).json()
    create(client), create(client)
    assert client.post(JOBS, json=BODY).status_code == 503
    assert client.post(JOBS, json=BODY, headers=KEY).json() == first


def test_a_refused_request_leaves_its_key_free(client: httpx.Client) -> None:
    assert client.post(JOBS, json={**BODY, "preset": "huge"}, headers=KEY).status_code == 422
    assert client.post(JOBS, json=BODY, headers=KEY).status_code == 202


# What changes nothing


RETRIED, PAUSED, CANCELLING = "already retried", "paused", "cancelling"


def staged(house: Any) -> dict[str, str]:
    """A job in every state there is, by the name of its state; one key is used."""
    ids: dict[str, str] = {}
    for status in ("succeeded", "failed", "cancelled"):
        ids[status] = house.queue()
        house.store.finish_job(house.claim(), status)
    ids[RETRIED] = house.queue()
    house.store.finish_job(house.claim(), "failed")
    house.store.retry_job(ids[RETRIED], 100)
    ids["its retry"] = house.claim().id
    ids[CANCELLING] = house.queue()
    house.claim()
    house.store.request_cancel(ids[CANCELLING])
    ids["running"] = house.queue()
    house.claim()
    ids["queued"] = house.queue()
    ids[PAUSED] = house.queue()
    house.store.request_pause(ids[PAUSED])
    house.store.create_dataset("ds_2", "importing", None)
    house.store.create_dataset("ds_3", "broken", None)
    house.store.finish_dataset("ds_3", "failed", error="no images")
    house.add_dataset("ds_4", "deleted", resolution=28, channels=1)
    house.store.delete_dataset("ds_4")
    house.add_dataset("ds_5", "posters", resolution=4096, channels=3)
    return ids


def everything(house: Any) -> list[list[tuple[Any, ...]]]:
    """Every row of the whole database."""
    with closing(sqlite3.connect(house.settings.database_path)) as db:
        tables = db.execute("select name from sqlite_master where type = 'table' order by 1")
        names = [name for (name,) in tables]
        return [sorted(db.execute(f"select * from {name}"), key=repr) for name in names]


VERBS = [
    *[(verb, "unknown", 404) for verb in ("cancel", "pause", "resume", "retry")],
    *[
        (verb, state, 409)
        for verb in ("cancel", "pause", "resume")
        for state in ("succeeded", "failed", "cancelled", RETRIED)
    ],
    *[(verb, CANCELLING, 409) for verb in ("pause", "resume", "retry")],
    *[
        ("retry", state, 409)
        for state in ("queued", "running", PAUSED, "succeeded", RETRIED, "its retry")
    ],
    ("cancel", CANCELLING, 200),
    ("pause", PAUSED, 200),
    ("resume", "queued", 200),
    ("resume", "running", 200),
]


def test_a_verb_in_a_state_that_forbids_it_or_has_it_changes_nothing(
    client: httpx.Client, house: Any
) -> None:
    ids = staged(house)
    before = everything(house)
    for verb, state, status in VERBS:
        job_id = ids.get(state, "job_0")
        answer = client.post(f"{JOBS}/{job_id}/{verb}")
        assert (verb, state, answer.status_code) == (verb, state, status)
        assert job_id in answer.text
        assert everything(house) == before, (verb, state)


REFUSED: list[tuple[dict[str, Any], Any, str]] = [
    ({"dataset": "deleted"}, {}, "'deleted' does not exist"),
    ({"dataset": "ds_4"}, {}, "'ds_4' does not exist"),
    ({"dataset": "importing"}, {}, "is importing"),
    ({"dataset": "broken"}, {}, "is failed"),
    ({"dataset": "posters"}, {}, "No preset makes images of 4096 pixels"),
    ({"overrides": {"gamma": 1e9}}, {}, "override gamma is 1000000000.0; expected 0 to 10000"),
    ({"overrides": {"gama": 1}}, {}, "setting 'gama' does not exist"),
    ({"base": "parts@1"}, {}, "'parts' is not registered"),
    ({"base": "../parts"}, {}, "'../parts' is not registered"),
    ({"seed": 1}, KEY, "came with another body before and made job"),
    ({}, {"Idempotency-Key": ""}, "Idempotency-Key"),
    ({}, {"Idempotency-Key": "k" * 256}, "Idempotency-Key"),
    ({}, {"Idempotency-Key": b"\xc3\xa4"}, "Idempotency-Key"),
]


def test_a_job_that_cannot_be_changes_nothing(client: httpx.Client, house: Any) -> None:
    client.post(JOBS, json=BODY, headers=KEY)
    house.claim()
    staged(house)
    before, woken = everything(house), house.woken
    for changes, headers, named in REFUSED:
        answer = client.post(JOBS, json={**BODY, **changes}, headers=headers)
        assert answer.status_code == 422, (changes, headers)
        assert named.lower() in answer.json()["detail"].lower()
        assert (everything(house), house.woken) == (before, woken), (changes, headers)


def test_pausing_resuming_and_retrying_tell_the_worker(client: httpx.Client, house: Any) -> None:
    job_id = create(client)["id"]
    assert client.post(f"{JOBS}/{job_id}/pause").json()["status"] == "paused"
    assert client.post(f"{JOBS}/{job_id}/resume").json()["status"] == "queued"
    running = house.claim()
    asked = client.post(f"{JOBS}/{job_id}/pause").json()
    assert (asked["status"], asked["pause_requested"]) == ("running", True)
    house.store.finish_job(running, "failed", error="no images")
    answer = client.post(f"{JOBS}/{job_id}/retry")
    again = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"{JOBS}/{again['id']}"
    assert (again["retry_of"], again["status"], again["preset"]) == (job_id, "queued", "cpu28")
    assert house.woken == 5


# Going on from a version


def test_a_job_that_starts_from_a_version_has_its_networks_and_preset(
    client: httpx.Client, house: Any, make_version: Any
) -> None:
    make_version(house.registry, "parts", classes=("a", "b"))
    house.add_dataset("ds_2", "tiles", resolution=8, channels=1, class_names=["a", "b"])
    job = client.post(JOBS, json={**BODY, "dataset": "tiles", "base": "parts", "preset": "tiny"})
    assert job.status_code == 422  # no preset makes 8 pixels: the toy is smaller than any
    make_version(house.registry, "parts", weights=1, resolution=28, classes=("a", "b"))
    house.add_dataset("ds_3", "parts", resolution=28, channels=1, class_names=["a", "b"])
    job = create(client, dataset="parts", base="parts@2", overrides={"z_dim": 8, "gamma": 1.0})
    assert (job["base"], job["preset"]) == ("parts@2", "cpu28")
    network = {"architecture": "strided", "widths": "8,4", "z_dim": 8, "modulation": False}
    assert job["overrides"].items() >= {**network, "gamma": 1.0}.items()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"base": "parts@3"}, "version 3 of 'parts' is not registered; registered: 1"),
        ({"dataset": "colour"}, "base 'parts@1' has channels 1, dataset 'colour' 3"),
        ({"dataset": "digits"}, "base 'parts@1' has classes ['a', 'b'], dataset 'digits' None"),
        ({"dataset": "big"}, "base 'parts@1' has resolution 28, dataset 'big' 32"),
        ({"overrides": {"z_dim": 16}}, "override z_dim is 16, but base 'parts@1' has 8"),
        ({"overrides": {"widths": "8"}}, "override widths is '8', but base 'parts@1' has (8, 4)"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(
    client: httpx.Client, house: Any, make_version: Any, changes: dict[str, Any], named: str
) -> None:
    make_version(house.registry, "parts", resolution=28, classes=("a", "b"))
    names = ["a", "b"]
    house.add_dataset("ds_2", "parts", resolution=28, channels=1, class_names=names)
    house.add_dataset("ds_3", "colour", resolution=28, channels=3, class_names=names)
    house.add_dataset("ds_4", "big", resolution=32, channels=1, class_names=names)
    body = {**BODY, "dataset": "parts", "base": "parts@1", **changes}
    answer = client.post(JOBS, json=body)
    assert answer.status_code == 422
    assert named in answer.json()["detail"]
    assert house.store.list_jobs(10) == []


# What a run leaves


def test_checkpoints_are_what_a_run_has_left_and_lead_to_their_grids(
    client: httpx.Client, house: Any
) -> None:
    job_id = create(client)["id"]
    assert client.get(f"{JOBS}/{job_id}/checkpoints").json() == {"data": []}
    run = house.run_dir(job_id)
    left = {
        "state-000000002048-0.safetensors": b"state",
        "snapshots/000000001024.safetensors": b"weights",
        "samples/000000001024.png": b"\x89PNG",
        "samples/.000000002048.png.7.tmp": b"half",
        "metrics.jsonl": b'{"cur_nimg": 1024, "fd_cnn": 2.5}\n{"cur_nimg": 20',
    }
    for name, data in left.items():
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(data)
    found = client.get(f"{JOBS}/{job_id}/checkpoints").json()["data"]
    told = [(c["cur_nimg"], c["kind"], c["bytes"], c["samples"] is not None) for c in found]
    assert told == [
        (1024, "samples", 4, True), (1024, "snapshot", 7, True), (2048, "state", 5, False)
    ]  # fmt: skip
    assert found[0]["metrics"]["fd_cnn"] == 2.5
    assert client.get(found[0]["samples"]).content == b"\x89PNG"
    missing = client.get(f"{JOBS}/{job_id}/samples/2048.png")
    assert (missing.status_code, "no samples of 2048 images" in missing.text) == (404, True)


def test_a_retry_shows_the_run_that_it_goes_on_in(client: httpx.Client, house: Any) -> None:
    job_id = house.queue()
    (house.run_dir(job_id) / "samples.png").write_bytes(b"\x89PNG")
    house.store.finish_job(house.claim(), "failed")
    again = client.post(f"{JOBS}/{job_id}/retry").json()["id"]
    assert client.get(f"{JOBS}/{again}/samples.png").content == b"\x89PNG"


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
