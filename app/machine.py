"""Owns what is read of the machine: memory of the device and of the process."""

import os
from pathlib import Path

import structlog
import torch

log = structlog.get_logger(__name__)


def resident_bytes() -> int:
    """Of this process, without its children; 0 where /proc is not."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def device_memory(device: torch.device) -> dict[str, int]:
    """Bytes `used` and in `total`: of the GPU by anybody, on a CPU by this process; {} if unknown.

    A broken device must not break what tells of it.
    """
    if device.type != "cuda":
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return {"used": resident_bytes(), "total": total}
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        log.warning("the device does not tell its memory", reason=str(error))
        return {}
    return {"used": total - free, "total": total}
