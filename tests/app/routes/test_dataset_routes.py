import io
import json
import os
import socket
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from app import problems
from app.context import get_context
from app.imports import DatasetImporter
from app.routes import datasets
from app.settings import Settings
from app.store.jobs import NewJob
from app.store.store import Store
from training.model.registry import Registry

PATIENCE_SEC = 30.0
PATH = "/v1/datasets"


def zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def letters() -> dict[str, bytes]:
    entries = {}
    for i in range(6):
        image = io.BytesIO()
        Image.new("L", (28, 28), 30 * i).save(image, "PNG")
        entries[f"{'ab'[i % 2]}/{i}.png"] = image.getvalue()
    return entries


class House:
    """The routes of datasets on a real store and a real importer."""

    def __init__(self, data_dir: Path) -> None:
        values = {"data_dir": data_dir, "max_upload_bytes": 200_000}
        self.settings = Settings.model_validate(values)
        self.store = Store.open(self.settings.database_path)
        self.importer = DatasetImporter(self.settings, self.store, max_queued=2)
        self.app = FastAPI()
        self.app.include_router(datasets.router)
        problems.add_handlers(self.app)
        self.registry = Registry(self.settings.models_dir)
        self.context = context = SimpleNamespace(
            settings=self.settings,
            store=self.store,
            importer=self.importer,
            registry=self.registry,
        )
        self.app.dependency_overrides[get_context] = lambda: context

    def wait_for(self, dataset_id: str) -> None:
        changed = threading.Event()
        free = self.store.changes.subscribe(changed.set, 100)
        try:
            while self.store.get_dataset(dataset_id).status == "importing":
                assert changed.wait(PATIENCE_SEC)
                changed.clear()
        finally:
            free()

    def uploads(self) -> list[str]:
        folder = self.settings.uploads_dir
        return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.importer.close()
    house.store.close()


@pytest.fixture
def client(house: House) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(house.app, log_level="error", ws="none", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=PATIENCE_SEC) as client:
            yield client
        server.should_exit = True
        thread.join(PATIENCE_SEC)


def upload(client: httpx.Client, data: bytes, **fields: str) -> Any:
    return client.post(PATH, files={"file": ("x.zip", data)}, data={"name": "letters", **fields})


def test_an_upload_is_accepted_imported_and_shown(client: httpx.Client, house: House) -> None:
    house.importer.start()
    answer = upload(client, zipped(letters() | {"a/bad.png": b"\x89PNG"}), resolution="16")
    assert answer.status_code == 202
    accepted = answer.json()
    assert accepted["status"] == "importing"
    assert answer.headers["location"] == f"{PATH}/{accepted['id']}"
    house.wait_for(accepted["id"])
    ready = client.get(answer.headers["location"]).json()
    assert ready["status"] == "ready"
    assert ready["counts"] == {"a": 3, "b": 3}
    assert (ready["resolution"], ready["channels"], ready["num_images"]) == (16, 1, 6)
    assert [r["file"] for r in ready["rejections"]] == ["a/bad.png"]
    assert len(ready["hash"]) == 64
    assert client.get(f"{PATH}/letters").json() == ready
    [listed] = client.get(PATH).json()["data"]
    assert listed == {**ready, "rejections": None}


def test_a_failed_import_tells_why(client: httpx.Client, house: House) -> None:
    house.importer.start()
    accepted = upload(client, zipped({"a/../../x.png": b"x"})).json()
    house.wait_for(accepted["id"])
    failed = client.get(f"{PATH}/{accepted['id']}").json()
    assert failed["status"] == "failed"
    assert "points outside the archive" in failed["error"]
    assert upload(client, zipped(letters())).status_code == 202  # the name is free again


@pytest.mark.parametrize(
    ("data", "said"), [(b"no zip at all", "is not a zip"), (zipped({}), "The zip is empty")]
)
def test_what_is_no_zip_or_empty_is_refused_and_nothing_is_left(
    client: httpx.Client, house: House, data: bytes, said: str
) -> None:
    answer = upload(client, data)
    assert answer.status_code == 422
    assert answer.json()["field"] == "file"
    assert said in answer.json()["detail"]
    assert house.uploads() == []
    assert house.store.list_datasets() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../x"),
        ("name", "Upper"),
        ("name", "x\n"),
        ("name", "x" * 64),
        ("name", "x" * 2000),
        ("resolution", "3"),
        ("resolution", "1025"),
        ("resolution", "NaN"),
        ("resolution", "٢٨"),
        ("resolution", "1e2"),
        ("channels", "2"),
        ("channels", "-1"),
        ("background", "no colour"),
        ("background", "#ff000080"),
        ("max_per_class", "0"),
        ("max_per_class", "1.5"),
        ("colour", "red"),
    ],
)
def test_a_field_outside_what_is_allowed_is_named(
    client: httpx.Client, house: House, field: str, value: str
) -> None:
    answer = upload(client, zipped(letters()), **{field: value})
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert house.uploads() == []


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"files": {"file": ("x.zip", zipped(letters()))}}, "name"),
        ({"files": {"name": (None, "letters")}}, "file"),
        ({"files": [("file", ("x.zip", b"1")), ("file", ("y.zip", b"2"))]}, "file"),
        ({"files": [("name", (None, "a")), ("name", (None, "b"))]}, "name"),
    ],
)
def test_a_missing_or_doubled_field_is_named(
    client: httpx.Client, house: House, parts: dict[str, Any], field: str
) -> None:
    answer = client.post(PATH, **parts)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert house.uploads() == []


def test_an_upload_under_a_name_that_there_is_is_its_next_version(
    client: httpx.Client, house: House
) -> None:
    first, second = (upload(client, zipped(letters())).json() for _ in range(2))
    assert (first["version"], second["version"]) == (1, 2)
    assert client.get(f"{PATH}/letters@1").json()["id"] == first["id"]
    house.importer.start()
    house.wait_for(second["id"])
    assert client.get(f"{PATH}/letters").json()["id"] == second["id"]


def test_an_upload_over_the_limit_is_refused_before_it_is_read(
    client: httpx.Client, house: House
) -> None:
    answer = upload(client, bytes(300_000))
    assert answer.status_code == 413
    assert "max_upload_bytes" in answer.json()["detail"]
    assert house.uploads() == []


def test_an_upload_that_hides_its_length_is_cut_at_the_limit(house: House) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    sent = 0

    async def receive() -> dict[str, Any]:
        nonlocal sent
        sent += 1
        return {
            "type": "http.request",
            "body": head if sent == 1 else bytes(50_000),
            "more_body": True,
        }

    assert call(house, receive) == 413
    assert sent == 6  # 200,000 bytes are allowed: the fifth block of zeros goes over
    assert house.uploads() == []


def test_a_client_that_hangs_up_leaves_nothing_behind(house: House) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nPK'
    messages = iter(
        [
            {"type": "http.request", "body": head, "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> dict[str, Any]:
        return next(messages)

    assert call(house, receive) == 499
    assert house.uploads() == []


def test_a_client_that_hangs_up_amid_json_is_no_error_of_ours(house: House) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    assert call(house, receive, b"application/json") == 499


def call(house: House, receive: Any, kind: bytes = b"multipart/form-data; boundary=x") -> int:
    """The status that an upload gets whose body comes from `receive`."""
    status = 0

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": PATH,
        "raw_path": PATH.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"content-type", kind)],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    anyio.run(house.app, scope, receive, send)
    return status


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{}", "text/plain", 415),
        (b"", "multipart/form-data", 415),
        (b"", f"multipart/form-data; boundary={'x' * 300}", 415),
        (b"garbage", "multipart/form-data; boundary=x", 422),
        (
            b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\na',
            "multipart/form-data; boundary=x",
            422,
        ),
        (b"--x\r\n" + b"a: b\r\n" * 1000 + b"\r\n", "multipart/form-data; boundary=x", 422),
        (b"--x\r\n\r\nno disposition\r\n--x--", "multipart/form-data; boundary=x", 422),
        (b"", "multipart/form-data; boundary=x", 422),
    ],
)
def test_a_body_that_is_no_form_is_refused(
    client: httpx.Client, house: House, body: bytes, kind: str, status: int
) -> None:
    assert client.post(PATH, content=body, headers={"content-type": kind}).status_code == status
    assert house.uploads() == []


def test_a_full_queue_is_answered_before_the_body_is_read(
    client: httpx.Client, house: House
) -> None:
    for name in "ab":
        assert upload(client, zipped(letters()), name=name).status_code == 202
    assert upload(client, zipped(letters()), name="c").status_code == 503
    assert len(house.uploads()) == 4


def test_an_unknown_dataset_is_not_found(client: httpx.Client) -> None:
    assert client.get(f"{PATH}/nothing").status_code == 404
    assert client.delete(f"{PATH}/nothing").status_code == 404


def test_a_deleted_dataset_is_gone_with_its_files(client: httpx.Client, house: House) -> None:
    house.importer.start()
    accepted = upload(client, zipped(letters())).json()
    house.wait_for(accepted["id"])
    assert client.delete(f"{PATH}/letters").status_code == 204
    assert client.get(f"{PATH}/letters").status_code == 404
    assert list(house.settings.datasets_dir.iterdir()) == []


def test_a_dataset_is_not_deleted_while_it_is_importing(client: httpx.Client) -> None:
    accepted = upload(client, zipped(letters())).json()
    assert client.delete(f"{PATH}/{accepted['id']}").status_code == 409


def test_a_dataset_is_not_deleted_while_a_job_needs_it(client: httpx.Client, house: House) -> None:
    house.importer.start()
    accepted = upload(client, zipped(letters())).json()
    house.wait_for(accepted["id"])
    job = NewJob("m", accepted["id"], "letters", "tiny", 1.0, None, None, {}, "never", 0)
    house.store.create_job(job, 10)
    assert client.delete(f"{PATH}/letters").status_code == 409
    assert (house.importer.dataset_path(accepted["id"]) / "images.npy").exists()


def test_a_dataset_is_not_deleted_while_a_model_version_was_trained_on_it(
    client: httpx.Client, house: House
) -> None:
    for number, content in enumerate("xxy"):
        dataset_id = f"ds_{number}"
        house.store.create_dataset(dataset_id, "letters", None)
        house.store.finish_dataset(dataset_id, "ready", summary={"hash": content})
    for version, content in (("1", "y"), ("2", "x"), ("3", None)):
        folder = house.settings.models_dir / "m" / version
        folder.mkdir(parents=True)
        manifest = {"lineage": {"dataset_hash": content}} if content else {}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    refused = client.delete(f"{PATH}/letters@3")
    assert refused.status_code == 409
    assert "letters@3 is needed by m@1, trained on it" in refused.json()["detail"]
    assert client.delete(f"{PATH}/letters@1").status_code == 204  # letters@2 has the same images
    assert client.delete(f"{PATH}/letters@2").status_code == 409


def test_the_form_is_in_the_openapi_document(client: httpx.Client) -> None:
    post = client.get("/openapi.json").json()["paths"][PATH]["post"]
    form = post["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert sorted(form["properties"]) == sorted([*datasets.FIELDS, "file", "labels"])


def test_an_upload_takes_only_what_its_fields_ask_for(client: httpx.Client, house: House) -> None:
    house.importer.start()
    fields = {"classes": "b,a", "max_per_class": "2", "licence": "CC0", "background": "#000"}
    accepted = upload(client, zipped(letters() | {"c/1.png": b"x"}), **fields).json()
    house.wait_for(accepted["id"])
    ready = client.get(f"{PATH}/letters").json()
    assert ready["counts"] == {"b": 2, "a": 2}
    assert ready["licence"] == "CC0"


@pytest.mark.parametrize(
    "labels",
    [
        "file,class\n" + "".join(f"{i}.png,{'xy'[i % 2]}\n" for i in range(6)),
        "".join(f'{{"file": "{i}.png", "class": "{"xy"[i % 2]}"}}\n' for i in range(6)),
    ],
    ids=["csv", "jsonl"],
)
def test_labels_come_as_a_file_beside_the_zip(
    client: httpx.Client, house: House, labels: str
) -> None:
    house.importer.start()
    flat = zipped({name[2:]: data for name, data in letters().items()})
    files = {"labels": ("of-mine.txt", labels.encode()), "file": ("x.zip", flat)}
    accepted = client.post(PATH, files=files, data={"name": "letters"})
    assert accepted.status_code == 202
    house.wait_for(accepted.json()["id"])
    assert client.get(f"{PATH}/letters").json()["counts"] == {"x": 3, "y": 3}
    house.importer.close()
    assert house.uploads() == []


def test_labels_of_an_upload_that_is_refused_are_not_kept(
    client: httpx.Client, house: House
) -> None:
    files = {"labels": ("labels.csv", b"file,class\n"), "file": ("x.zip", b"no zip")}
    assert client.post(PATH, files=files, data={"name": "letters"}).status_code == 422
    assert house.uploads() == []


def test_labels_without_a_zip_are_refused(client: httpx.Client, house: House) -> None:
    answer = client.post(PATH, files={"labels": ("l.csv", b"a,b")}, data={"name": "letters"})
    assert (answer.status_code, answer.json()["field"]) == (422, "file")
    assert house.uploads() == []


def test_an_import_is_cancelled_over_http_once(client: httpx.Client, house: House) -> None:
    accepted = upload(client, zipped(letters())).json()
    assert client.get(f"{PATH}/letters").json()["progress"] is None
    cancelled = client.post(f"{PATH}/letters/cancel")
    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "failed"
    assert cancelled.json()["error"] == "The import was cancelled."
    assert house.uploads() == []
    assert client.post(f"{PATH}/{accepted['id']}/cancel").status_code == 409
    assert client.post(f"{PATH}/nothing/cancel").status_code == 404
    assert upload(client, zipped(letters())).status_code == 202


def test_verdicts_are_paged_and_filtered(client: httpx.Client, house: House) -> None:
    folder = ready_folder(house)
    rows = [
        {"file": f"reject{i}.png", "verdict": "reject" if i % 2 else "accept"} for i in range(7)
    ]
    (folder / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = f"{PATH}/letters/verdicts"
    assert client.get(asked).json() == {"data": rows, "next": None}
    assert client.get(asked, params={"limit": 7}).json()["next"] is None
    page = {"verdict": "reject", "limit": "2"}
    first = client.get(asked, params=page).json()
    assert first == {"data": [rows[1], rows[3]], "next": 5}
    rest = client.get(asked, params={**page, "start": "5"}).json()
    assert rest == {"data": [rows[5]], "next": None}
    for wrong in ({"verdict": "other"}, {"start": "9" * 30}):
        assert client.get(asked, params=wrong).status_code == 422


def test_a_report_may_run_and_fetch_nothing(client: httpx.Client, house: House) -> None:
    (ready_folder(house) / "report.html").write_text("<p>x")
    answer = client.get(f"{PATH}/letters/report")
    assert answer.text == "<p>x"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("name", ["verdicts", "report", "thumbnails.png"])
def test_what_an_import_did_not_write_is_not_found_with_its_reason(
    client: httpx.Client, house: House, name: str
) -> None:
    house.store.create_dataset("ds_2", "others", None)
    ready_folder(house)
    old = client.get(f"{PATH}/letters/{name}")
    assert old.status_code == 404
    assert "import its images again" in old.json()["detail"]
    waiting = client.get(f"{PATH}/others/{name}")
    assert waiting.status_code == 404
    assert "is importing" in waiting.json()["detail"]


def ready_folder(house: House) -> Path:
    house.store.create_dataset("ds_1", "letters", None)
    house.store.finish_dataset("ds_1", "ready", summary={})
    folder = house.importer.dataset_path("ds_1")
    folder.mkdir(parents=True)
    return folder


def test_images_are_added_to_a_dataset_as_its_next_version(
    client: httpx.Client, house: House
) -> None:
    house.importer.start()
    first = upload(client, zipped(letters()), resolution="16").json()
    house.wait_for(first["id"])
    more = {f"c/{name[2:]}": data for name, data in letters().items()}
    answer = client.post(
        PATH, files={"file": ("x.zip", zipped(more))}, data={"append_to": "letters"}
    )
    assert answer.status_code == 202, answer.text
    house.wait_for(answer.json()["id"])
    ready = client.get(f"{PATH}/letters").json()
    assert (ready["status"], ready["version"], ready["num_images"]) == ("ready", 2, 12)
    assert ready["class_names"] == ["a", "b", "c"]
    assert ready["resolution"] == 16
    assert ready["duplicates"] == 6
    assert client.get(f"{PATH}/letters@1").json()["num_images"] == 6


def test_images_are_not_added_to_what_is_not_there_or_not_ready(
    client: httpx.Client, house: House
) -> None:
    assert upload(client, zipped(letters()), append_to="letters").status_code == 404
    first = upload(client, zipped(letters())).json()
    refused = upload(client, zipped(letters()), append_to=first["id"])
    assert refused.status_code == 409
    assert "is importing" in refused.json()["detail"]
    assert house.uploads() == [f"{first['id']}.json", f"{first['id']}.zip"]


def test_a_dataset_is_not_deleted_while_images_are_added_to_it(
    client: httpx.Client, house: House
) -> None:
    house.importer.start()
    first = upload(client, zipped(letters())).json()
    house.wait_for(first["id"])
    house.importer.close()  # so that the next one waits
    adding = upload(client, zipped(letters()), append_to="letters").json()
    refused = client.delete(f"{PATH}/{first['id']}")
    assert refused.status_code == 409
    assert adding["id"] in refused.json()["detail"]
    assert client.post(f"{PATH}/{adding['id']}/cancel").status_code == 200
    assert client.delete(f"{PATH}/{first['id']}").status_code == 204


# Folders of the server


@pytest.fixture
def rooted(house: House, tmp_path: Path) -> Path:
    """A root named `parts` with a folder of letters, and a secret beside the root."""
    root = tmp_path / "root"
    for name, data in letters().items():
        path = root / "deep" / "letters" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "letters.zip").write_bytes(zipped(letters()))
    (tmp_path / "secret" / "a").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "link.zip").symlink_to(root / "letters.zip")
    os.mkfifo(root / "pipe")
    values = house.settings.model_dump() | {"dataset_roots": {"parts": root}}
    house.settings = house.context.settings = Settings.model_validate(values)
    return root


@pytest.mark.parametrize("path", ["deep/letters", "./deep//letters/", "letters.zip"])
def test_a_folder_or_file_of_the_server_is_imported_and_stays(
    path: str, client: httpx.Client, house: House, rooted: Path
) -> None:
    before = sorted(rooted.rglob("*"))
    house.importer.start()
    answer = client.post(PATH, json={"name": "x", "root": "parts", "path": path, "resolution": 8})
    assert answer.status_code == 202, answer.text
    house.wait_for(answer.json()["id"])
    ready = client.get(f"{PATH}/x").json()
    assert (ready["status"], ready["num_images"], ready["resolution"]) == ("ready", 6, 8)
    assert sorted(rooted.rglob("*")) == before
    assert house.uploads() == []


@pytest.mark.parametrize(
    "path",
    [
        "../secret", "deep/../../secret", "/etc", "out", "out/a", "link.zip", "pipe", "nothing",
        "deep\\letters", "deep\0", "letters.zip/a", "x" * 300,
    ],
)  # fmt: skip
def test_a_path_that_does_not_lie_below_its_root_is_refused(
    path: str, client: httpx.Client, house: House, rooted: Path
) -> None:
    answer = client.post(PATH, json={"name": "x", "root": "parts", "path": path})
    assert answer.status_code == 422
    assert answer.json()["field"] == "path"
    assert client.get(PATH).json()["data"] == []


def test_a_root_that_is_not_configured_is_refused_by_its_setting(
    client: httpx.Client, house: House, rooted: Path
) -> None:
    answer = client.post(PATH, json={"name": "x", "root": "other", "path": ""})
    assert answer.status_code == 422
    assert "'other' is not one of dataset_roots: 'parts'" in answer.json()["detail"]
    house.context.settings = Settings.model_validate(
        house.settings.model_dump() | {"dataset_roots": {}}
    )
    answer = client.post(PATH, json={"name": "x", "root": "parts", "path": ""})
    assert "NOISEWELL_DATASET_ROOTS" in answer.json()["detail"]


def test_json_that_asks_for_something_else_is_refused(
    client: httpx.Client, house: House, rooted: Path
) -> None:
    for body in ({"root": "parts", "url": "http://x"}, {"root": "parts", "channels": "3"}, [], 3):
        assert client.post(PATH, json=body).status_code == 422
    long = {"root": "parts", "name": "x", "path": "a" * 100_000}
    assert client.post(PATH, json=long).status_code == 413


def test_an_import_of_a_folder_is_taken_up_again_by_the_next_service(
    client: httpx.Client, house: House, rooted: Path
) -> None:
    body = {"name": "x", "root": "parts", "path": "deep/letters"}
    dataset_id = client.post(PATH, json=body).json()["id"]
    after = DatasetImporter(house.settings, house.store)
    after.start()
    house.wait_for(dataset_id)
    after.close()
    assert house.store.get_dataset(dataset_id).status == "ready"


def test_limits_of_an_image_are_settings(client: httpx.Client, house: House) -> None:
    house.importer.close()
    values = house.settings.model_dump() | {"max_image_pixels": 100}
    importer = DatasetImporter(Settings.model_validate(values), house.store)
    house.context.importer = importer
    importer.start()
    accepted = upload(client, zipped(letters())).json()
    house.wait_for(accepted["id"])
    importer.close()
    assert "max_image_pixels" in client.get(f"{PATH}/{accepted['id']}").json()["error"]
