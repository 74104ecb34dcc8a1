import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from app.settings import Settings
from app.slots import slots
from app.store.jobs import Job, NewJob
from app.store.store import Store
from app.worker import Worker, default_trainer_command
from training.data.importing import import_dataset
from training.data.options import ImportOptions
from training.model.files import locked
from training.model.registry import FILES, Registry
from training.model.threads import half_the_cores

PATIENCE_SEC = 30.0
ROOT = Path(__file__).parents[2]

# What every fake trainer does as the real one does: one at a time, ends with its standard input.
PRELUDE = """
import fcntl, json, os, signal, subprocess, sys, threading
from pathlib import Path

run_dir = Path(sys.argv[1])

def write(name, value):
    tmp = run_dir / (name + ".new")
    tmp.write_text(json.dumps(value))
    tmp.replace(run_dir / name)

def follow_stdin():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)

def forever():
    threading.Event().wait()

signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
threading.Thread(target=follow_stdin, daemon=True).start()
lock = open(run_dir / "lock", "ab")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(73)
with open(run_dir / "starts.txt", "a") as f:
    f.write(f"{os.getpid()}\\n")
first = len((run_dir / "starts.txt").read_text().split()) == 1
"""

TRAIN_FOREVER = """
write("progress.json", {"phase": "training", "cur_nimg": 64})
forever()
"""


def succeed(decision: dict, champion: int | None, version: int = 2) -> str:
    result = {"model": "mnist", "version": version, "decision": decision, "champion": champion}
    return f'write("result.json", {result!r})'


class House:
    """A data folder with one ready dataset, and workers whose trainer is a few lines of Python."""

    def __init__(self, tmp_path: Path, **settings: object) -> None:
        self.settings = Settings.model_validate({"data_dir": tmp_path / "data", **settings})
        self.script = tmp_path / "trainer.py"
        self.registry = Registry(self.settings.models_dir)
        self.now: Callable[[], float] = time.time
        self.store = Store.open(self.settings.database_path, clock=lambda: self.now())
        self.store.create_dataset("ds_1", "digits", None)
        self.store.finish_dataset("ds_1", "ready", summary={})

    def trainer(self, body: str) -> None:
        self.script.write_text(PRELUDE + body)

    def command(self, job: Job, run_dir: Path) -> list[str]:
        return [sys.executable, str(self.script), str(run_dir)]

    def queue(self, **changes: object) -> Job:
        asked = {"minutes": 1.0, "kimg": None, "until": None, "overrides": {}, "seed": 0}
        new = {"model": "mnist", "dataset_id": "ds_1", "dataset_name": "digits", "preset": "tiny"}
        values = {**new, **asked, "promote": "if_better", **changes}
        return self.store.create_job(NewJob(**values), max_queued=10)

    def register(self, count: int) -> None:
        for version in range(1, count + 1):
            self.registry.register("mnist", dict.fromkeys(FILES, b"{}"), {}, f"run{version}")

    @contextmanager
    def working(self, stop_grace_sec: float = PATIENCE_SEC) -> Iterator[Worker]:
        worker = Worker(
            self.settings,
            self.store,
            self.registry,
            trainer_command=self.command,
            stop_grace_sec=stop_grace_sec,
        )
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            yield worker
        finally:
            worker.stop()
            thread.join(PATIENCE_SEC)
            assert not thread.is_alive()

    def wait(self, job: Job, reached: Callable[[Job], bool]) -> Job:
        """Until the job is as `reached` wants it; looks whenever this process wrote something."""
        changed = threading.Event()
        forget = self.store.changes.subscribe(changed.set, limit=100)
        deadline = time.monotonic() + PATIENCE_SEC
        try:
            while not reached(now := self.store.get_job(job.id)):
                assert changed.wait(deadline - time.monotonic()), now
                changed.clear()
        finally:
            forget()
        return now

    def run_dir(self, job: Job) -> Path:
        return self.settings.runs_dir / job.run

    def pids(self, job: Job) -> list[int]:
        return [int(pid) for pid in (self.run_dir(job) / "starts.txt").read_text().split()]

    def events(self, job: Job) -> list[str]:
        return [event.type for event in self.store.events(job.id)]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path, poll_sec=0.05)
    yield house
    house.store.close()


def ended(job: Job) -> bool:
    return job.ended


def training(job: Job) -> bool:
    return job.progress is not None and job.progress["phase"] == "training"


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_trainer_is_told_all_a_job_asks_for(house: House) -> None:
    job = house.queue(
        minutes=None, kimg=2.5, until={"fd": 3.5}, overrides={"lr": 1e-4, "bf16": True, "gan": "rp"}
    )
    command = default_trainer_command(house.settings, *slots(house.settings))(job, Path("runs/x"))
    data_dir = str(house.settings.data_dir)
    assert command == (
        f"{sys.executable} -m training.train --data {data_dir}/datasets/ds_1 --run-dir runs/x"
        f" --preset tiny --kimg 2.5 --seed 0 --model mnist --data-dir {data_dir}"
        f" --promote if_better --job {job.id} --device auto"
        f" --threads {half_the_cores()} --give-way {data_dir}/pressure --until fd=3.5"
        " --set lr=0.0001 --set bf16=true --set gan=rp --exit-with-stdin"
    ).split(" ")


def test_the_trainer_is_told_the_rules_of_promotion(tmp_path: Path) -> None:
    house = House(tmp_path, promotion_rules="fd_errors=2, class_kept=.5")
    command = default_trainer_command(house.settings, *slots(house.settings))(
        house.queue(), Path("runs/x")
    )
    assert command[-5:] == ["--rule", "fd_errors=2", "--rule", "class_kept=.5", "--exit-with-stdin"]
    house.store.close()


def test_a_job_runs_to_its_result(house: House) -> None:
    house.trainer(succeed({"promote": False, "reason": "worse"}, champion=1))
    job = house.queue()
    with house.working():
        done = house.wait(job, ended)
    assert (done.status, done.error) == ("succeeded", None)
    assert done.result is not None
    assert done.result["decision"] == {"promote": False, "reason": "worse"}
    assert house.events(job) == ["queued", "started", "succeeded"]


def test_the_job_of_a_worker_that_died_goes_on_before_its_lease_ends(house: House) -> None:
    house.trainer(succeed({"promote": False, "reason": "worse"}, champion=1))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    job = house.queue()
    house.store.claim_job(f"{socket.gethostname()}:{dead.pid}:0badf00d", lease_sec=3600)
    with house.working():
        done = house.wait(job, ended)
    assert (done.status, done.attempt, done.crashes) == ("succeeded", 2, 1)


@pytest.mark.parametrize("where", ["elsewhere:1:0badf00d", f"{socket.gethostname()}:1:0badf00d"])
def test_the_job_of_a_worker_that_may_be_alive_is_left_to_it(house: House, where: str) -> None:
    house.trainer(succeed({"promote": False, "reason": "worse"}, champion=1))
    held, waiting = house.queue(), house.queue()
    house.store.claim_job(where, lease_sec=3600)
    with house.working():
        house.wait(waiting, ended)
    assert house.store.get_job(held.id).worker == where


def test_jobs_run_one_after_another_when_woken(tmp_path: Path) -> None:
    house = House(tmp_path, poll_sec=3600)
    house.trainer(succeed({"promote": False, "reason": "worse"}, champion=1))
    with house.working() as worker:
        for job in (house.queue(), house.queue()):
            worker.wake()
            house.wait(job, ended)
    house.store.close()


def test_the_trainer_sees_none_of_our_settings(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOISEWELL_API_KEY", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    house.trainer('print(sorted(os.environ)); sys.exit("seen")')
    job = house.queue()
    with house.working():
        house.wait(job, ended)
    seen = (house.run_dir(job) / "log.txt").read_text()
    assert "CUDA_VISIBLE_DEVICES" in seen
    assert "NOISEWELL" not in seen


def test_progress_is_seen_while_it_trains(house: House) -> None:
    house.trainer(TRAIN_FOREVER)
    job = house.queue()
    with house.working():
        now = house.wait(job, training)
        assert now.status == "running"
        assert now.progress == {"phase": "training", "cur_nimg": 64}


def test_a_broken_progress_file_is_passed_over(house: House) -> None:
    decision = succeed({"promote": False, "reason": "worse"}, champion=1)
    house.trainer('(run_dir / "progress.json").write_text(\'{"phase": NaN\')\n' + decision)
    job = house.queue()
    with house.working():
        done = house.wait(job, ended)
    assert (done.status, done.progress) == ("succeeded", None)


EVENTS = """
def tell(*events):
    with open(run_dir / "events.jsonl", "a") as f:
        f.write("".join(json.dumps({"event": e, "cur_nimg": i}) + chr(10) for i, e in events))

tell((0, "warning"), (1, "samples"))
if first:
    open(run_dir / "events.jsonl", "a").write('{"event": "to')
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_trainer_tells_is_told_once_each_whoever_dies(house: House) -> None:
    mend = (
        'if not first:\n    whole = (run_dir / "events.jsonl").read_bytes().rfind(b"\\n") + 1\n'
        '    os.truncate(run_dir / "events.jsonl", whole)\n'
    )
    house.trainer(mend + EVENTS + succeed({"promote": False, "reason": "worse"}, champion=1))
    job = house.queue()
    with house.working():
        done = house.wait(job, ended)
    told = [
        (e.type, e.data) for e in house.store.events(job.id) if e.type in ("warning", "samples")
    ]
    assert told == [("warning", {"cur_nimg": 0}), ("samples", {"cur_nimg": 1})] * 2
    assert done.events_told == 4


def test_as_many_jobs_run_at_once_as_may(tmp_path: Path) -> None:
    house = House(tmp_path, poll_sec=0.05, jobs_per_device=2)
    house.trainer(TRAIN_FOREVER)
    jobs = [house.queue() for _ in range(3)]
    with house.working() as worker:
        for job in jobs[:2]:
            house.wait(job, training)
        assert house.store.get_job(jobs[2].id).status == "queued"
        house.store.request_cancel(jobs[0].id)
        worker.wake()
        house.wait(jobs[2], training)
        assert house.store.get_job(jobs[1].id).attempt == 1
    assert [house.store.get_job(job.id).status for job in jobs[1:]] == ["queued", "queued"]
    house.store.close()


def test_a_job_that_cannot_start_harms_no_other(tmp_path: Path) -> None:
    house = House(tmp_path, poll_sec=0.05, jobs_per_device=2)
    house.trainer(TRAIN_FOREVER)
    other, broken = house.queue(), house.queue()
    command = house.command
    house.command = lambda job, run_dir: (  # type: ignore[method-assign]
        ["/nowhere/python"] if job.id == broken.id else command(job, run_dir)
    )
    with house.working():
        assert house.wait(broken, ended).status == "failed"
        assert house.wait(other, training).attempt == 1
    house.store.close()


def test_two_jobs_of_one_model_at_once_leave_one_champion(tmp_path: Path) -> None:
    house = House(tmp_path, poll_sec=0.05, jobs_per_device=2)
    house.register(5)
    house.trainer(
        "version = json.loads((run_dir / 'version').read_text())\n"
        'result = {"model": "mnist", "version": version, "champion": 1}\n'
        'decision = {"promote": True, "reason": "better"}\n'
        'write("result.json", {**result, "decision": decision})'
    )
    jobs = [house.queue() for _ in range(4)]
    for version, job in enumerate(jobs, 2):
        house.run_dir(job).mkdir(parents=True)
        (house.run_dir(job) / "version").write_text(str(version))
    with house.working():
        results = [house.wait(job, ended).result for job in jobs]
    promoted = [r["version"] for r in results if r and r["decision"]["promote"]]
    assert promoted == [house.registry.champion("mnist")]
    house.store.close()


def test_a_trainer_runs_at_a_lower_priority(house: House) -> None:
    house.trainer('write("progress.json", {"phase": "training", "nice": os.nice(0)})\nforever()')
    job = house.queue()
    with house.working():
        now = house.wait(job, training)
    assert now.progress is not None
    assert now.progress["nice"] == max(house.settings.training_niceness, os.nice(0))


# Ends


def test_a_killed_trainer_is_started_again_in_the_same_folder(house: House) -> None:
    house.trainer(
        "if first: os.kill(os.getpid(), signal.SIGKILL)\n"
        + succeed({"promote": False, "reason": "worse"}, champion=1)
    )
    job = house.queue()
    with house.working():
        done = house.wait(job, ended)
    assert (done.status, done.attempt, done.crashes) == ("succeeded", 2, 1)
    assert house.store.events(job.id)[2].data["reason"] == "The trainer was killed by SIGKILL."
    assert len(house.pids(job)) == 2


def test_three_crashes_fail_a_job_with_the_end_of_its_log(house: House) -> None:
    house.trainer('print("x" * 9000 + "\\nZeroDivisionError: why"); sys.exit(1)')
    job = house.queue()
    with house.working():
        done = house.wait(job, ended)
    assert (done.status, done.attempt) == ("failed", 3)
    assert done.error == (
        "The job was given up after 3 crashes; the last one:"
        " The trainer ended with exit code 1. ZeroDivisionError: why"
    )


def test_a_result_that_cannot_be_read_is_a_crash(house: House) -> None:
    house.trainer('(run_dir / "result.json").write_text("{")')
    job = house.queue()
    with house.working():
        done = house.wait(job, ended)
    assert done.status == "failed"
    assert "without a readable result.json" in (done.error or "")


def test_a_trainer_that_cannot_start_fails_the_job(house: House) -> None:
    job = house.queue()
    house.command = lambda _job, _run_dir: ["/nowhere/python"]  # type: ignore[method-assign]
    with house.working():
        done = house.wait(job, ended)
    assert done.status == "failed"
    assert "FileNotFoundError" in (done.error or "")


def test_bad_input_fails_at_once_with_the_trainers_sentence(house: House) -> None:
    house.trainer(
        "print(\"Error: Preset 'x' is unknown; use tiny.\", file=sys.stderr); sys.exit(2)"
    )
    job = house.queue()
    with house.working():
        done = house.wait(job, ended)
    assert (done.status, done.attempt) == ("failed", 1)
    assert done.error == "Preset 'x' is unknown; use tiny."


def test_a_trainer_told_to_stop_by_somebody_else_goes_on(house: House) -> None:
    house.trainer(
        "if first: sys.exit(75)\n" + succeed({"promote": False, "reason": "worse"}, champion=1)
    )
    job = house.queue()
    with house.working():
        done = house.wait(job, ended)
    assert (done.status, done.attempt, done.crashes) == ("succeeded", 2, 0)


# Cancelling and stopping


def test_a_cancelled_trainer_saves_and_ends(house: House) -> None:
    house.trainer(TRAIN_FOREVER)
    job = house.queue()
    with house.working() as worker:
        house.wait(job, training)
        house.store.request_cancel(job.id)
        worker.wake()
        done = house.wait(job, ended)
    assert done.status == "cancelled"
    assert not is_alive(house.pids(job)[0])
    assert (house.run_dir(job) / "log.txt").exists()


def test_a_deaf_trainer_is_killed_with_all_it_started(house: House) -> None:
    house.trainer(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        'child = subprocess.Popen(["sleep", "600"])\n'
        'write("progress.json", {"phase": "training", "child": child.pid})\n'
        "forever()"
    )
    job = house.queue()
    with house.working(stop_grace_sec=0.2) as worker:
        now = house.wait(job, training)
        group = os.getpgid(house.pids(job)[0])
        assert now.progress is not None
        assert os.getpgid(now.progress["child"]) == group != os.getpgid(0)
        house.store.request_cancel(job.id)
        worker.wake()
        assert house.wait(job, ended).status == "cancelled"
    assert not is_alive(house.pids(job)[0])
    # The grandchild, dead, may wait for whoever adopted it to reap it.
    assert _state(now.progress["child"]) in {"gone", "Z"}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


def test_a_paused_trainer_saves_and_goes_on_when_resumed(house: House) -> None:
    house.trainer(
        f"if first:\n    {TRAIN_FOREVER.strip().replace(chr(10), chr(10) + '    ')}\n"
        + succeed({"promote": False, "reason": "worse"}, champion=1)
    )
    job = house.queue()
    with house.working() as worker:
        house.wait(job, training)
        house.store.request_pause(job.id)
        worker.wake()
        paused = house.wait(job, lambda now: now.status == "paused")
        assert not is_alive(house.pids(job)[0])
        house.store.request_resume(job.id)
        worker.wake()
        done = house.wait(job, ended)
    assert (paused.crashes, paused.worker) == (0, None)
    assert (done.status, done.attempt, done.crashes) == ("succeeded", 2, 0)


def test_a_cancel_wins_over_a_pause(house: House) -> None:
    house.trainer(TRAIN_FOREVER)
    job = house.queue()
    with house.working() as worker:
        house.wait(job, training)
        house.store.request_pause(job.id)
        house.store.request_cancel(job.id)
        worker.wake()
        assert house.wait(job, ended).status == "cancelled"


def test_a_full_disk_pauses_a_job_and_says_why(house: House) -> None:
    house.trainer(
        "if first:\n"
        '    print("Error: [Errno 28] No space left on device", file=sys.stderr); sys.exit(74)\n'
        + succeed({"promote": False, "reason": "worse"}, champion=1)
    )
    job = house.queue()
    with house.working() as worker:
        house.wait(job, lambda now: now.status == "paused")
        told = house.store.events(job.id)[-1]
        assert told.type == "paused"
        assert told.data["reason"] == (
            "[Errno 28] No space left on device; make room on the disk and resume the job"
        )
        house.store.request_resume(job.id)
        worker.wake()
        assert house.wait(job, ended).status == "succeeded"


def test_a_stopped_worker_gives_its_job_back_unharmed(house: House) -> None:
    house.trainer(TRAIN_FOREVER)
    job = house.queue()
    with house.working():
        house.wait(job, training)
    now = house.store.get_job(job.id)
    assert (now.status, now.crashes, now.worker) == ("queued", 0, None)
    assert not is_alive(house.pids(job)[0])


def test_a_second_worker_waits_for_the_first_to_end(house: House) -> None:
    house.trainer(TRAIN_FOREVER)
    job = house.queue()
    with house.working() as first:
        house.wait(job, training)
        with house.working():
            house.trainer(succeed({"promote": False, "reason": "worse"}, champion=1))
            first.stop()
            assert house.wait(job, ended).status == "succeeded"
    assert house.store.get_job(job.id).crashes == 0


def test_no_trainer_starts_while_an_orphan_holds_the_run_folder(tmp_path: Path) -> None:
    house = House(tmp_path, poll_sec=0.05, lease_sec=0.3)
    house.trainer(succeed({"promote": False, "reason": "worse"}, champion=1))
    job = house.queue()
    leases: set[float | None] = set()

    def renewed(now: Job) -> bool:
        leases.add(now.lease_until)
        return len(leases) >= 4

    with locked(house.run_dir(job) / "lock"), house.working():
        house.wait(job, renewed)
        assert not (house.run_dir(job) / "starts.txt").exists()
        # leaving the block stops the worker, still waiting
    assert house.store.get_job(job.id).status == "queued"
    with house.working():
        done = house.wait(job, ended)
    assert (done.status, done.crashes) == ("succeeded", 0)
    house.store.close()


# Promotion


def test_a_better_version_becomes_champion(house: House) -> None:
    house.register(2)
    house.trainer(succeed({"promote": True, "reason": "fd 2 < 3"}, champion=1))
    job = house.queue()
    with house.working():
        house.wait(job, ended)
    assert house.registry.aliases("mnist") == {"champion": 2, "previous": 1}


def test_a_worse_version_does_not(house: House) -> None:
    house.register(2)
    house.trainer(succeed({"promote": False, "reason": "fd 3 > 2"}, champion=1))
    job = house.queue()
    with house.working():
        house.wait(job, ended)
    assert house.registry.champion("mnist") == 1


@pytest.mark.parametrize(("promote", "champion"), [("if_better", 2), ("always", 3)])
def test_a_champion_that_moved_meanwhile_stays_unless_always(
    house: House, promote: str, champion: int
) -> None:
    house.register(3)
    house.registry.promote("mnist", 2, "by hand")
    house.trainer(succeed({"promote": True, "reason": "better"}, champion=1, version=3))
    job = house.queue(promote=promote)
    with house.working():
        done = house.wait(job, ended)
    assert house.registry.champion("mnist") == champion
    assert done.result is not None
    assert done.result["decision"]["promote"] == (champion == 3)
    if champion == 2:
        assert "became version 2 while this job ran" in done.result["decision"]["reason"]


def test_a_cancel_that_comes_late_promotes_nothing(house: House) -> None:
    house.register(2)
    finish = succeed({"promote": True, "reason": "better"}, champion=1)
    house.trainer(
        f"def finish(*_):\n    {finish}\n    os._exit(0)\n"
        "signal.signal(signal.SIGTERM, finish)\n" + TRAIN_FOREVER
    )
    job = house.queue()
    with house.working() as worker:
        house.wait(job, training)
        house.store.request_cancel(job.id)
        worker.wake()
        done = house.wait(job, ended)
    assert done.status == "cancelled"
    assert house.registry.champion("mnist") == 1


# Several processes of one job, with the real command


def several(tmp_path: Path) -> House:
    """A house whose jobs train with two processes, on images that `tiny` can learn."""
    devices = {"training_devices": "cpu,cpu", "gpus_per_job": 2, "training_threads": 1}
    house = House(tmp_path, poll_sec=0.05, **devices)
    images = np.random.default_rng(0).integers(0, 256, (120, 28, 28), np.uint8)
    np.savez(tmp_path / "noise.npz", images=images, labels=np.arange(120) % 2)
    import_dataset(
        tmp_path / "noise.npz", house.settings.datasets_dir / "ds_1", ImportOptions("noise")
    )
    (slot,) = slots(house.settings)
    house.command = default_trainer_command(house.settings, slot)  # type: ignore[method-assign]
    return house


def test_a_job_of_two_processes_is_paused_with_its_state_and_is_told_what_it_refused(
    tmp_path: Path,
) -> None:
    house = several(tmp_path)
    job = house.queue(minutes=None, kimg=1000.0)
    with house.working() as worker:
        house.wait(job, lambda now: bool((now.progress or {}).get("cur_nimg")))
        house.store.request_pause(job.id)
        worker.wake()
        paused = house.wait(job, lambda now: now.status == "paused")
        refused = house.wait(house.queue(preset="cpu32"), ended)
    assert (paused.attempt, paused.crashes) == (1, 0)
    assert (house.run_dir(job) / "state.json").is_file()
    assert (refused.status, refused.attempt) == ("failed", 1)
    assert "cpu28" in (refused.error or "")
    house.store.close()


# Real worker processes

DRIVER = """
import sys
from pathlib import Path
from app.settings import Settings
from app.worker import run_worker

run_worker(
    Settings.model_validate({"data_dir": Path(sys.argv[1]), "lease_sec": 0.5, "poll_sec": 0.05}),
    follow_stdin=True,
    trainer_command=lambda job, run_dir: [sys.executable, sys.argv[2], str(run_dir), sys.argv[3]],
)
"""


class Life:
    """A pipe that each fake trainer holds open: a byte when it starts, the end when all died."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        ready, _, _ = select.select([self._fd], [], [], PATIENCE_SEC)
        assert ready, "nothing happened"
        return os.read(self._fd, 1)

    def close(self) -> None:
        os.close(self._fd)


HOLD_PIPE = """
life = os.open(sys.argv[2], os.O_WRONLY)
write("progress.json", {"phase": "training"})
os.write(life, b"+")
"""


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    life = Life(tmp_path / "life")
    yield life
    life.close()


@pytest.fixture
def next_life(tmp_path: Path) -> Iterator[Life]:
    life = Life(tmp_path / "next_life")
    yield life
    life.close()


def test_a_worker_that_lost_its_lease_kills_its_trainer_and_writes_nothing(
    house: House, life: Life
) -> None:
    house.trainer(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + HOLD_PIPE + "forever()",
    )
    job = house.queue()
    house.command = lambda _job, run_dir: [  # type: ignore[method-assign]
        *(sys.executable, str(house.script), str(run_dir), str(life.path))
    ]
    with house.working():
        house.wait(job, training)
        assert life.read() == b"+"
        later = time.time() + 3600
        house.now = lambda: later
        thief = house.store.claim_job("thief", 7200)
        assert life.read() == b""
    assert thief is not None
    assert house.store.get_job(job.id) == thief


def start_worker(house: House, life: Life) -> subprocess.Popen[bytes]:
    driver = house.script.with_name("driver.py")
    driver.write_text(DRIVER)
    command = [sys.executable, driver, house.settings.data_dir, house.script, life.path]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=env)


@pytest.mark.parametrize("way", ["end of input", "SIGTERM", "SIGINT"])
def test_a_worker_asked_to_stop_leaves_no_orphan(house: House, life: Life, way: str) -> None:
    house.trainer(HOLD_PIPE + "forever()")
    job = house.queue()
    with start_worker(house, life) as worker:
        assert life.read() == b"+"
        if way == "end of input":
            assert worker.stdin is not None
            worker.stdin.close()
        else:
            worker.send_signal(getattr(signal, way))
        assert life.read() == b""
        assert worker.wait(PATIENCE_SEC) == 0
    now = house.store.get_job(job.id)
    assert (now.status, now.crashes) == ("queued", 0)


def test_a_killed_worker_takes_its_trainer_along_and_the_next_goes_on(
    house: House, life: Life, next_life: Life
) -> None:
    house.trainer(HOLD_PIPE + "forever()")
    job = house.queue()
    with start_worker(house, life) as worker:
        assert life.read() == b"+"
        worker.kill()
        assert life.read() == b""
    house.trainer(HOLD_PIPE + succeed({"promote": False, "reason": "worse"}, champion=1))
    with start_worker(house, next_life) as worker:
        assert next_life.read() == b"+"
        assert next_life.read() == b""
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(PATIENCE_SEC) == 0
    now = house.store.get_job(job.id)
    assert (now.status, now.attempt, now.crashes) == ("succeeded", 2, 1)
    assert json.loads((house.run_dir(job) / "result.json").read_text()) == now.result


def test_a_worker_stopped_past_its_lease_and_continued_leaves_the_job_to_the_next(
    house: House, life: Life, next_life: Life
) -> None:
    house.trainer(HOLD_PIPE + "forever()")
    job = house.queue()
    with start_worker(house, life) as stopped:
        assert life.read() == b"+"
        stopped.send_signal(signal.SIGSTOP)
        house.trainer(HOLD_PIPE + succeed({"promote": False, "reason": "worse"}, champion=1))
        with start_worker(house, next_life) as worker:
            deadline = time.monotonic() + PATIENCE_SEC
            while house.store.get_job(job.id).attempt < 2:  # of other processes nobody tells
                assert time.monotonic() < deadline
                time.sleep(0.01)
            stopped.send_signal(signal.SIGCONT)
            assert life.read() == b""  # its trainer is killed, and the next one starts
            assert next_life.read() == b"+"
            assert next_life.read() == b""
            worker.terminate()
            stopped.terminate()
            assert worker.wait(PATIENCE_SEC) == stopped.wait(PATIENCE_SEC) == 0
    now = house.store.get_job(job.id)
    assert (now.status, now.attempt, now.crashes) == ("succeeded", 2, 1)
    assert [event.type for event in house.store.events(job.id)].count("started") == 2
    assert len(house.pids(job)) == 2
