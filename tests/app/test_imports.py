import io
import json
import os
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy.exc import OperationalError

from app.errors import ConflictError, QuotaError, UnavailableError
from app.imports import (
    ARRIVING,
    CANCELLED,
    NOT_RECORDED,
    DatasetImporter,
    ImportRequest,
    Step,
    new_dataset_id,
    start_child,
)
from app.settings import Settings
from app.store.datasets import StoredDataset
from app.store.store import Store

PATIENCE_SEC = 30.0
REQUEST = ImportRequest("letters", None, None)


def zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(4):
            image = io.BytesIO()
            Image.new("L", (28, 28), 10 * i).save(image, "PNG")
            archive.writestr(f"{'ab'[i % 2]}/{i}.png", image.getvalue())
    return buffer.getvalue()


class House:
    """A store on the disk, and importers on it that come and go."""

    def __init__(self, data_dir: Path) -> None:
        self.settings = Settings.model_validate({"data_dir": data_dir})
        self.store = Store.open(self.settings.database_path)
        self.settings.uploads_dir.mkdir()
        self.importers: list[DatasetImporter] = []

    def importer(self, script: str | None = None, **options: float) -> DatasetImporter:
        """script: Python that stands in for the import; it sees UPLOAD and OUT in sys.argv."""

        def command(upload: Path, out: Path, _request: ImportRequest) -> list[str]:
            assert script is not None
            return [sys.executable, "-c", script, str(upload), str(out)]

        importer = DatasetImporter(
            self.settings, self.store, command=command if script else None, **options
        )
        self.importers.append(importer)
        return importer

    def upload(self, importer: DatasetImporter, data: bytes | None = None) -> str:
        dataset_id = new_dataset_id()
        importer.upload_path(dataset_id).write_bytes(zip_bytes() if data is None else data)
        return dataset_id

    def wait_until(self, condition: Callable[[], bool]) -> None:
        changed = threading.Event()
        free = self.store.changes.subscribe(changed.set, 100)
        try:
            while not condition():
                assert changed.wait(PATIENCE_SEC)
                changed.clear()
        finally:
            free()

    def ended(self, dataset_id: str) -> StoredDataset:
        self.wait_until(lambda: self.store.get_dataset(dataset_id).status != "importing")
        return self.store.get_dataset(dataset_id)

    def uploads(self) -> list[str]:
        return sorted(p.name for p in self.settings.uploads_dir.iterdir())

    def close(self) -> None:
        for importer in self.importers:
            importer.close()
        self.store.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def test_an_upload_becomes_a_packed_dataset(house: House) -> None:
    importer = house.importer()
    importer.start()
    dataset_id = house.upload(importer)
    accepted = importer.accept(dataset_id, ImportRequest("letters", 16, 3))
    assert (accepted.id, accepted.status) == (dataset_id, "importing")
    ready = house.ended(dataset_id)
    assert ready.status == "ready"
    assert ready.summary is not None
    assert (ready.summary["resolution"], ready.summary["channels"]) == (16, 3)
    assert ready.summary["counts"] == {"a": 2, "b": 2}
    assert (importer.dataset_path(dataset_id) / "images.npy").exists()
    importer.close()
    assert house.uploads() == []


def test_a_bad_upload_fails_with_the_import_s_own_sentence(house: House) -> None:
    importer = house.importer()
    importer.start()
    dataset_id = house.upload(importer, b"no zip")
    importer.accept(dataset_id, REQUEST)
    failed = house.ended(dataset_id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert "is not a zip file" in failed.error
    importer.close()
    assert house.uploads() == []
    assert list(house.settings.datasets_dir.iterdir()) == []


def test_an_import_that_is_killed_fails_and_the_next_one_runs(house: House) -> None:
    importer = house.importer("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    importer.start()
    for _ in range(2):
        dataset_id = house.upload(importer)
        importer.accept(dataset_id, REQUEST)
        failed = house.ended(dataset_id)
        assert failed.status == "failed"
        assert failed.error is not None
        assert "killed by SIGKILL" in failed.error


def test_a_crash_is_told_by_its_last_line(house: House) -> None:
    importer = house.importer("raise RuntimeError('boom')")
    importer.start()
    dataset_id = house.upload(importer)
    importer.accept(dataset_id, REQUEST)
    error = house.ended(dataset_id).error
    assert error == "The import ended with exit code 1; RuntimeError: boom"


def test_a_command_that_cannot_start_fails_the_dataset_not_the_thread(house: House) -> None:
    def nothing(_upload: Path, _out: Path, _request: ImportRequest) -> list[str]:
        return ["/nowhere/to/be/found"]

    importer = DatasetImporter(house.settings, house.store, command=nothing)
    house.importers.append(importer)
    importer.start()
    for _ in range(2):
        dataset_id = house.upload(importer)
        importer.accept(dataset_id, REQUEST)
        error = house.ended(dataset_id).error
        assert error is not None
        assert "FileNotFoundError" in error


def test_a_full_queue_refuses_and_removes_the_upload(house: House) -> None:
    importer = house.importer(max_queued=1)
    kept = house.upload(importer)
    importer.accept(kept, REQUEST)
    with pytest.raises(UnavailableError, match="1 datasets wait"):
        importer.accept(house.upload(importer), ImportRequest("other", None, None))
    assert house.uploads() == [f"{kept}.json", f"{kept}.zip"]


@pytest.mark.parametrize("setting", ["max_datasets", "max_datasets_bytes"])
def test_a_quota_refuses_an_upload_and_is_free_once_an_import_was_cancelled(
    house: House, setting: str
) -> None:
    limit = 1 if setting == "max_datasets" else len(zip_bytes())
    house.settings = house.settings.model_copy(update={setting: limit})
    importer = house.importer()
    first = house.upload(importer)
    importer.accept(first, REQUEST)
    with pytest.raises(QuotaError, match=setting):
        importer.accept(house.upload(importer), REQUEST)
    assert house.uploads() == [f"{first}.json", f"{first}.zip"]
    importer.cancel(first)
    importer.accept(house.upload(importer), REQUEST)


def test_a_packed_dataset_counts_for_the_quota(house: House) -> None:
    house.settings = house.settings.model_copy(update={"max_datasets_bytes": 1000})
    importer = house.importer()
    house.store.create_dataset("ds_1", "letters", None)
    house.store.finish_dataset("ds_1", "ready", summary={})
    importer.dataset_path("ds_1").mkdir(parents=True)
    (importer.dataset_path("ds_1") / "images.npy").write_bytes(bytes(600))
    importer.check_quota(400)
    with pytest.raises(QuotaError, match="take 600 bytes and this one 401"):
        importer.check_quota(401)


def test_uploads_on_their_way_count_for_the_quota_until_they_have_ended(house: House) -> None:
    limits = {"max_datasets_bytes": 1000, "max_datasets": 2}
    house.settings = house.settings.model_copy(update=limits)
    importer = house.importer()
    importer.expect("ds_1", 600)
    with pytest.raises(QuotaError, match="take 600 bytes and this one 401"):
        importer.expect("ds_2", 401)
    importer.expect("ds_2", 0)  # its length was not said
    with pytest.raises(QuotaError, match="max_datasets"):
        importer.expect("ds_3", 0)
    importer.upload_path("ds_2").write_bytes(bytes(300))
    importer.unexpect("ds_1")
    with pytest.raises(QuotaError, match="take 300 bytes"):
        importer.expect("ds_3", 701)
    importer.expect("ds_3", 700)


def test_images_that_take_too_much_once_they_are_packed_are_removed(house: House) -> None:
    house.settings = house.settings.model_copy(update={"max_datasets_bytes": 5000})
    importer = house.importer()
    importer.start()
    dataset_id = house.upload(importer)
    importer.accept(dataset_id, ImportRequest("letters", 64, 3))
    failed = house.ended(dataset_id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert "max_datasets_bytes allows 5,000" in failed.error
    importer.close()
    assert list(house.settings.datasets_dir.iterdir()) == []


def test_a_dataset_that_is_deleted_as_its_import_is_cancelled_does_not_end_the_importer(
    house: House,
) -> None:
    started, end = house.settings.data_dir / "started", house.settings.data_dir / "end"
    os.mkfifo(started)
    os.mkfifo(end)
    wait = f"open({str(started)!r}, 'w').close(), open({str(end)!r}).read()"
    importer = house.importer(f"import os; os.path.exists({str(started)!r}) and ({wait})")
    importer.start()
    first, second = house.upload(importer), house.upload(importer)
    importer.accept(first, REQUEST)
    started.read_bytes()  # returns once the child has opened it
    house.store.finish_dataset(first, "failed", error=CANCELLED)
    importer.delete(first, lambda: None)
    started.unlink()  # the second one waits for nothing
    importer.accept(second, REQUEST)
    end.write_bytes(b"")
    assert house.ended(second).status == "failed"


def test_an_upload_whose_row_is_doubtful_is_imported_by_the_next_start(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    importer = house.importer()
    create = house.store.create_dataset

    def broken(*_arguments: object, **_named: object) -> bool:
        raise OperationalError("COMMIT", {}, Exception("disk I/O error"))

    def committed(*arguments: str) -> StoredDataset:
        create(*arguments)
        raise OperationalError("COMMIT", {}, Exception("disk I/O error"))

    dataset_id = house.upload(importer)
    with monkeypatch.context() as patch:
        patch.setattr(house.store, "create_dataset", committed)
        patch.setattr(house.store, "finish_dataset", broken)
        with pytest.raises(OperationalError):
            importer.accept(dataset_id, REQUEST)
    house.importer().start()
    assert house.ended(dataset_id).status == "ready"


def test_an_import_that_was_queued_goes_on_after_a_restart_as_it_was_asked(house: House) -> None:
    dead = house.importer()  # accepts, and dies before it starts
    dataset_id = house.upload(dead)
    dead.accept(dataset_id, ImportRequest("letters", 8, 1))
    house.importer().start()
    ready = house.ended(dataset_id)
    assert ready.status == "ready"
    assert ready.summary is not None
    assert ready.summary["resolution"] == 8


def test_closing_ends_the_child_and_leaves_its_import_to_the_next_start(house: House) -> None:
    started = f"open('{house.settings.data_dir}/fifo', 'w').close()"
    os.mkfifo(house.settings.data_dir / "fifo")
    first = house.importer(f"import sys; {started}; sys.stdin.read()")
    first.start()
    dataset_id = house.upload(first)
    first.accept(dataset_id, REQUEST)
    (house.settings.data_dir / "fifo").read_bytes()  # returns once the child has opened it
    first.close()
    assert house.store.get_dataset(dataset_id).status == "importing"
    house.importer().start()
    assert house.ended(dataset_id).status == "ready"


def test_a_child_that_ignores_the_polite_signal_is_killed(house: House) -> None:
    os.mkfifo(house.settings.data_dir / "fifo")
    deaf = "import signal, threading; signal.signal(15, signal.SIG_IGN)"
    started = f"open('{house.settings.data_dir}/fifo', 'w').close()"
    importer = house.importer(f"{deaf}; {started}; threading.Event().wait()", stop_grace_sec=0.1)
    importer.start()
    dataset_id = house.upload(importer)
    importer.accept(dataset_id, REQUEST)
    (house.settings.data_dir / "fifo").read_bytes()
    importer.close()
    assert house.store.get_dataset(dataset_id).status == "importing"


def test_a_cancelled_import_is_killed_and_leaves_nothing(house: House) -> None:
    os.mkfifo(house.settings.data_dir / "fifo")
    deaf = "import os, signal, sys, threading; signal.signal(15, signal.SIG_IGN)"
    staged = "out = sys.argv[2]; os.mkdir(os.path.join(*os.path.split(out)[:1], '.' + "
    staged += "os.path.basename(out) + '.1.ab.tmp'))"
    step = 'print(\'{"done": 3, "total": 9, "accepted": 2, "rejected": 1}\\n{"cut\', flush=True)'
    started = f"open('{house.settings.data_dir}/fifo', 'w').close()"
    script = f"{deaf}; {staged}; {step}; {started}; threading.Event().wait()"
    importer = house.importer(script)
    importer.start()
    dataset_id = house.upload(importer)
    importer.accept(dataset_id, REQUEST)
    (house.settings.data_dir / "fifo").read_bytes()
    assert importer.progress(dataset_id) == Step(3, 9, 2, 1)
    cancelled = importer.cancel(dataset_id)
    assert (cancelled.status, cancelled.error) == ("failed", CANCELLED)
    importer.close()
    assert importer.progress(dataset_id) is None
    assert house.uploads() == []
    assert list(house.settings.datasets_dir.iterdir()) == []
    with pytest.raises(ConflictError, match="is failed"):
        importer.cancel(dataset_id)


def test_a_queued_import_is_cancelled_and_frees_its_place(house: House) -> None:
    importer = house.importer(max_queued=1)
    for _ in range(2):
        dataset_id = house.upload(importer)
        importer.accept(dataset_id, REQUEST)
        importer.cancel(dataset_id)
    assert house.uploads() == []


def test_a_pack_that_was_published_as_it_was_cancelled_is_removed_at_the_start(
    house: House,
) -> None:
    dead = house.importer()
    dataset_id = house.upload(dead)
    dead.accept(dataset_id, REQUEST)
    dead.cancel(dataset_id)
    dead.dataset_path(dataset_id).mkdir(parents=True)
    house.importer().start()
    assert list(house.settings.datasets_dir.iterdir()) == []


def test_a_pack_that_was_finished_before_the_crash_is_taken_as_it_is(house: House) -> None:
    dead = house.importer()
    dataset_id = house.upload(dead)
    dead.accept(dataset_id, REQUEST)
    pack = dead.dataset_path(dataset_id)
    pack.mkdir(parents=True)
    (pack / "manifest.json").write_text(json.dumps({"resolution": 28}))
    house.importer("raise SystemExit('must not run')").start()
    assert house.ended(dataset_id).summary == {"resolution": 28}


def test_what_a_crash_left_behind_is_cleared_or_failed_at_the_start(house: House) -> None:
    house.store.create_dataset("ds_lost", "lost", "ds_lost.zip")
    (house.settings.uploads_dir / "ds_half.zip").write_bytes(b"half an upload")
    (house.settings.uploads_dir / ".ds_half.json.1.tmp").write_bytes(b"half a request")
    (house.settings.datasets_dir / ".ds_x.1.tmp" / "pack").mkdir(parents=True)
    house.importer().start()
    lost = house.store.get_dataset("ds_lost")
    assert lost.status == "failed"
    assert lost.error is not None
    assert "upload it again" in lost.error
    assert house.uploads() == []
    assert list(house.settings.datasets_dir.iterdir()) == []


def add_ready(house: House, importer: DatasetImporter, dataset_id: str) -> Path:
    house.store.create_dataset(dataset_id, "letters", None)
    house.store.finish_dataset(dataset_id, "ready", summary={})
    pack = importer.dataset_path(dataset_id)
    pack.mkdir(parents=True)
    (pack / "images.npy").write_bytes(b"x")
    return pack


def test_what_refuses_a_deletion_last_leaves_the_dataset_and_its_images(house: House) -> None:
    importer = house.importer()
    pack = add_ready(house, importer, "ds_1")

    def refuse() -> None:
        raise ConflictError("a version was registered just now")

    with pytest.raises(ConflictError, match="just now"):
        importer.delete("ds_1", refuse)
    assert house.store.get_dataset("ds_1").status == "ready"
    assert (pack / "images.npy").exists()


def test_a_deletion_that_was_killed_behind_its_row_is_ended_by_the_start(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = house.importer()
    add_ready(house, dead, "ds_1")
    other = add_ready(house, dead, "ds_2")
    with monkeypatch.context() as patch:
        patch.setattr(dead, "remove", lambda _dataset_id: None)
        dead.delete("ds_1", lambda: None)
    house.importer().start()
    assert list(house.settings.datasets_dir.iterdir()) == [other]


def test_a_deletion_that_failed_before_its_row_was_gone_did_not_happen(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    importer = house.importer()
    pack = add_ready(house, importer, "ds_1")

    def broken(_dataset_id: str, last: Callable[[], None]) -> None:
        last()
        raise OperationalError("COMMIT", {}, Exception("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr(house.store, "delete_dataset", broken)
        with pytest.raises(OperationalError):
            importer.delete("ds_1", lambda: None)
    house.importer().start()
    assert list(house.settings.datasets_dir.iterdir()) == [pack]
    assert (pack / "images.npy").exists()


def test_a_deleted_dataset_is_gone_at_once_with_its_images(house: House) -> None:
    importer = house.importer()
    add_ready(house, importer, "ds_1")
    importer.delete("ds_1", lambda: None)
    assert house.store.list_datasets() == []
    assert list(house.settings.datasets_dir.iterdir()) == []


def test_a_row_whose_commit_failed_only_at_its_end_does_not_stay_importing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    importer = house.importer()
    create = house.store.create_dataset

    def committed(*arguments: str) -> StoredDataset:
        create(*arguments)
        raise OperationalError("COMMIT", {}, Exception("disk I/O error"))

    monkeypatch.setattr(house.store, "create_dataset", committed)
    dataset_id = house.upload(importer)
    with pytest.raises(OperationalError):
        importer.accept(dataset_id, REQUEST)
    failed = house.store.get_dataset(dataset_id)
    assert (failed.status, failed.error) == ("failed", NOT_RECORDED)
    assert house.uploads() == []


def test_what_a_killed_command_put_there_goes_unless_its_row_is_in(house: House) -> None:
    folder = house.settings.datasets_dir
    for name in ("ds_killed", "ds_whole", "ds_other"):
        (folder / name).mkdir(parents=True)
        (folder / name / "manifest.json").write_text("{}")
    for name in ("ds_killed", "ds_whole"):
        (folder / name / ARRIVING).touch()
    house.store.add_dataset("ds_whole", "x", {}, lambda: None)
    house.importer().start()
    assert sorted(p.name for p in folder.iterdir()) == ["ds_other", "ds_whole"]
    assert not (folder / "ds_whole" / ARRIVING).exists()


def test_a_dataset_whose_pack_cannot_be_put_there_has_no_row(house: House) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        house.store.add_dataset("ds_1", "x", {}, full)
    assert house.store.list_datasets() == []
    assert house.store.add_dataset("ds_2", "x", {}, lambda: None).version == 1
    assert house.store.add_dataset("ds_3", "x", {}, lambda: None).version == 2


def test_a_removed_dataset_leaves_no_files(house: House) -> None:
    importer = house.importer()
    importer.dataset_path("ds_1").mkdir(parents=True)
    importer.remove("ds_1")
    importer.remove("ds_1")
    assert list(house.settings.datasets_dir.iterdir()) == []


def test_a_child_sees_none_of_our_settings(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOISEWELL_API_KEY", "secret")
    monkeypatch.setenv("OTHER", "kept")
    show = "import os, sys; print(*sorted(os.environ), file=sys.stderr)"
    with (tmp_path / "out").open("w+b") as output:
        with start_child([sys.executable, "-c", show], output) as child:
            assert child.wait(PATIENCE_SEC) == 0
        output.seek(0)
        names = output.read().decode().split()
    assert "OTHER" in names
    assert not [name for name in names if name.startswith("NOISEWELL_")]


def test_ids_sort_by_time() -> None:
    first = new_dataset_id()
    assert len(first) == len("ds_") + 16
    assert first[:15] <= new_dataset_id()[:15]
