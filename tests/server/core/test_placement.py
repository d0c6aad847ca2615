"""Which device each worker gets (CONTRACT 5.7, with an explicit wish obeyed or refused, never ignored)."""
import pytest
from bert_serving.server.core.placement import CPU, Gpu, place, threads_per_worker
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


@pytest.mark.parametrize("cores, num_worker, threads", [(8, 1, 8), (8, 2, 4), (8, 3, 2), (1, 4, 1)])
def test_threads_share_the_cores(cores, num_worker, threads):
    assert threads_per_worker(cores, num_worker) == threads
