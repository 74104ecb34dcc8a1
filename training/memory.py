"""Owns how the process keeps the memory that a training step frees for the next one."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_NEVER_TRIM, _LARGEST_FROM_HEAP_BYTES = 2**31 - 1, 2**30


def keep_freed_memory() -> None:
    """Make glibc's allocator keep what is freed. Elsewhere nothing happens.

    By default it hands every large block back to the system and asks for it again a moment later,
    which the system zeroes page by page: an eighth of a training step on a CPU.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)
