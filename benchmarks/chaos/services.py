"""Owns what is done to a whole service: its disk fails, it is told to stop, another one comes."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.bench.child import Child, descendants, service
from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.clients import JOB, TIMEOUT_SEC, squares, upload
from benchmarks.chaos.injection import KILL, Tracer
from benchmarks.chaos.outcomes import Key, Outcome
from benchmarks.chaos.processes import kill
from benchmarks.chaos.random_kills import everything_ended, opened, until
from benchmarks.chaos.soundness import unsound

# Of files only: a socket is written to by other calls.
WRITING = "pwrite64,fsync,fdatasync,ftruncate,fallocate,rename,mkdir"
DISK = "a disk that fails"
JOB_SEC, SAMPLES = 240.0, 20
SIGTERM, SECOND = "SIGTERM", "a second server"
UPLOAD, MORE = "an upload", "more"


class Trial:
    """A running service, a dataset in it, and what was found wrong so far."""

    def __init__(self, data: Path, child: Child) -> None:
        self.data = data
        self.child = child
        self.wrong: list[str] = []
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{child.target.port}", timeout=TIMEOUT_SEC
        )

    def expect(self, what: str, true: bool) -> None:
        if not true:
            self.wrong.append(f"not so: {what}")

    def submit(self, key: str, **more: Any) -> httpx.Response:
        headers = {"Idempotency-Key": key}
        return self.client.post("/v1/training/jobs", json={**JOB, **more}, headers=headers)

    def job(self, job_id: str) -> dict[str, Any]:
        return self.client.get(f"/v1/training/jobs/{job_id}").json()

    def send(self, name: str) -> httpx.Response:
        """Upload a dataset."""
        files = {"file": ("squares.zip", squares())}
        return self.client.post("/v1/datasets", data={"name": name}, files=files)

    def dataset_ends(self, accepted: httpx.Response) -> dict[str, Any]:
        """What became of one that was accepted."""
        path = accepted.headers.get("location", "/v1/datasets/refused")
        until(lambda: self.client.get(path).json().get("status") != "importing", TIMEOUT_SEC)
        return self.client.get(path).json()

    def dataset_gets_ready(self, accepted: httpx.Response) -> None:
        dataset = self.dataset_ends(accepted)
        self.expect(f"the dataset gets ready, but {dataset}", dataset.get("status") == "ready")

    def samples(self) -> set[int]:
        """The statuses of a few images of the generator in the box."""
        answers = [self.client.get(f"/v1/models/mnist/images/{i}.png") for i in range(SAMPLES)]
        return {answer.status_code for answer in answers}

    def ends_well(self, job_id: str) -> None:
        until(lambda: self.job(job_id)["status"] not in ("queued", "running"), JOB_SEC)
        job = self.job(job_id)
        self.expect(f"the job ends well, but {job['status']}: {job['error']}", _succeeded(job))


def _succeeded(job: dict[str, Any]) -> bool:
    return job["status"] == "succeeded"


@contextmanager
def trial() -> Iterator[Trial]:
    with tempfile.TemporaryDirectory(prefix="noisewell-chaos-") as scratch:
        data = Path(scratch) / "data"
        with everything_ended(data), service(data) as child:
            trial = Trial(data, child)
            upload(str(trial.client.base_url))
            yield trial
            trial.client.close()
            child.stop()
            trial.wrong += unsound(data)


def disk_fails(code: str) -> Outcome:
    """Every write of the server to a file fails for a while: what it stores, not what it makes."""
    with trial() as now:
        with Tracer(now.child.pid, ["-e", f"inject={WRITING}:error={code}"], now.data / "trace"):
            refused = now.submit("job", seed=1)
            now.expect(
                f"a job is refused with 5xx, got {refused.status_code}: {refused.text}",
                refused.status_code >= 500,
            )
            now.expect("the refusal is a problem that names itself", "title" in refused.text)
            now.expect("images are made", now.samples() == {200})
            alive = now.client.get("/health/live").status_code
            now.expect(f"it is alive, got {alive}", alive == 200)
        began = time.monotonic()
        accepted = now.submit("job", seed=1)
        seconds = time.monotonic() - began
        now.expect(f"the job is accepted then, got {accepted.text}", accepted.status_code == 202)
        if accepted.status_code == 202:
            now.ends_well(accepted.json()["id"])
        jobs = now.client.get("/v1/training/jobs").json()["data"]
        twice = max(len(jobs) - 1, 0)
    lost = int(refused.status_code == 202 and not jobs)
    return Outcome(
        DISK, "a service", code, lost=lost, twice=twice, recovery_sec=seconds, wrong=now.wrong
    )


def told_to_stop() -> Outcome:
    """SIGTERM while a job trains: saved, given back unharmed, and gone on with."""
    with trial() as now:
        job_id = now.submit("job", seed=1, kimg=6).json()["id"]
        until(lambda: (now.job(job_id)["progress"] or {}).get("cur_nimg", 0) > 0, JOB_SEC)
        now.child.stop()
        states = list((now.data / "runs" / job_id).glob("state.json"))
        now.expect("the trainer saved its state", len(states) == 1)
        now.wrong += unsound(now.data)
        began = time.monotonic()
        with now.child:
            seconds = time.monotonic() - began
            now.ends_well(job_id)
            log = now.client.get(f"/v1/training/jobs/{job_id}/log").text
            now.expect("the trainer resumed", "resuming" in log)
            with opened(now.data) as store:
                job = store.get_job(job_id)
            now.expect(f"it is at attempt 2, not {job.attempt}", job.attempt == 2)
            now.expect(f"no crash is counted, not {job.crashes}", job.crashes == 0)
    return Outcome(
        SIGTERM, "a service", "while a job trains", recovery_sec=seconds, wrong=now.wrong
    )


def second_server() -> Outcome:
    """Another one on the same data folder: it says who is there and ends; the first goes on."""
    with trial() as now:
        command = [sys.executable, "-m", "app.cli", "serve", "--port", "0"]
        second = subprocess.run(
            [*command, "--data-dir", str(now.data)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SEC,
        )
        told = second.stderr.strip()
        now.expect(f"the second one is refused, but {second.returncode}", second.returncode == 2)
        now.expect(f"it names who is there: {told}", str(now.child.pid) in told)
        now.expect("in one line", len(told.splitlines()) == 1)
        now.expect("images are made by the first", now.samples() == {200})
    return Outcome(SECOND, "a service", "on one data folder", wrong=now.wrong)


# Datasets


def importing(now: Trial) -> list[int]:
    """The processes of the service that import."""
    found: list[int] = []
    for pid in descendants(now.child.pid):
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        found += [pid] if b"training.data" in arguments else []
    return found


def half_way(now: Trial) -> bool:
    """Whether something is being imported, and part of it is on the disk."""
    return bool(importing(now)) and any((now.data / "datasets").glob(".*/pack/images.npy"))


def nothing_left(now: Trial) -> None:
    """Of uploads nothing lies about, and of datasets only those that are ready, hidden or not."""
    listed = now.client.get("/v1/datasets").json()["data"]
    ready = {dataset["id"] for dataset in listed if dataset["status"] == "ready"}
    packs = {path.name for path in (now.data / "datasets").iterdir()}
    uploads = [path.name for path in (now.data / "uploads").iterdir()]
    now.expect(f"all packs are ready datasets, {packs} of {ready}", packs == ready)
    now.expect(f"no upload is left, {uploads}", not uploads)


def disk_fails_for_an_upload(code: str) -> Outcome:
    """A dataset is refused while nothing can be written, and taken afterwards."""
    with trial() as now:
        with Tracer(now.child.pid, ["-e", f"inject={WRITING}:error={code}"], now.data / "trace"):
            refused = now.send(MORE)
            now.expect(
                f"it is refused with 5xx, got {refused.status_code}: {refused.text}",
                refused.status_code >= 500,
            )
            now.expect("the refusal is a problem that names itself", "title" in refused.text)
            now.expect("images are made", now.samples() == {200})
        nothing_left(now)
        began = time.monotonic()
        now.dataset_gets_ready(now.send(MORE))
        seconds = time.monotonic() - began
        nothing_left(now)
    return Outcome(DISK, UPLOAD, code, recovery_sec=seconds, wrong=now.wrong)


def import_is_killed() -> Outcome:
    """The process that imports dies: the dataset has failed, and its name is free again."""
    with trial() as now:
        accepted = now.send(MORE)
        now.expect("an import is seen", until(lambda: half_way(now), TIMEOUT_SEC))
        for pid in importing(now):
            kill(pid)
        failed = now.dataset_ends(accepted)
        now.expect(f"it has failed, but {failed}", failed["status"] == "failed")
        now.expect(f"it says that it was killed: {failed['error']}", "kill" in str(failed["error"]))
        nothing_left(now)
        began = time.monotonic()
        now.dataset_gets_ready(now.send(MORE))
        seconds = time.monotonic() - began
    return Outcome(KILL, UPLOAD, "its import", recovery_sec=seconds, wrong=now.wrong)


def service_is_killed_while_importing() -> Outcome:
    """What was accepted is imported by the next one, once."""
    with trial() as now:
        accepted = now.send(MORE)
        now.expect("an import is seen", until(lambda: half_way(now), TIMEOUT_SEC))
        importers = importing(now)
        kill(now.child.pid)
        gone = until(lambda: not any(Path(f"/proc/{i}").exists() for i in importers), TIMEOUT_SEC)
        now.expect("its import has ended with it", gone)
        began = time.monotonic()
        with now.child:
            now.dataset_gets_ready(accepted)
            seconds = time.monotonic() - began
            nothing_left(now)
    return Outcome(KILL, UPLOAD, "the service", recovery_sec=seconds, wrong=now.wrong)


def try_services(campaign: Campaign) -> None:
    """Each once, in a sample too: they take a minute each."""
    trials: dict[Key, Callable[[], Outcome]] = {
        (DISK, "a service", "ENOSPC"): lambda: disk_fails("ENOSPC"),
        (DISK, "a service", "EIO"): lambda: disk_fails("EIO"),
        (SIGTERM, "a service", "while a job trains"): told_to_stop,
        (SECOND, "a service", "on one data folder"): second_server,
        (DISK, UPLOAD, "ENOSPC"): lambda: disk_fails_for_an_upload("ENOSPC"),
        (DISK, UPLOAD, "EIO"): lambda: disk_fails_for_an_upload("EIO"),
        (KILL, UPLOAD, "its import"): import_is_killed,
        (KILL, UPLOAD, "the service"): service_is_killed_while_importing,
    }
    with campaign.part("whole services", len(trials)) as part:
        for key, do in trials.items():
            part.case(key, do)
