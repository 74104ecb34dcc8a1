"""Owns the decoders of an import: started when there is work, fed, and replaced when one dies.

A file that costs a decoder its life is rejected, and the next decoder goes on behind it. Only
processor time is blamed at once: who dies otherwise may have been spoiled by an earlier file, or
killed by somebody, so the file is tried again first in a new process.
"""

import mmap
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from training.data.decode import Target
from training.data.options import Limits
from training.data.slots import COMMAND, OUT_OF_MEMORY, READY, Slot, anonymous_file, slot_bytes

SLOTS = 4
MAX_DECODERS = 64
POLL_SEC = 0.2
# No decoder waits for anything: one that has not moved for so long, however busy the machine, never
# will.
STALL_SEC = 60.0
MAX_FAILED_STARTS = 3
# What a decoder has mapped beside its data: libraries, and its share of the slots.
SHARED_BYTES = 200_000_000
HEADERS = Target(0, 0)


@dataclass(eq=False)
class Batch:
    """Files in a slot, and what is asked of them; answered: all have their verdict."""

    slot: Slot
    decoder: "Decoder"
    target: Target | None
    answered: bool = False
    seen: int = 0

    def settled(self) -> int:
        """How many files have a verdict that can be read.

        Those that were done when this was asked last: what another processor writes is not seen in
        order, but some time later it is.
        """
        if self.answered:
            return self.slot.count
        before, self.seen = self.seen, self.slot.done
        return before


class Decoder:
    """One process and its memory; `start` begins it, again and again if it has to be."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        longest = limits.max_image_bytes
        size = SLOTS * slot_bytes(longest)
        self._fd = anonymous_file(size)
        memory = mmap.mmap(self._fd, size)  # goes with the last array that lies in it
        self.free = [Slot(memory, i, longest) for i in range(SLOTS)]
        self.queue: deque[Batch] = deque()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._failed_starts = 0
        self._first: tuple[Batch, int] | None = None  # what this process had to do first
        self._moved: tuple[float, object] = (0.0, None)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def send(self, batch: Batch) -> None:
        """Take on one more batch."""
        self.queue.append(batch)
        if self._process is None:
            self.start(0)
        else:
            self._command(batch, 0)

    def start(self, first: int) -> None:
        """A new process for all that waits, from file `first` of the first batch on."""
        paths = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
        settings = (
            self._fd,
            SLOTS,
            self._limits.max_image_bytes,
            self._limits.max_image_pixels,
            round(1000 * self._limits.max_image_sec),
            self._limits.max_decoder_bytes - SHARED_BYTES,
        )
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-S", "-m", "training.data.decoder", *map(str, settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where libraries complain of what they read
            bufsize=0,
            env={"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=[self._fd],
        )
        self._ready, self._moved = False, (time.monotonic(), None)
        self._first = (self.queue[0], first) if self.queue else None
        for batch in self.queue:
            self._command(batch, first if batch is self.queue[0] else 0)

    @property
    def answers(self) -> int:
        """The descriptor to wait on."""
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def hear(self) -> bool:
        """Read what it has answered; False if it is dead."""
        answers = os.read(self.answers, 64)
        if answers.startswith(READY):
            self._ready, self._failed_starts = True, 0
            self._moved = (time.monotonic(), None)
        for _ in answers.removeprefix(READY):
            self.queue.popleft().answered = True
        return bool(answers)

    def replace(self) -> None:
        """Bury a dead process, blame a file if one is to blame, and start another."""
        code = self._end()
        if not self._ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise OSError(
                    f"The process that decodes images does not start (it ended with {code}); is"
                    " there too little memory?"
                )
        first = 0
        if self.queue:
            batch = self.queue[0]
            first = batch.slot.done
            again = self._first == (batch, first)
            if first < batch.slot.count and self._ready and (again or code == -signal.SIGPROF):
                batch.slot.lose(first, self._reason(code))
                first += 1
                batch.slot.done = first
            if first == batch.slot.count:
                self.queue.popleft().answered = True
                first = 0
        if self.queue:
            self.start(first)

    def check_stall(self) -> None:
        """Kill a process that has work and does not move."""
        if self._process is None or not self.queue:
            return
        now, at = time.monotonic(), (self.queue[0], self.queue[0].slot.done)
        if at != self._moved[1]:
            self._moved = (now, at)
        elif now - self._moved[0] > STALL_SEC:
            self._process.kill()

    def close(self) -> None:
        """End the process, whatever it is at."""
        if self._process is not None:
            self._process.kill()
            self._end()
        os.close(self._fd)

    def _command(self, batch: Batch, first: int) -> None:
        target = batch.target or HEADERS
        data = COMMAND.pack(
            batch.slot.number, first, target.resolution, target.channels, *target.background
        )
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
        except BrokenPipeError:
            self._process.kill()  # its end is told by `hear`, and what waits is sent again

    def _end(self) -> int:
        """Wait for the process, whose pipe has ended; returns its exit code."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        code = self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process = None
        return code

    def _reason(self, code: int) -> str:
        limits = self._limits
        if code == -signal.SIGPROF:
            return f"takes more than {limits.max_image_sec:g} s to decode (max_image_sec)"
        if code == OUT_OF_MEMORY:
            return (
                f"takes more memory to decode than {limits.max_decoder_bytes / 1e9:g} GB"
                " (max_decoder_bytes)"
            )
        if code == -signal.SIGKILL:
            return "had its decoder killed twice; the machine may be out of memory"
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"makes the decoder crash ({how})"


class Decoders:
    """All decoders of one import, as many as there are processors, or as the work needs."""

    def __init__(self, limits: Limits, num_batches: int) -> None:
        """num_batches: how many there will be; fewer than processors want fewer decoders."""
        count = max(1, min(_processors(), num_batches, MAX_DECODERS))
        self._decoders = [Decoder(limits) for _ in range(count)]
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._selector.close()
        for decoder in self._decoders:
            decoder.close()

    @property
    def pids(self) -> list[int]:
        """Of the processes that live."""
        return [decoder.pid for decoder in self._decoders if decoder.pid is not None]

    def room(self, target: Target | None) -> Batch | None:
        """An empty batch for the decoder that has least to do; None if all slots are taken."""
        decoder = max(self._decoders, key=lambda decoder: len(decoder.free))
        if not decoder.free:
            return None
        slot = decoder.free.pop()
        slot.clear()
        return Batch(slot, decoder, target)

    def send(self, batch: Batch) -> None:
        """Have a batch answered."""
        if batch.slot.count == 0:
            batch.answered = True
            return
        batch.slot.seal()
        decoder = batch.decoder
        if decoder.pid is None:
            decoder.send(batch)
            self._selector.register(decoder.answers, selectors.EVENT_READ, decoder)
        else:
            decoder.send(batch)

    def wait(self, batch: Batch) -> bool:
        """Wait until a batch is answered, or for a short while; returns whether it is."""
        until = time.monotonic() + POLL_SEC
        while not batch.answered and (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if not key.data.hear():
                    self._replace(key.data)
        if not batch.answered:
            for decoder in self._decoders:
                decoder.check_stall()
        return batch.answered

    def give_back(self, batch: Batch) -> None:
        """A batch whose answers have been read; its slot is free."""
        batch.decoder.free.append(batch.slot)

    def _replace(self, decoder: Decoder) -> None:
        self._selector.unregister(decoder.answers)
        decoder.replace()
        if decoder.pid is not None:
            self._selector.register(decoder.answers, selectors.EVENT_READ, decoder)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
