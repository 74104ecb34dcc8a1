"""Owns what the machine says: memory of device and process, and what its errors mean."""

import os
from pathlib import Path

import structlog
import torch

# Of errors after which a process gets nothing right from its device any more.
_BROKEN = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "HIP error", "MPS backend error")
_NO_MEMORY = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")

log = structlog.get_logger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less at once might do."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)


def is_device_broken(error: BaseException) -> bool:
    """Whether the process had better end, since its device will answer nothing any more."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(t in str(error) for t in _BROKEN)


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
