import pytest
from pydantic import ValidationError

from app.settings import Settings
from app.slots import Slot, slots


def made(**settings: object) -> list[tuple[str, ...]]:
    return [slot.devices for slot in slots(Settings.model_validate(settings))]


def test_a_job_at_a_time_runs_where_nothing_is_set() -> None:
    assert made(device="cpu") == [("cpu",)]


def test_each_device_has_its_jobs_and_neighbours_are_on_different_ones() -> None:
    devices = {"training_devices": "cuda:0, cuda:1", "jobs_per_device": 2}
    assert made(**devices) == [("cuda:0",), ("cuda:1",)] * 2
    assert made(**devices, gpus_per_job=2) == [("cuda:0", "cuda:1")] * 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"gpus_per_job": 2}, "gpus_per_job is 2, which auto"),
        ({"gpus_per_job": 2, "training_devices": "cuda:0,cpu"}, "of one kind"),
        ({"training_devices": "abacus"}, "'abacus' is no device"),
    ],
)
def test_devices_that_no_job_could_use_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Settings.model_validate(settings)


def test_a_trainer_sees_its_own_gpus_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    slot = Slot(("cuda:1", "cuda:2"), 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slot.kind == "cuda"
    assert slot.environment()["CUDA_VISIBLE_DEVICES"] == "1,2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert slot.environment()["CUDA_VISIBLE_DEVICES"] == "5,6"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with pytest.raises(ValueError, match="names cuda:2"):
        slot.environment()
