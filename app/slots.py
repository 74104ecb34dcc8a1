"""Owns where jobs run: as many slots as run at once, each with the devices of one trainer."""

from dataclasses import dataclass

from app.children import scrubbed_environment
from app.settings import Settings
from training.model.threads import half_the_cores


@dataclass(frozen=True)
class Slot:
    """Room for one trainer: a process on each of `devices`, all of one kind, with `threads` each.

    A device is auto, cpu, cuda or mps, or one GPU of several, such as cuda:1.
    """

    devices: tuple[str, ...]
    threads: int

    @property
    def kind(self) -> str:
        """What the trainer is told to train on; of the GPUs it sees no others than its own."""
        return self.devices[0].partition(":")[0]

    def environment(self) -> dict[str, str]:
        """What the trainer gets to see of ours."""
        gpus = [int(number) for d in self.devices if (number := d.partition(":")[2])]
        return scrubbed_environment(gpus)


def slots(settings: Settings) -> list[Slot]:
    """The groups of devices, `jobs_per_device` times; those of one group are not neighbours.

    CPU threads that nobody set are shared between the slots.
    """
    groups = settings.device_groups * settings.jobs_per_device
    processes = len(groups) * settings.gpus_per_job
    threads = settings.training_threads or max(1, half_the_cores() // processes)
    return [Slot(group, threads) for group in groups]
