"""The doors by which code written for 1.x imports: each leads to the thing itself."""
import importlib

import pytest
from bert_serving.server import config, service


@pytest.mark.parametrize("module, name, thing", [
    ("bert_serving.server", "BertServer", service.BertServer),
    ("bert_serving.server", "get_args_parser", config.get_args_parser),
    ("bert_serving.server.helper", "get_args_parser", config.get_args_parser),
    ("bert_serving.server.graph", "PoolingStrategy", config.PoolingStrategy),
])
def test_door(module, name, thing):
    assert getattr(importlib.import_module(module), name) is thing


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'BertClient'"):
        importlib.import_module("bert_serving.server").BertClient
