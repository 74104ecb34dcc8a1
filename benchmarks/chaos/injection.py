"""Owns a fault at one system call: a driver, a tracer that strikes it there, and what is left then.

strace counts the calls of each kind from the moment it is attached, which is just before the first
one of the operation, and in each thread by itself: one thread is struck. A kill strikes on entering
the call, which then does not happen.
"""

import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.chaos.campaign import Campaign
from benchmarks.chaos.channel import Channel
from benchmarks.chaos.outcomes import BROKEN, Outcome
from benchmarks.chaos.sabotage import SABOTAGES, Sabotage

# What changes files, on any CPU (`?`: not every one has it), and the call that acknowledges.
MUTATING = (
    *("openat", "creat", "write", "pwrite64", "writev", "pwritev", "sendfile", "copy_file_range"),
    *("fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
    *("mkdir", "mkdirat", "truncate", "ftruncate", "fallocate", "link", "linkat", "symlink"),
    *("symlinkat", "chmod", "fchmod", "fchmodat", "utimensat"),
)
ACKNOWLEDGING = "sendto"
KILL = "kill -9"
FAULTS = (KILL, "ENOSPC once", "ENOSPC from then on", "EIO once", "EIO from then on")
ANSWER_TIMEOUT_SEC = 60.0
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\(", re.MULTILINE)


class Driver:
    """A warm process for one operation, and the folder that it begins from."""

    def __init__(self, operation: str, sabotage: Sabotage | None = None) -> None:
        self.operation = operation
        self._arguments = [operation, *([sabotage.what] if sabotage else [])]

    def __enter__(self) -> Self:
        self._scratch = tempfile.TemporaryDirectory(prefix="noisewell-chaos-")
        self.template = Path(self._scratch.name) / "template"
        self.data = Path(self._scratch.name) / "data-0"
        self._log = Path(self._scratch.name) / "log"
        self._tries = 0
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ANSWER_TIMEOUT_SEC)
        command = [sys.executable, "-m", "benchmarks.chaos.driver", str(theirs.fileno())]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *self._arguments], pass_fds=[theirs.fileno()], stderr=log
            )
        theirs.close()
        self.channel = Channel(ours)
        self.template.mkdir()
        try:
            self.channel.send(do="prepare", data=str(self.template))
            self.until_ended()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.channel.close()
        self._process.wait()
        self._scratch.cleanup()

    def fresh(self) -> Path:
        """The folder as it was before the operation, where nobody who lives on writes to."""
        shutil.rmtree(self.data, ignore_errors=True)
        self._tries += 1
        self.data = self.data.with_name(f"data-{self._tries}")
        shutil.copytree(self.template, self.data)
        return self.data

    def until_ended(self) -> list[dict[str, Any]]:
        """What was said until the request was done with; the last one tells how it ended."""
        said: list[dict[str, Any]] = []
        while not said or "ended" not in said[-1]:
            message = self.channel.receive()
            if message is None:
                told = self._log.read_text("utf-8", "replace").splitlines()[-1:]
                raise RuntimeError(f"the driver of {self.operation!r} died; it said {said} {told}")
            said.append(message)
        return said

    def act(self, injection: list[str], again: bool) -> tuple[list[dict[str, Any]], str]:
        """Do the operation under the tracer; what was said, and the calls that were made."""
        trace = self.data.parent / "trace"
        self.channel.send(do="act", data=str(self.fresh()), again=again)
        held = self.channel.receive()
        assert held is not None
        assert "held" in held, held
        with Tracer(held["held"], injection, trace, follow=False):
            self.channel.send(do="go")
            said = self.until_ended()
        return said, trace.read_text("utf-8", "replace")

    def recover(self, acknowledged: bool) -> dict[str, Any]:
        """What was found in the folder, and how doing it again went."""
        self.channel.send(do="recover", data=str(self.data), acknowledged=acknowledged)
        told, *_ = self.until_ended()
        return told


class Tracer:
    """strace, attached from `with` on; it ends with what it traces, else it lets go.

    pid: of a thread, or with `follow` of a process, of which all threads and children are traced.
    """

    def __init__(
        self, pid: int, injection: list[str], output: Path, *, follow: bool = True
    ) -> None:
        self._pid = pid
        self._command = ["strace", *(["-f"] if follow else []), "-y", "-s", "0", *injection]
        self._command += ["-o", str(output), "-p", str(pid)]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE)
        assert self._process.stderr is not None
        line = self._process.stderr.readline().decode()
        if "attached" not in line:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"strace could not attach: {line.strip()}")

    def __exit__(self, *_: object) -> None:
        if Path(f"/proc/{self._pid}").exists():
            self._process.terminate()
        self._process.communicate(timeout=ANSWER_TIMEOUT_SEC)


def calls(driver: Driver) -> Counter[str]:
    """How many calls of each kind the operation makes when nothing strikes it."""
    kinds = ",".join(f"?{kind}" for kind in (*MUTATING, ACKNOWLEDGING))
    _, trace = driver.act(["-e", f"trace={kinds}"], again=False)
    return Counter(_CALL.findall(trace))


def points(found: Counter[str], fault: str) -> Iterator[tuple[str, int]]:
    """Every call that the fault may strike; the acknowledging one can only be killed at."""
    for kind in sorted(found):
        if kind != ACKNOWLEDGING or fault == KILL:
            yield from ((kind, number) for number in range(1, found[kind] + 1))


def strike(driver: Driver, fault: str, kind: str, number: int) -> Outcome:
    """Let the fault strike the operation at the `number`-th call of `kind`."""
    injection = ["-e", f"trace={kind}", "-e", _inject(fault, kind, number)]
    said, trace = driver.act(injection, again=fault.endswith("once"))
    acknowledged = any("acknowledged" in message for message in said)
    found = driver.recover(acknowledged)
    wrong = [message["unexpected"] for message in [*said, found] if "unexpected" in message]
    code = said[-1]["ended"]
    if code != (-signal.SIGKILL if fault == KILL else 0):
        wrong.append(f"the process ended with {code}")
    if fault != KILL and "(INJECTED)" not in trace:
        wrong.append("the fault did not strike")
    return Outcome(
        fault=fault,
        operation=driver.operation,
        point=f"{kind} {number}",
        lost=found.get("lost", 0),
        twice=found.get("twice", 0),
        half=found.get("half", 0),
        leftovers=found.get("leftovers", 0),
        recovery_sec=found.get("recovery_sec"),
        wrong=[*wrong, *found.get("wrong", [])],
    )


def _inject(fault: str, kind: str, number: int) -> str:
    if fault == KILL:
        return f"inject={kind}:signal=KILL:when={number}"
    code, _, how = fault.partition(" ")
    return f"inject={kind}:error={code}:when={number}{'+' if how == 'from then on' else ''}"


def inject(campaign: Campaign, operations: Sequence[str]) -> None:
    """Strike every operation with every fault, a sample with a part of the errors."""
    for operation in operations:
        with Driver(operation) as driver:
            found = calls(driver)
            for fault in FAULTS:
                # Kills are what this is about; of the errors, a sample takes every fifth.
                step = 1 if fault == KILL else campaign.of(1, 5)
                chosen = list(points(found, fault))[::step]
                with campaign.part(f"{fault} in {operation}", len(chosen)) as part:
                    for kind, number in chosen:
                        key = (fault, operation, f"{kind} {number}")
                        part.case(key, partial(strike, driver, fault, kind, number))


def inject_into_broken_code(campaign: Campaign) -> None:
    """Break the code on purpose, in one way after another; each has to be found."""
    with campaign.part(BROKEN, len(SABOTAGES)) as part:
        for sabotage in SABOTAGES:
            part.case((BROKEN, sabotage.what, sabotage.operation), partial(_hunt, sabotage))


def _hunt(sabotage: Sabotage) -> Outcome:
    """Strike until something is found; that nothing is, is what is wrong."""
    tried = 0
    with Driver(sabotage.operation, sabotage) as driver:
        for kind, number in points(calls(driver), sabotage.fault):
            tried += 1
            if not strike(driver, sabotage.fault, kind, number).good:
                return Outcome(BROKEN, sabotage.what, sabotage.operation, cases=tried)
    wrong = [f"not found by {tried} cases of {sabotage.fault}"]
    return Outcome(BROKEN, sabotage.what, sabotage.operation, cases=tried, wrong=wrong)
