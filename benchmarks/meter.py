"""CPU seconds, wall seconds and peak memory of a block of code in this process. Standard library only, so
that it also runs under the interpreter of another tool."""

import ctypes
import gc
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass
class Cost:
    """What a block cost. Memory in bytes above what was resident when the block began.

    `peak_above` is the growth of the peak that the kernel keeps, reset before the block (VmHWM);
    None where it cannot be reset. `maxrss_above` is the growth of ru_maxrss, which an earlier, higher
    peak hides.
    """

    cpu: float = 0.0
    system: float = 0.0
    """The part of `cpu` spent in the kernel: mostly memory that was given back and is wanted again."""
    wall: float = 0.0
    load: float = 0.0
    """Load average over one minute when the block began: above 0.5 others were running."""
    resident_before: int = 0
    peak_above: int | None = None
    maxrss_above: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def measure() -> Iterator[Cost]:
    """Measure a block; the result is filled in when it ends."""
    _return_free_memory()
    cost = Cost(load=os.getloadavg()[0], resident_before=_status("VmRSS"))
    was_reset = _reset_peak()
    maxrss = _maxrss()
    wall, cpu, system = time.perf_counter(), cpu_seconds(), _system_seconds()
    yield cost
    cost.cpu, cost.wall = cpu_seconds() - cpu, time.perf_counter() - wall
    cost.system = _system_seconds() - system
    cost.maxrss_above = _maxrss() - maxrss
    if was_reset:
        cost.peak_above = _status("VmHWM") - cost.resident_before


def new_peak() -> int:
    """The highest resident memory since this was last called, in bytes; where the kernel's peak cannot be reset, since
    the process began.
    """
    found = _status("VmHWM") or _maxrss()
    _reset_peak()
    return found


def cpu_seconds() -> float:
    """User plus system seconds of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _system_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_stime


def _maxrss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _return_free_memory() -> None:
    """Give freed memory back, so that a block cannot hide its use in what loading left behind."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    """A line of /proc/self/status in bytes; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else 0
