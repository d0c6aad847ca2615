import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from bert_serving.server.bulk import encode_dataset
from bert_serving.server.bulk.asking import TICK_MS
from bert_serving.server.bulk.dataset import DatasetEncoder

from .conftest import vector

ADDRESS = {"ip": "10.0.0.7", "port": 1, "port_out": 2, "curve_dir": None}


def test_a_table_gets_a_column(client):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    given = {}
    encoder = DatasetEncoder(ADDRESS, "body", "v", 30.0, connect=lambda **address: given.update(address) or client)
    assert given["ip"] == "10.0.0.7" and given["timeout"] == 30_000 and client.timeout == TICK_MS
    texts = ["one", "two", "one", None, " ", "poison", "three"]
    table = encoder(arrow.table({"id": list(range(7)), "body": texts}))
    assert table.column_names == ["id", "body", "v"] and table.column("body").to_pylist() == texts
    for text, found in zip(texts, table.column("v").to_pylist()):
        if text in ("one", "two", "three"):
            np.testing.assert_array_equal(np.asarray(found, np.float32), vector(text))
        else:
            assert found is None
    assert client.asked[0].count("one") == 1, "once, whatever a refused neighbour costs"
    assert encoder(arrow.table({"id": [], "body": arrow.array([], arrow.string())})).num_rows == 0


def test_ray_is_told_what_to_make(monkeypatch):
    data = ModuleType("ray.data")
    data.ActorPoolStrategy = lambda size: f"{size} actors"
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(data=data))
    monkeypatch.setitem(sys.modules, "ray.data", data)
    asked = {}
    ds = SimpleNamespace(map_batches=lambda kind, **settings: asked.update(settings, kind=kind) or "dataset")
    assert encode_dataset(ds, "body", ip="10.0.0.7", port=1, port_out=2, concurrency=3, num_cpus=0.5) == "dataset"
    assert (asked["kind"], asked["compute"], asked["num_cpus"]) == (DatasetEncoder, "3 actors", 0.5)
    assert asked["fn_constructor_kwargs"] == {"address": ADDRESS, "column": "body", "output": "vector",
                                              "patience": 60.0}
