"""Owns a campaign: which faults are tried, how many of each, and that none is tried twice."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.progress import Progress, TaskID

from benchmarks.chaos.outcomes import Journal, Key, Outcome


@dataclass(frozen=True)
class Part:
    """Cases of one kind, of which each is done once, however often the campaign is begun again."""

    campaign: "Campaign"
    task: TaskID

    def case(self, key: Key, do: Callable[[], Outcome | list[Outcome]]) -> None:
        """Do it unless the journal has it; key: of the outcome, of several that of the last."""
        if key not in self.campaign.journal:
            told = do()
            outcomes = told if isinstance(told, list) else [told]
            assert outcomes[-1].key == key, (outcomes[-1].key, key)
            for outcome in outcomes:
                self.campaign.journal.add(outcome)
        self.campaign.progress.advance(self.task)


@dataclass(frozen=True)
class Campaign:
    """full: every case; else a sample of each kind."""

    journal: Journal
    progress: Progress
    full: bool

    @contextmanager
    def part(self, name: str, total: int) -> Iterator[Part]:
        """total: how many cases there will be."""
        task = self.progress.add_task(name, total=total)
        yield Part(self, task)
        self.progress.update(task, completed=total)

    def of(self, full: int, sample: int) -> int:
        """How many."""
        return full if self.full else sample
