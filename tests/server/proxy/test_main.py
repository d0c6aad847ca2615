"""The HTTP proxy as a process: what it says, how it ends. No server is needed: its clients connect to silence."""
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

SETTINGS = {"port": 1, "port_out": 2, "http_port": 0, "max_connect": 1, "drain_timeout": 5}


@pytest.fixture
def start():
    """Starts proxies, given a line of settings; what still runs at the end is killed."""
    started = []

    def start(line, *interpreter_options):
        process = subprocess.Popen([sys.executable, *interpreter_options, "-m", "bert_serving.server.proxy"],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   start_new_session=True)
        started.append(process)
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return process

    yield start
    for process in started:
        with process:  # closes its pipes and waits
            process.kill()


def ready(process):
    message = json.loads(process.stdout.readline())
    assert message == {"ready": True, "http_port": message["http_port"]}, message
    with urllib.request.urlopen(f"http://127.0.0.1:{message['http_port']}/status/client", timeout=20) as response:
        assert json.load(response)["status"] == 200
    return message["http_port"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(start, number):
    process = start(json.dumps(SETTINGS))
    port = ready(process)
    process.send_signal(number)
    assert process.wait(20) == 0
    assert process.stdout.read() == ""
    assert "Traceback" not in process.stderr.read()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


def test_the_end_of_its_standard_input_ends_it(start):
    process = start(json.dumps(SETTINGS))
    ready(process)
    process.stdin.close()
    assert process.wait(20) == 0


def test_a_second_signal_ends_it_at_once(start):
    """A request that nobody answers would keep it for its whole drain_timeout."""
    process = start(json.dumps({**SETTINGS, "drain_timeout": 1000}))
    port = ready(process)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/encode", '{"id": 1, "texts": ["a"]}', {"Content-Type": "application/json"})
    while not busy(port):
        pass
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    connection.close()


def busy(port):
    """Whether the only pooled client is encoding: a status request is refused then."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/status/client", timeout=20).close()
    except urllib.error.HTTPError as error:
        with error:
            assert error.code == 429
        return True
    return False


def test_a_port_in_use(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(json.dumps({**SETTINGS, "http_port": port}))
        assert process.wait(20) == 4
    error = json.loads(process.stdout.read())["error"]
    assert error["name"] == "PortError"
    assert error["message"].startswith(f"-http_port {port} cannot be bound on 127.0.0.1 (Address already in use)")


def test_settings_that_cannot_be_read(start):
    process = start("no json")
    assert process.wait(20) == 2
    assert json.loads(process.stdout.read())["error"]["name"] == "ConfigError"


def test_without_flask(start, tmp_path, monkeypatch):
    (tmp_path / "flask.py").write_text("raise ImportError('No module named flask', name='flask')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    process = start(json.dumps(SETTINGS))
    assert process.wait(20) == 1
    message = json.loads(process.stdout.read())
    assert message == {"error": {"name": "StartError", "message": "-http_port needs the package flask; install it with: "
                                 'pip install "bert-serving-server[http]"'}}
