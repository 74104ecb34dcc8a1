import subprocess
import sys
import threading
from pathlib import Path

import pytest

from training.model.pressure import GiveWay, Pressure

PATIENCE_SEC = 30.0


class Trainer:
    """Gives way once, in a thread, with half a minute of patience to give."""

    def __init__(self, path: Path, steps_sec: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("training.model.pressure.MOST_SEC", PATIENCE_SEC)
        times = [0.0, steps_sec, steps_sec]
        self.give_way = GiveWay(path, lambda: times.pop(0))
        self.went_on = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.give_way()
        self.went_on.set()

    def start(self) -> None:
        self._thread.start()


def test_a_trainer_goes_on_where_nobody_asks_it_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trainer(tmp_path / "pressure", 1e6, monkeypatch).give_way()


def test_a_trainer_waits_until_the_service_says_that_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tmp_path / "pressure", 1e6, monkeypatch)
    service = Pressure(tmp_path / "pressure")
    service.set(True)
    trainer.start()
    assert not trainer.went_on.wait(0.05)
    service.set(False)
    assert trainer.went_on.wait(PATIENCE_SEC / 2)


def test_a_trainer_waits_for_no_service_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pressure"
    trainer = Trainer(path, 1e6, monkeypatch)
    hold = "import sys; f = open(sys.argv[1], 'w'); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as service:
        assert service.stdout is not None
        assert service.stdout.readline()
        trainer.start()
        service.kill()
        assert trainer.went_on.wait(PATIENCE_SEC / 2)


def test_a_trainer_that_has_not_trained_since_waits_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tmp_path / "pressure", 0.0, monkeypatch)
    service = Pressure(tmp_path / "pressure")
    service.set(True)
    trainer.give_way()  # or this test would take half a minute
    service.close()


def test_a_service_without_trainers_asks_nobody(tmp_path: Path) -> None:
    service = Pressure(tmp_path / "pressure")
    for on in (True, True, False, False):
        service.set(on)
