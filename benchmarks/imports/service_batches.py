"""Owns batches of bad files that are sent to a real service, which has to live through them all."""

import io
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.bench.child import Child, service
from benchmarks.imports.batches import (
    Files,
    Importer,
    Tally,
    Verdict,
    read_verdicts,
    with_good,
    without_one_verdict,
)
from benchmarks.imports.watching import Eye

ASK_SEC = 0.2
TIMEOUT_SEC = 30.0
RESOLUTION = "32"
SAMPLE = "/v1/models/mnist/images/1.png"


@contextmanager
def by_service() -> Iterator[Importer]:
    """A service of its own, on a free port of this machine, until `with` ends."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "data") as (child, client):
        yield Sender(child, client, Path(folder) / "data" / "datasets").send


@contextmanager
def serving(data: Path) -> Iterator[tuple[Child, httpx.Client]]:
    """A service on this data folder, and who asks it."""
    with service(data) as child:
        url = f"http://127.0.0.1:{child.target.port}"
        with httpx.Client(base_url=url, timeout=TIMEOUT_SEC) as client:
            yield child, client


class Sender:
    """Uploads batch after batch to one service."""

    def __init__(self, child: Child, client: httpx.Client, datasets: Path) -> None:
        self._child, self._client, self._datasets = child, client, datasets
        self._pid = child.pid

    def send(self, files: Files, tally: Tally) -> dict[str, Verdict]:
        """The verdicts by file. As many good images go with them: half of a dataset may be bad."""
        everything, began = with_good(files, len(files) + 1), time.monotonic()
        with Eye(self._pid, began) as eye:
            dataset = self._imported(zipped(everything), tally)
        tally.look_at(eye)
        found: list[Verdict] = []
        if dataset["status"] == "ready":
            found = read_verdicts(self._datasets / dataset["id"])
            tally.wrong += without_one_verdict(everything, found)
        else:
            tally.wrong.append(f"an import {dataset['status']}: {dataset['error']}")
        tally.add(found, time.monotonic() - began)
        self._client.delete(f"/v1/datasets/{dataset['id']}")
        return {verdict.file: verdict for verdict in found}

    def _imported(self, archive: bytes, tally: Tally) -> dict[str, str]:
        fields = {"name": "bad", "resolution": RESOLUTION, "channels": "3"}
        answer = self._client.post("/v1/datasets", data=fields, files={"file": ("x.zip", archive)})
        answer.raise_for_status()
        while (dataset := self._look(answer.headers["location"], tally))["status"] == "importing":
            time.sleep(ASK_SEC)
        return dataset

    def _look(self, path: str, tally: Tally) -> dict[str, str]:
        """How far the import is; and the service has to make images meanwhile."""
        sample = self._client.get(SAMPLE).status_code
        if sample != 200:
            tally.deaths += 1
            tally.wrong.append(f"an image was answered with {sample} during the import")
        return self._client.get(path).json()


def zipped(files: Files) -> bytes:
    """Stored, not packed: a bomb is not to be refused for its ratio."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()
