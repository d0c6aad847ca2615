"""What this machine has and allows: cores and GPUs. Reads it; decides nothing."""
from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

from .core.placement import Gpu


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


FAST = {"int8": {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}, "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
        "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"}}
"""Precision -> the processor's features, each of which is for it."""


def speeds_up(precision: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has instructions for this precision; where it does not tell, they are taken for there."""
    try:
        words = set(cpuinfo.read_text().split())
    except OSError:
        return True
    return bool(FAST.get(precision, words) & words)


def gpus() -> list[Gpu]:
    """The GPUs that ``nvidia-smi`` knows; none where it is missing or fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # GPUtil imports distutils
        import GPUtil
        try:
            found = GPUtil.getGPUs()
        except (OSError, ValueError, IndexError, ZeroDivisionError):  # what its parser makes of a driver's error text
            return []
    # A value that the driver does not tell is NaN; such a GPU counts as idle.
    return [Gpu(gpu.id, gpu.name, _known(gpu.load), _known(gpu.memoryUtil)) for gpu in found]


def _known(value: float) -> float:
    return 0.0 if math.isnan(value) else value
