"""Which device each worker gets (an explicit wish is obeyed or refused, never ignored), and how many threads."""
import pytest
from bert_serving.server.core.placement import CPU, MAX_THREADS, Gpu, place, share_out
from bert_serving.server.errors import ConfigError


def gpu(number, load=0.0, memory=0.0):
    return Gpu(number, "a GPU", load, memory)


def test_without_gpus_on_the_cpu():
    placement = place(2, False, [], [])
    assert placement.devices == [CPU, CPU] and not placement.warning


def test_cpu_means_cpu():
    assert place(2, True, [], [gpu(0), gpu(1)]).devices == [CPU, CPU]


def test_gpus_with_the_most_free_memory_first():
    placement = place(2, False, [], [gpu(0, memory=0.5), gpu(1, memory=0.1), gpu(2, memory=0.3)])
    assert placement.devices == [1, 2] and not placement.warning


def test_fewer_gpus_than_workers_are_shared_with_a_warning():
    placement = place(5, False, [], [gpu(0), gpu(1, memory=0.2)])
    assert placement.devices == [0, 1, 0, 1, 0] and placement.warning


@pytest.mark.parametrize("busy", [gpu(0, load=0.9), gpu(0, memory=0.9), gpu(0, load=1.0, memory=1.0)])
def test_busy_gpus_do_not_count(busy):
    assert place(1, False, [], [busy, gpu(1, load=0.89, memory=0.89)]).devices == [1]
    placement = place(1, False, [], [busy])
    assert placement.devices == [CPU] and placement.warning and "-device_map" in placement.reason


@pytest.mark.parametrize("device_map, num_worker, devices", [
    ([1], 3, [1, 1, 1]),            # reused in turn
    ([1, 0], 3, [1, 0, 1]),
    ([2, 1, 0], 2, [2, 1]),         # cut
], ids=str)
def test_device_map_is_obeyed(device_map, num_worker, devices):
    placement = place(num_worker, False, device_map, [gpu(0), gpu(1), gpu(2)])
    assert placement.devices == devices and not placement.warning


def test_device_map_is_obeyed_even_when_the_gpu_is_busy():
    placement = place(1, False, [3], [gpu(3, load=1.0)])
    assert placement.devices == [3] and placement.warning and "3 is busy" in placement.reason


@pytest.mark.parametrize("there, found", [([], "no GPU"), ([gpu(0), gpu(1)], "GPU 0, 1")])
def test_device_map_of_what_is_not_there_is_refused(there, found):
    with pytest.raises(ConfigError, match=f"GPU 7 but found {found}"):
        place(1, False, [7], there)


# ---- how many workers, of how many threads ---------------------------------------------------------------------------

@pytest.mark.parametrize("cores, threads", [
    (1, [1]), (2, [2]), (4, [4]), (5, [3, 2]), (8, [4, 4]), (10, [4, 3, 3]), (64, [4] * 16)], ids=str)
def test_the_cores_decide(cores, threads):
    plan = share_out(cores, None, None)
    assert plan.threads == threads and not plan.warning
    assert sum(threads) == cores and max(threads) <= MAX_THREADS


@pytest.mark.parametrize("cores, num_worker, threads", [
    (8, 1, [8]), (8, 2, [4, 4]), (8, 3, [3, 3, 2]), (2, 2, [1, 1]), (3, 2, [2, 1])], ids=str)
def test_workers_share_the_cores(cores, num_worker, threads):
    plan = share_out(cores, num_worker, None)
    assert plan.threads == threads and not plan.warning and "-num_worker says" in plan.reason


@pytest.mark.parametrize("cores, num_threads, threads", [(8, 2, [2, 2, 2, 2]), (8, 3, [3, 3]), (2, 2, [2])], ids=str)
def test_threads_decide_how_many_workers(cores, num_threads, threads):
    plan = share_out(cores, None, num_threads)
    assert plan.threads == threads and not plan.warning and "-num_threads says" in plan.reason


@pytest.mark.parametrize("cores, num_worker, num_threads, threads", [
    (2, 3, None, [1, 1, 1]), (2, None, 3, [3]), (8, 3, 3, [3, 3, 3])], ids=str)
def test_more_threads_than_cores_are_warned_of(cores, num_worker, num_threads, threads):
    plan = share_out(cores, num_worker, num_threads)
    assert plan.threads == threads and plan.warning and "threads wait for one another" in plan.reason


@pytest.mark.parametrize("num_worker, num_threads, threads", [
    (None, None, [8]), (None, 2, [2]), (3, None, [3, 3, 2]), (9, 2, [2] * 9)], ids=str)
def test_where_cores_do_not_limit_there_is_one_worker_unless_told(num_worker, num_threads, threads):
    plan = share_out(8, num_worker, num_threads, by_cores=False)
    assert plan.threads == threads and not plan.warning


@pytest.mark.parametrize("arguments, reason", [
    ((2, None, None), "1 worker with 2 threads (2 cores may be used; 4 threads a worker at most)"),
    ((1, None, None), "1 worker with 1 thread (1 core may be used; 4 threads a worker at most)"),
    ((8, 3, None), "3 workers with 3, 3, 2 threads (as -num_worker says; 8 cores may be used)"),
    ((8, None, 2), "4 workers with 2 threads each (as -num_threads says; 8 cores may be used)"),
    ((2, 2, 2), "2 workers with 2 threads each (as -num_worker and -num_threads say; 2 cores may be used, so threads "
                "wait for one another)"),
], ids=str)
def test_what_was_decided_and_why(arguments, reason):
    assert share_out(*arguments).reason == reason
