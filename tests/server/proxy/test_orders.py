"""What the proxy is told: what of it are options is declared in ServerConfig alone."""
import subprocess
import sys
from dataclasses import MISSING, fields

from bert_serving.server.config import ServerConfig
from bert_serving.server.orders import pick
from bert_serving.server.proxy.orders import HttpOptions

from .conftest import told


def test_its_options_are_those_of_the_server():
    """By name and type; what they are by default, only ServerConfig says."""
    declared = {f.name: f.type for f in fields(ServerConfig)}
    for f in fields(HttpOptions):
        assert (f.type, f.default) == (declared[f.name], MISSING)


def test_its_options_are_as_the_user_gave_them():
    config = ServerConfig(engine="echo", http_port=0, cors="http://a.example", http_max_connect=3)
    options = pick(HttpOptions, config)
    assert (options.cors, options.http_max_connect, options.max_message_mb) == ("http://a.example", 3, 64.0)


def test_secrets_are_not_shown():
    assert "a secret key" not in repr(told(api_keys=("a secret key",)))


def test_to_give_orders_takes_no_library_of_the_proxy():
    code = ("import sys; from bert_serving.server import service; "
            "print(sorted({'flask', 'waitress', 'ray'} & sys.modules.keys()))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=55).stdout == "[]\n"
