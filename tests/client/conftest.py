"""The client's tests share one fake server and one way to make a client that cannot hang."""
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder; fake_server.py is beside this file

from bert_serving.client import BertClient, link  # noqa: E402
from fake_server import Door, FakeServer  # noqa: E402

PATIENCE_MS = 20_000
"""For what must come: a broken client fails by this, a working one never waits so long."""


@pytest.fixture(autouse=True)
def quick_reconnection(monkeypatch):
    monkeypatch.setitem(link._OPTIONS, "reconnect_ivl", 5)


@pytest.fixture
def server():
    """A server like ours."""
    with FakeServer() as server:
        yield server


@pytest.fixture
def guarded():
    """A server like ours that lets in one client only, by its key: ``guarded.door.keys``."""
    with FakeServer(door=Door()) as server:
        yield server


@pytest.fixture
def connect():
    """Makes clients, and closes them at the end."""
    clients = []

    def connect(server, timeout=PATIENCE_MS, **options):
        clients.append(BertClient(**server.address, timeout=timeout, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()
