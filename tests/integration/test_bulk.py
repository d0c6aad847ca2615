"""``bert-serving-encode`` with real servers."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bert_serving.server.bulk.command import main, run
from bert_serving.server.bulk.options import parse

from .conftest import eventually

LINES = [f"sentence {number % 700} of a file" for number in range(1500)]


def address(server) -> list[str]:
    return ["-ip", "127.0.0.1", "-port", str(server.port), "-port_out", str(server.port_out)]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("\n".join(LINES))
    return path


def test_a_file_gets_the_vectors_that_its_texts_have(echo_server, source, capsys):
    output = source.with_suffix(".npy")
    assert main([str(source), str(output), *address(echo_server)]) == 0
    with echo_server.client() as client:
        np.testing.assert_array_equal(np.load(output), client.encode(LINES))
    assert "1500 rows, 700 different texts, no rejects" in capsys.readouterr().err


def test_workers_of_its_own_make_the_same_and_leave_nothing(echo_server, source):
    """As a user would: a process, standard input, and a format that is made at the end."""
    done = subprocess.run(
        [sys.executable, "-m", "bert_serving.server.bulk.command", "-", "own.jsonl", "-own", "-engine", "echo",
         "-num_worker", "2"], cwd=source.parent, input=source.read_text(), capture_output=True, text=True, timeout=50)
    assert done.returncode == 0 and not done.stdout, done.stderr
    assert done.stderr.startswith("own.jsonl: 1500 rows"), done.stderr
    with echo_server.client() as client:
        expected = client.encode(LINES)
    found = [json.loads(line)["vector"] for line in source.with_name("own.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal(np.asarray(found, np.float32), expected)
    assert sorted(path.name for path in source.parent.iterdir()) == ["in.txt", "own.jsonl", "own.jsonl.job.json"]


def test_a_server_with_a_short_queue_is_not_pressed_and_one_that_comes_back_is_gone_on_with(serve_echo, source):
    source.write_text("\n".join(f"__sleep_1__ {line}" for line in LINES))
    output = source.with_suffix(".npy")
    options = ["-max_queue_size", "300", "-max_batch_size", "64"]
    server = serve_echo(*options)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(run, parse([str(source), str(output), *address(server)], {}))
        with server.client() as client:
            assert eventually(lambda: client.server_status["counts"]["refused"] > 1)  # too large, or overloaded
        server.process.kill()
        server.process.wait(10)
        assert not job.done()
        server = serve_echo(*options, "-port", str(server.port), "-port_out", str(server.port_out))
        assert job.result(40).counts == {"rows": 1500, "texts": 700, "rejects": 0}
    rows = [0, 699, 1499]
    with server.client() as client:
        expected = client.encode([f"__sleep_1__ {LINES[row]}" for row in rows])
    np.testing.assert_array_equal(np.load(output)[rows], expected)


RAY = """
import numpy as np
import ray
from bert_serving.client import BertClient
from bert_serving.server.bulk import encode_dataset

ports = {"port": %d, "port_out": %d}
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
items = [{"id": number, "text": f"text {number %% 50}"} for number in range(300)]
ds = ray.data.from_items(items, override_num_blocks=3)
rows = encode_dataset(ds, "text", **ports, concurrency=2).take_all()
ray.shutdown()
assert sorted(row["id"] for row in rows) == list(range(300))
with BertClient(**ports) as client:
    np.testing.assert_array_equal([row["vector"] for row in rows], client.encode([row["text"] for row in rows]))
"""


@pytest.mark.skipif(not os.environ.get("BERT_SERVING_TEST_RAY"),
                    reason="BERT_SERVING_TEST_RAY is not set; Ray takes its time to start")
@pytest.mark.timeout(200)
def test_a_dataset_of_rays_gets_its_vectors(echo_server):
    pytest.importorskip("ray.data", reason="Ray is not installed")
    done = subprocess.run([sys.executable, "-c", RAY % (echo_server.port, echo_server.port_out)], capture_output=True,
                          text=True, timeout=180)
    assert done.returncode == 0, done.stderr
