"""Which device each worker gets, and how many threads."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bert_serving.client.words import counted, every

from ..errors import ConfigError

CPU = -1
MAX_LOAD = 0.9
"""A GPU counts as available while its load and its memory are used less than this."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """What the driver says of one GPU; load and memory as fractions of 1."""

    id: int
    name: str
    load: float
    memory: float


@dataclass(frozen=True, slots=True)
class Placement:
    """A device for each worker.

    Attributes:
        devices: GPU id for each worker, CPU for none.
        reason: what was decided and why, one line for the log.
        warning: whether the user should look at that line.
        explicit: the user asked for these very devices, so that no other will do.
    """

    devices: list[int]
    reason: str
    warning: bool = False
    explicit: bool = False


def place(num_worker: int, cpu: bool, device_map: Sequence[int], gpus: Sequence[Gpu]) -> Placement:
    """Devices for ``num_worker`` workers.

    Args:
        cpu: the user wants the CPU.
        device_map: GPU ids the user wants, used in turn; empty: no wish.
        gpus: what there is.
    Raises:
        ConfigError: ``device_map`` names a GPU that is not there.
    """
    if device_map:
        there = [gpu.id for gpu in gpus]
        missing = [str(device) for device in device_map if device not in there]
        if missing:
            found = f"found GPU {', '.join(map(str, there))}" if there else "found no GPU (is nvidia-smi on the PATH?)"
            raise ConfigError(f"-device_map asks for GPU {', '.join(missing)} but {found}")
        busy = [gpu.id for gpu in gpus if gpu.id in device_map and not _is_available(gpu)]
        return Placement(_in_turn(device_map, num_worker), "as -device_map says" + (
            f", though GPU {', '.join(map(str, busy))} is busy" if busy else ""), bool(busy), explicit=True)
    if cpu:
        return Placement([CPU] * num_worker, "as -cpu says")
    if not gpus:
        return Placement([CPU] * num_worker, "no GPU was found")
    available = [gpu.id for gpu in sorted(gpus, key=lambda gpu: gpu.memory) if _is_available(gpu)][:num_worker]
    if not available:
        return Placement([CPU] * num_worker, f"busy (load or memory above {MAX_LOAD:.0%}): "
                         f"{every(len(gpus), 'GPU')}; -device_map uses a busy one all the same", True)
    if len(available) < num_worker:
        return Placement(_in_turn(available, num_worker),
                         f"{counted(num_worker, 'worker')} share {counted(len(available), 'available GPU')}", True)
    return Placement(available, "the available GPUs with the most free memory")


def _is_available(gpu: Gpu) -> bool:
    return gpu.load < MAX_LOAD and gpu.memory < MAX_LOAD


def _in_turn(devices: Sequence[int], count: int) -> list[int]:
    return [devices[index % len(devices)] for index in range(count)]


# ---- how many workers, of how many threads ---------------------------------------------------------------------------

MAX_THREADS = 4
"""Threads that a worker gets where nobody says how many: see docs/performance.md, "Workers and threads"."""


@dataclass(frozen=True, slots=True)
class CorePlan:
    """How the workers share the cores.

    Attributes:
        threads: for each worker, how many it computes with.
        reason: what was decided and why, one line for the log.
        warning: whether the user should look at that line.
    """

    threads: list[int]
    reason: str
    warning: bool = False


def share_out(cores: int, num_worker: int | None, num_threads: int | None, by_cores: bool = True) -> CorePlan:
    """Workers and threads for so many cores; what is None is decided here.

    Args:
        by_cores: whether it is cores that limit how fast workers are, not a GPU.
    """
    allowed = f"{cores} {'core' if cores == 1 else 'cores'} may be used"
    if num_worker is not None and num_threads is not None:
        threads = [num_threads] * num_worker
        why = f"as -num_worker and -num_threads say; {allowed}"
    elif num_worker is not None:
        threads = _even(cores, num_worker)
        why = f"as -num_worker says; {allowed}"
    elif not by_cores:
        threads = [num_threads or cores]
        why = f"the cores are not what limits it; {allowed}"
    elif num_threads is not None:
        threads = [num_threads] * max(1, cores // num_threads)
        why = f"as -num_threads says; {allowed}"
    else:
        threads = _even(cores, -(-cores // MAX_THREADS))
        why = f"{allowed}; {MAX_THREADS} threads a worker at most"
    wait = by_cores and sum(threads) > cores
    if wait:
        why += ", so threads wait for one another"
    return CorePlan(threads, f"{_count(threads)} ({why})", wait)


def _even(cores: int, num_worker: int) -> list[int]:
    """Each worker's part of the cores: none gets two more than another, and none gets none."""
    return [max(1, cores // num_worker + (slot < cores % num_worker)) for slot in range(num_worker)]


def _count(threads: Sequence[int]) -> str:
    """``3 workers with 3, 3, 2 threads``."""
    each = ", ".join(map(str, threads)) if len(set(threads)) > 1 else str(threads[0])
    return (f"{len(threads)} {'worker' if len(threads) == 1 else 'workers'} with {each} "
            f"{'thread' if each == '1' else 'threads'}{' each' if len(set(threads)) == 1 < len(threads) else ''}")
