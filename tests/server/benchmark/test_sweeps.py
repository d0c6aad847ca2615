"""The points of each sweep."""
import pytest
from bert_serving.server.benchmark.sweeps import SWEEPS, Setting, settings
from bert_serving.server.config import ServerConfig

USUAL = Setting(num_client=3, size=256, num_words=25)


def test_the_sweeps_are_the_originals():
    assert {name: sweep.values for name, sweep in SWEEPS.items()} == {
        "max_seq_len": (32, 64, 128, 256), "client_batch_size": (1, 16, 256, 4096), "num_client": (1, 4, 16, 64),
        "max_batch_size": (8, 32, 128, 512), "pooling_layer": tuple(range(-1, -13, -1)), "num_worker": (1, 2, 4)}


@pytest.mark.parametrize("name, values, expected", [
    ("max_seq_len", [9, 20], [Setting(9, {"max_seq_len": 9}, 3, 256, 9), Setting(20, {"max_seq_len": 20}, 3, 256, 20)]),
    ("client_batch_size", [1, 8], [Setting(1, {}, 3, 1, 25), Setting(8, {}, 3, 8, 25)]),
    ("num_client", [1, 8], [Setting(1, {}, 1, 256, 25), Setting(8, {}, 8, 256, 25)]),
    ("max_batch_size", [8, 512], [Setting(8, {"max_batch_size": 8}, 3, 512, 25),
                                  Setting(512, {"max_batch_size": 512}, 3, 512, 25)]),
    ("pooling_layer", [-1], [Setting(-1, {"pooling_layer": [-1]}, 3, 256, 25)]),
    ("num_worker", [1, 4], [Setting(1, {"num_worker": 1}, 8, 256, 25), Setting(4, {"num_worker": 4}, 8, 256, 25)]),
], ids=lambda value: value if isinstance(value, str) else "")
def test_settings(name, values, expected):
    assert settings(name, values, USUAL) == expected


@pytest.mark.parametrize("name", SWEEPS)
def test_only_the_servers_options_need_a_server_of_ones_own(name):
    changed = {key for setting in settings(name, [7], USUAL) for key in setting.server}
    assert changed == ({name} if SWEEPS[name].of_server else set())
    assert changed <= set(ServerConfig.__dataclass_fields__)
