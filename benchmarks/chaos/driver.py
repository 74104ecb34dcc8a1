"""Owns the process that operations are done in: warm, so that each try costs a fork and no imports.

    python -m benchmarks.chaos.driver CHANNEL OPERATION [SABOTAGE]

CHANNEL is the number of a socket it inherits, SABOTAGE what to break in this process first. Each
request, JSON, is done in a fork: `act` does the operation, held before its first system call until
`go` comes (a tracer has been attached by then); `recover` looks at what is there, does it again and
looks again. What is acknowledged goes out by `send`, which nothing else here calls, so that a fault
meets it only on purpose.
"""

import gc
import os
import shutil
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from app.errors import ConflictError, NoisewellError
from app.logs import configure_logs
from app.store.database import SchemaError
from benchmarks.chaos.channel import Channel
from benchmarks.chaos.imports import IMPORTS
from benchmarks.chaos.operations import OPERATIONS, Operation
from benchmarks.chaos.sabotage import find_sabotage
from benchmarks.chaos.soundness import leftovers, unsound

# What a caller may be told when the disk fails: errors that name what went wrong.
EXPECTED = (OSError, DBAPIError, SchemaError, NoisewellError, ValueError, LookupError)


def find(name: str) -> Operation:
    """The operation of that name."""
    known = {operation.name: operation for operation in (*OPERATIONS, *IMPORTS)}
    if name not in known:
        from benchmarks.chaos.weights import WITH_TORCH  # which takes seconds

        known |= {operation.name: operation for operation in WITH_TORCH}
    return known[name]


def act(operation: Operation, data: Path, channel: Channel, again: bool) -> None:
    """Do the operation and tell how it went; again: once more after an error, in this process."""
    do = operation.begin(data)
    channel.send(held=operation.held())
    assert channel.receive() == {"do": "go"}
    error = attempt(do, channel)
    if error is not None and again and operation.effects(data) == 0:
        attempt(do, channel)


def attempt(do: Callable[[], object], channel: Channel) -> Exception | None:
    try:
        do()
    except EXPECTED as error:
        channel.send(error=f"{type(error).__name__}: {error}")
        return error
    channel.send(acknowledged=True)
    return None


def recover(operation: Operation, data: Path, channel: Channel, acknowledged: bool) -> None:
    """Open what a fault left behind, do the operation again, and tell what was found."""
    seen, left = _effects(operation, data), leftovers(data)
    wrong = unsound(data)
    began = time.monotonic()
    refused = _again(operation, data, seen)
    seconds = time.monotonic() - began
    now = _effects(operation, data)
    if refused is not None:
        wrong.append(f"done again, it was refused: {refused}")
    if (now, refused) == (0, None):
        wrong.append("done again, it had no effect")
    wrong += operation.left(data)
    channel.send(
        lost=int(acknowledged and seen == 0),
        twice=int(max(seen, now) > 1),
        half=sum("half a" in text for text in wrong),
        wrong=[*wrong, *(f"then {text}" for text in unsound(data) if text not in wrong)],
        leftovers=left,
        recovery_sec=seconds,
    )


def _effects(operation: Operation, data: Path) -> int:
    """None where what would show it cannot be read, of which `unsound` tells."""
    try:
        return operation.effects(data)
    except EXPECTED:
        return 0


def _again(operation: Operation, data: Path, seen: int) -> str | None:
    """Why it could not be done again, None if it could or need not."""
    if seen and not operation.can_be_repeated:
        return None
    try:
        operation.begin(data, lambda: time.time() + operation.later_sec)()
    except (ConflictError, LookupError) as error:
        return None if seen else str(error)
    except EXPECTED as error:
        return f"{type(error).__name__}: {error}"
    return None


def in_a_fork(do: Callable[[], None], channel: Channel) -> None:
    """Run `do` in a child of its own and tell how that ended: an exit code, or minus a signal."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            do()
            code = 0
        except BaseException:  # noqa: BLE001 (told, and then this process ends)
            channel.send(unexpected=traceback.format_exc())
        finally:
            os._exit(code)
    channel.send(ended=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def warm_up(operation: Operation, template: Path) -> None:
    """Once without a fault: whatever is imported late is imported now."""
    with tempfile.TemporaryDirectory(prefix="noisewell-chaos-") as scratch:
        data = Path(scratch) / "data"
        shutil.copytree(template, data)
        operation.begin(data)()
        assert operation.effects(data) == 1, f"{operation.name} has no effect"
        operation.close()
        gc.collect()  # what it opened is closed before anybody forks


def main(channel: Channel, operation: Operation) -> None:
    while (request := channel.receive()) is not None:
        data = Path(request["data"])
        if request["do"] == "prepare":
            operation.prepare(data)
            warm_up(operation, data)
            channel.send(ended=0)
        elif request["do"] == "act":
            in_a_fork(lambda: act(operation, data, channel, request["again"]), channel)  # noqa: B023
        else:
            in_a_fork(lambda: recover(operation, data, channel, request["acknowledged"]), channel)  # noqa: B023


if __name__ == "__main__":
    configure_logs()
    for what in sys.argv[3:]:
        find_sabotage(what).do()
    chosen = find(sys.argv[2])
    with closing(chosen):
        main(Channel(socket.socket(fileno=int(sys.argv[1]))), chosen)
