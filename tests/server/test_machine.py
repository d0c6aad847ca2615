"""What this machine has and allows, read from fake control groups and a fake nvidia-smi."""
import os
import select
import socket
import stat
import sys
import time

import pytest
from bert_serving.server import machine
from bert_serving.server.core.placement import Gpu


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def cgroup(tmp_path, **files):
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize("quota, cores", [
    ("max 100000\n", 8), ("200000 100000\n", 2), ("250000 100000\n", 3), ("50000 100000\n", 1), ("1600000 100000\n", 8),
    ("nonsense", 8), ("", 8), ("100000 0", 8)])
def test_quota_of_control_groups_version_2(tmp_path, quota, cores):
    assert machine.allowed_cores(cgroup(tmp_path, cpu_dot_max=quota)) == cores


@pytest.mark.parametrize("quota, period, cores", [
    ("-1", "100000", 8), ("300000\n", "100000\n", 3), ("150000", "100000", 2), ("1000", "100000", 1), ("x", "y", 8),
    ("100000", "0", 8)])
def test_quota_of_control_groups_version_1(tmp_path, quota, period, cores):
    path = cgroup(tmp_path, cpu__cpu_dot_cfs_quota_us=quota, cpu__cpu_dot_cfs_period_us=period)
    assert machine.allowed_cores(path) == cores


def test_without_control_groups_the_affinity_counts(tmp_path):
    assert machine.allowed_cores(tmp_path / "none") == 8


def test_where_there_is_no_affinity_all_cores_count(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert machine.allowed_cores(tmp_path) == 3


# ---- memory ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("files, limit", [
    ({"memory_dot_max": "1000000\n"}, 1000000), ({"memory_dot_max": "max\n"}, None), ({}, None),
    ({"memory__memory_dot_limit_in_bytes": "2000000\n"}, 2000000),
    ({"memory__memory_dot_limit_in_bytes": "9223372036854771712\n"}, None), ({"memory_dot_max": "nonsense"}, None)])
def test_memory_that_control_groups_allow(tmp_path, files, limit):
    (tmp_path / "meminfo").write_text("MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:   4000 kB\n")
    assert machine.allowed_memory(cgroup(tmp_path, **files), tmp_path / "meminfo") == (limit, 4096000)


@pytest.mark.parametrize("text", [None, "", "MemAvailable:", "MemAvailable: much"])
def test_memory_that_the_system_does_not_tell(tmp_path, text):
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    assert machine.allowed_memory(tmp_path, tmp_path / "meminfo") == (None, None)


# ---- ports -----------------------------------------------------------------------------------------------------------

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def process(proc, pid, name, *sockets):
    (proc / str(pid) / "fd").mkdir(parents=True)
    (proc / str(pid) / "comm").write_text(name + "\n")
    for number, inode in enumerate(sockets):
        (proc / str(pid) / "fd" / str(number)).symlink_to(f"socket:[{inode}]")


def connection(address, state, inode):
    return f"   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0\n"


def test_who_listens_on_a_port(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(HEADER + connection("0100007F:15B3", "01", 7)
                                      + connection("0100007F:15B3", "0A", 8))
    (tmp_path / "net/tcp6").write_text(HEADER + connection("0" * 32 + ":15B4", "0A", 9) + "nonsense\n")
    process(tmp_path, 40, "client", 7)
    process(tmp_path, 50, "bert-serving", 3, 8)
    process(tmp_path, 60, "other one", 9)
    (tmp_path / "70").mkdir()
    assert machine.holder(0x15B3, tmp_path) == (50, "bert-serving")
    assert machine.holder(0x15B4, tmp_path) == (60, "other one")
    assert machine.holder(80, tmp_path) is None


def test_a_port_of_a_process_that_cannot_be_seen(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(HEADER + connection("00000000:0050", "0A", 8))
    assert machine.holder(80, tmp_path) is None
    assert machine.holder(80, tmp_path / "none") is None


def test_this_process_is_found():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert machine.holder(listener.getsockname()[1])[0] == os.getpid()


# ---- GPUs ------------------------------------------------------------------------------------------------------------

@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put a program of that name on the PATH, which prints a text and exits with a code."""
    def put(text, code=0):
        (tmp_path / "answer").write_bytes(text.encode("latin-1"))
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat '{tmp_path}/answer'\nexit {code}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return put


def line(number, load="10", total="16000", used="4000", name="Tesla T4"):
    return f"{number}, GPU-0{number}, {load}, {total}, {used}, 12000, 470.1, {name}, 0324, Disabled, Disabled, 40\n"


def test_gpus_that_the_driver_names(nvidia_smi):
    nvidia_smi(line(0) + line(1, load="95", used="16000", name="A100"))
    assert machine.gpus() == [Gpu(0, "Tesla T4", 0.1, 0.25), Gpu(1, "A100", 0.95, 1.0)]


def test_what_the_driver_does_not_tell_counts_as_idle(nvidia_smi):
    nvidia_smi(line(0, load="[Not Supported]", used="[N/A]"))
    assert machine.gpus() == [Gpu(0, "Tesla T4", 0.0, 0.0)]


def test_without_the_program_there_are_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == []


@pytest.mark.parametrize("text, code", [
    ("", 0), ("No devices were found\n", 6),
    ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9), ("0, GPU-0\n", 0),
    ("a, b, c, d, e, f, g, h, i, j, k, l\n", 0), (line(0, total="0", used="0"), 0),
    ("\xff\xfe\n", 0),
], ids=lambda value: str(value)[:20])
def test_a_program_that_fails_or_talks_nonsense_means_none(nvidia_smi, text, code):
    nvidia_smi(text, code)
    assert machine.gpus() == []


def test_a_program_that_hangs_is_ended(nvidia_smi, tmp_path, caplog):
    nvidia_smi(line(0))
    fifo = tmp_path / "never"
    os.mkfifo(fifo)
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nexec 5>'{fifo}'; echo $$ >&5; exec sleep 1000\n")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    started = time.monotonic()
    assert machine.gpus(2) == []
    assert time.monotonic() - started < 30
    assert "nvidia-smi has not answered within 2 s: going on as if there were no GPU" in caplog.text
    assert os.read(reader, 100).strip().isdigit()
    assert select.select([reader], [], [], 10)[0] and os.read(reader, 100) == b"", "nobody has the other end any more"
    os.close(reader)


@pytest.fixture
def without_gputil(tmp_path, monkeypatch):
    """Where neither GPUtil nor setuptools can be imported."""
    for name in ("GPUtil", "setuptools"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


def test_where_no_gpu_can_be_there_nothing_reads_of_them(without_gputil, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == [] and not caplog.messages


def test_gpus_that_nothing_can_read_of_are_said_to_be_left_out(without_gputil, nvidia_smi, caplog):
    nvidia_smi(line(0))
    assert machine.gpus() == []
    assert "cannot be imported (no GPUtil here): going on as if there were no GPU; pip install GPUtil" in caplog.text


# ---- precisions ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("precision, flags, expected", [
    ("int8", "fma avx512f avx512_vnni", True), ("int8", "fma avx2", False), ("bf16", "avx512_bf16", True),
    ("bf16", "avx512f avx512_vnni", False), ("fp16", "f16c", False), ("fp32", "fma", True)])
def test_precisions_that_the_processor_speeds_up(tmp_path, precision, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    assert machine.speeds_up(precision, tmp_path / "cpuinfo") is expected


def test_a_processor_that_does_not_tell_is_trusted(tmp_path):
    assert machine.speeds_up("int8", tmp_path / "nothing")
