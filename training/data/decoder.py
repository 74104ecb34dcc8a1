"""Owns the process that decodes other people's files: one that may be killed at any time.

It has no files, no names and no settings, only the memory that it shares with the importer; it
bounds its own memory and the time of each image, and ends when the importer does. It imports
little: it has to be there at once when another was killed.
"""

import mmap
import os
import resource
import signal
import sys
import warnings
from hashlib import sha256

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from training.data.decode import RejectedError, Target, decode, read_header
from training.data.slots import COMMAND, OUT_OF_MEMORY, READY, Slot, slot_bytes

SETTINGS = ("fd", "slots", "max_image_bytes", "max_image_pixels", "max_image_ms", "max_data_bytes")
# Imported here, or Pillow would import all that it has when it meets the first file of some.
PLUGINS = (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
ORPHAN = 4  # the exit code
COMMANDS, ANSWERS = 0, 1


def main(arguments: list[str]) -> None:
    """Decode batch after batch until there is no importer any more."""
    settings = dict(zip(SETTINGS, map(int, arguments), strict=True))
    bound(settings["max_data_bytes"])
    Image.MAX_IMAGE_PIXELS = None  # our own limit is a setting, and refuses
    in_bytes, fd = settings["max_image_bytes"], settings["fd"]
    memory = mmap.mmap(fd, settings["slots"] * slot_bytes(in_bytes))
    os.close(fd)
    slots = [Slot(memory, number, in_bytes) for number in range(settings["slots"])]
    work = Work(settings["max_image_pixels"], settings["max_image_ms"] / 1000)
    answers = os.dup(ANSWERS)
    os.dup2(os.open(os.devnull, os.O_WRONLY), ANSWERS)
    os.write(answers, READY)
    while len(command := os.read(COMMANDS, COMMAND.size)) == COMMAND.size:
        number, first, resolution, channels, *background = COMMAND.unpack(command)
        red, green, blue = background
        work.answer(slots[number], first, Target(resolution, channels, (red, green, blue)))
        os.write(answers, bytes([number]))


def bound(max_data_bytes: int) -> None:
    """So much memory and no file, whatever is decoded; Ctrl-C is for the importer."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (max_data_bytes, max_data_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Work:
    """What is done with each file of a batch."""

    def __init__(self, max_pixels: int, max_sec: float) -> None:
        self._max_pixels, self._max_sec = max_pixels, max_sec
        self._parent = os.getppid()

    def answer(self, slot: Slot, first: int, target: Target) -> None:
        """Give each file its verdict, from the one numbered `first` on."""
        slot.open()
        for place in range(first, slot.count):
            if os.getppid() != self._parent:
                os._exit(ORPHAN)
            # Processor time, so that a verdict does not hang on how busy the machine is. SIGPROF
            # ends us then, wherever we are: nothing here catches it.
            signal.setitimer(signal.ITIMER_PROF, self._max_sec)
            self._answer_one(slot, place, target)
            slot.done = place + 1
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _answer_one(self, slot: Slot, place: int, target: Target) -> None:
        data = slot.file(place)
        try:
            if target.resolution:
                decoded = decode(data, target, self._max_pixels)
                slot.accept(place, decoded, sha256(decoded.pixels).digest())
            else:
                slot.accept_header(place, read_header(data, target.background, self._max_pixels))
        except RejectedError as e:
            slot.reject(place, str(e))
        except Exception as e:  # noqa: BLE001  parsers of damaged bytes raise what nobody lists
            if isinstance(e, MemoryError) or "out of memory" in str(e):
                os._exit(OUT_OF_MEMORY)
            reason = str(e).strip().partition("\n")[0][:200]
            slot.reject(place, f"cannot be decoded: {reason or type(e).__name__}")


if __name__ == "__main__":
    main(sys.argv[1:])
