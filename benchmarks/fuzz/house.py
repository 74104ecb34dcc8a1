"""Owns the service that is fuzzed: a real process with a key, a folder of its own, small limits.

Its folder, its working directory, its home and its temporary files all lie in one scratch folder,
so that a file which appears or is read where it should not be is seen.
"""

import json
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.bench.child import Child, service
from app.bench.load import fetch, run
from app.bench.wire import Target
from benchmarks.fuzz.orders import DATASET, KEY, Order, Part, dots

READY_SEC = 60.0
JOBS, DATASETS = "/v1/training/jobs", "/v1/datasets"
ROOT = Path(__file__).parents[2]
# Nothing trains, little is drawn, and what a mutation makes is soon as much as may be.
SETTINGS = {
    "NOISEWELL_API_KEY": KEY,
    "NOISEWELL_START_WORKER": "false",
    "NOISEWELL_SERVING_THREADS": "1",
    "NOISEWELL_MAX_QUEUED_JOBS": "20",
    "NOISEWELL_MAX_DATASETS": "10",
    "NOISEWELL_MAX_IMAGES_PER_REQUEST": "8",
    "NOISEWELL_MAX_IMAGES_PER_STREAM": "16",
    "NOISEWELL_MAX_UPLOAD_BYTES": "200000",
    "NOISEWELL_MAX_DATASET_FILES": "50",
    "NOISEWELL_IMAGE_CACHE_BYTES": "1000000",
    "NOISEWELL_MAX_STARTUP_BYTES": "20000000",
}


@dataclass(frozen=True)
class House:
    """A running service. folder: the scratch folder around it all."""

    child: Child
    folder: Path
    log: Path

    @property
    def target(self) -> Target:
        return Target("127.0.0.1", self.child.target.port, KEY)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def furnish(self) -> dict[str, str]:
        """What has to be there: a dataset, and two jobs, one of which was cancelled.

        Whatever else waits goes. Returns what stands for each parameter of a path.
        """
        self._fill()
        for job in self.ask(Order("GET", JOBS, query={"status": "queued", "limit": "100"}))["data"]:
            self.ask(Order("POST", f"{JOBS}/{job['id']}/cancel"))
        job = Order("POST", JOBS, json={"model": "mnist", "dataset": DATASET, "kimg": 1})
        made = [self.ask(job)["id"] for _ in range(2)]
        self.ask(Order("POST", f"{JOBS}/{made[1]}/cancel"))
        return {
            "model": "mnist",
            "version": "1",
            "seed": "7",
            "job_id": made[0],
            "cur_nimg": "1000",
            "dataset_id": DATASET,
        }

    def ask(self, order: Order) -> Any:
        """Its answer's JSON. Raises RuntimeError for one that is not 2xx."""
        answer = run(fetch(self.target, order.bytes(self.target.port)))
        if not answer.ok:
            raise RuntimeError(f"{order.name} answered {answer.status}: {answer.body[:300]!r}")
        return json.loads(answer.body)

    def _fill(self) -> None:
        """With the dataset, unless it is there; others go, so that there is room."""
        known = self.ask(Order("GET", DATASETS))["data"]
        if any(d["name"] == DATASET and d["status"] == "ready" for d in known):
            return
        for dataset in known:
            path = f"{DATASETS}/{dataset['id']}"
            for order in (Order("POST", f"{path}/cancel"), Order("DELETE", path)):
                run(fetch(self.target, order.bytes(self.target.port)))
        parts = Part("name", DATASET.encode()), Part("file", dots(), "dots.zip")
        path = f"{DATASETS}/{self.ask(Order('POST', DATASETS, parts=parts))['id']}"
        end = time.monotonic() + READY_SEC
        while self.ask(Order("GET", path))["status"] != "ready":
            if time.monotonic() > end:
                raise TimeoutError(f"the dataset is not ready after {READY_SEC:.0f} s")
            time.sleep(0.1)


@contextmanager
def open_house(folder: Path, settings: Mapping[str, str] | None = None) -> Generator[House]:
    """A service in `folder`, which is empty; `settings` win over SETTINGS."""
    for name in ("data", "home", "tmp", "cwd", "shelf"):
        (folder / name).mkdir(parents=True)
    environment = {
        **os.environ,
        **SETTINGS,
        "NOISEWELL_DATASET_ROOTS": f"shelf={folder / 'shelf'}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        **(settings or {}),
    }
    log = folder / "serve.log"
    with service(folder / "data", environment, log, cwd=folder / "cwd") as child:
        yield House(child, folder, log)
