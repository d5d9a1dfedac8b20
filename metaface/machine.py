"""What a run cost, and on which machine."""

from __future__ import annotations

import contextlib
import ctypes
import math
import platform
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from metaface.arguments import checked_device

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def describe(device: torch.device) -> dict[str, str | int]:
    """The machine, for reports: processor or GPU, threads, versions."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"model name\s*: (.*)", cpuinfo.read_text())
        name = found[1] if found else name
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def reset_peak() -> None:
    """Start measuring peak memory afresh (on Linux and on GPUs; elsewhere it only grows)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if trim := _libc("malloc_trim"):
        trim(0)
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")


def peak_mb(device: torch.device) -> float:
    """Peak memory since :func:`reset_peak`, in MB: the GPU's, or this process's resident set;
    nan where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if _STATUS.is_file():
        found = re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())
        if found:
            return int(found[1]) * 1024 / 1e6
    if sys.platform == "win32":
        return math.nan
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


@cache
def keep_memory() -> None:
    """Have freed memory kept for the next tensor, instead of handed back page by page.

    glibc returns every large block to the system; mapping it again costs a tenth of the time of
    an inner loop on a CPU. The memory in use at most does not change. Elsewhere: nothing.
    """
    if mallopt := _libc("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, 1 << 25)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_M_TOP_PAD, 1 << 26)


def _libc(name: str) -> Any:
    """A function of this process's C library, or None where it has none of that name."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


def choose_device(given: str | torch.device | None) -> torch.device:
    """What was ``given``; None: a GPU where there is one, else the CPU.

    Raises:
        ValueError: no device that this machine has.
    """
    return best_device() if given is None else checked_device(given)


def best_device() -> torch.device:
    """A GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
