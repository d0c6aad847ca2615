"""What this machine has and allows: cores, memory, GPUs, ports. Reads it; decides nothing."""
from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from .core.placement import Gpu
from .precision import PRECISIONS, cpu_flags
from .orders import NoOrders
from .process import ask, read_orders, report

logger = logging.getLogger(__name__)


def allowed_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may use: its affinity mask, and the CPU quota of its control group (v2 or v1)."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, min(cores, math.ceil(quota))) if quota else max(1, cores)


def _quota(cgroup: Path) -> float | None:
    """CPU quota in cores; None if there is none."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        limit = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
        period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        return int(limit) / int(period) if int(limit) > 0 and int(period) > 0 else None
    except (OSError, ValueError):
        return None


def allowed_memory(cgroup: Path = Path("/sys/fs/cgroup"),
                   meminfo: Path = Path("/proc/meminfo")) -> tuple[int | None, int | None]:
    """(bytes that the control group (v2 or v1) allows, bytes that the machine has available); None: not known, or no
    limit."""
    limit = None
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((cgroup / name).read_text())
            break
        except (OSError, ValueError):  # "max" is no number
            continue
    if limit is not None and limit >= UNLIMITED:
        limit = None
    available = None
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return limit, available


UNLIMITED = 1 << 60
"""Version 1 of control groups writes "no limit" as the largest number of whole pages."""


def holder(port: int, proc: Path = Path("/proc")) -> tuple[int, str] | None:
    """(id, name) of the process that listens on this TCP port, where the kernel tells: not of other users' processes,
    nor of those in other containers."""
    sockets = {f"socket:[{inode}]" for table in ("net/tcp", "net/tcp6") for inode in _listening(proc / table, port)}
    if not sockets:
        return None
    for directory in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            if any(os.readlink(directory / "fd" / name) in sockets for name in os.listdir(directory / "fd")):
                return int(directory.name), (directory / "comm").read_text().strip()
        except OSError:  # another user's, or just gone
            continue
    return None


LISTEN = "0A"
"""State of a socket in /proc/net/tcp."""


def _listening(table: Path, port: int) -> list[str]:
    """The inodes of the sockets that listen on a port."""
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows
            if len(row) > 9 and row[3] == LISTEN and row[1].rpartition(":")[2] == f"{port:04X}"]


def speeds_up(precision: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has instructions for this precision; where it does not tell, they are taken for there."""
    flags = cpu_flags(cpuinfo)
    return not flags or bool((PRECISIONS[precision].cpu_features or flags) & flags)


DRIVER_SECONDS = 8.0
"""Time for ``nvidia-smi`` to answer. A driver that was not in use takes a second or so to wake each GPU."""


def gpus(seconds: float = DRIVER_SECONDS) -> list[Gpu]:
    """The GPUs that ``nvidia-smi`` knows; none where it is missing, fails or does not answer in time.

    It is asked in a process of its own, which can be ended: a driver in trouble lets it hang for ever.
    """
    if sys.platform != "win32" and shutil.which("nvidia-smi") is None:
        return []
    started = time.monotonic()
    answer = ask("bert_serving.server.machine", NoOrders(), seconds)
    if answer is None:
        if time.monotonic() - started >= seconds:
            logger.warning("nvidia-smi has not answered within %g s: going on as if there were no GPU; see whether its "
                           "driver is in order, or give -cpu", seconds)
        return []
    if "missing" in answer:
        logger.warning("there is nvidia-smi, but what reads it cannot be imported (%s): going on as if there were no "
                       "GPU; pip install GPUtil setuptools, or give -cpu", answer["missing"])
    return [Gpu(*values) for values in answer.get("gpus", [])]


def _ask_driver() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # GPUtil imports distutils
        try:
            import GPUtil
        except ImportError as error:
            return {"missing": str(error)}
        try:
            found = GPUtil.getGPUs()
        except (OSError, ValueError, IndexError, ZeroDivisionError):  # what its parser makes of a driver's error text
            return {}
    # A value that the driver does not tell is NaN; such a GPU counts as idle.
    return {"gpus": [(gpu.id, gpu.name, _known(gpu.load), _known(gpu.memoryUtil)) for gpu in found]}


def _known(value: float) -> float:
    return 0.0 if math.isnan(value) else value


if __name__ == "__main__":
    read_orders("bert-gpus", NoOrders)
    report(_ask_driver())
