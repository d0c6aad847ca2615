"""Who may import whom. These two tables are the architecture; docs/architecture.md explains them."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {package: ROOT / package / "bert_serving" for package in ("client", "server")}
TOOLS = ROOT / "tools"

# Room -> the rooms it may import from, beside itself. "client.x" is bert_serving.client.x and all that is below it; a
# module belongs to the longest room that it is in, and an import may reach whatever is in one of the named rooms.
ROOMS = {
    "client.errors": [],
    "client.words": [],
    "client.hosts": ["client.words"],
    "client.pairs": [],
    "client.options": ["client.errors", "client.words"],
    "client.protocol": ["client.options", "client.pairs", "client.errors", "client.words"],
    "client.curve": ["client.errors"],
    "client.exchange": ["client.protocol", "client.errors", "client.words"],
    "client.dispatch": [],
    "client": ["client"],
    "server.errors": ["client.errors"],
    "server.log": [],
    "server.orders": ["server.errors", "client.words"],
    "server.process": ["server.orders"],
    "server.api_keys": ["server.errors", "client.words"],
    "server.precision": [],
    "server.golden": ["server.precision", "client.pairs"],
    "server.config": ["server.errors", "server.precision", "client.hosts"],
    "server.keys": ["server.errors", "client.curve"],
    "server.core": ["server.golden", "server.precision", "server.errors", "server.orders", "client.protocol",
                    "client.options", "client.pairs", "client.errors", "client.words"],
    "server.machine": ["server.precision", "server.core", "server.orders", "server.process"],
    "server.engine": ["server.core", "server.config", "server.golden", "server.precision", "server.errors",
                      "server.log", "server.orders", "server.process", "client.pairs", "client.words"],
    "server.stages": ["server.engine", "server.core", "server.config", "server.errors", "server.log", "server.orders",
                      "server.process", "server.keys", "client.link", "client.protocol", "client.pairs",
                      "client.errors", "client.words"],
    "server.launchers": ["server.errors", "server.log", "server.orders", "server.process", "client.curve",
                         "client.words"],
    "server.proxy": ["client", "server.core.tokenization", "server.core.tokenizer_json",
                     "server.core.tokenizer_settings", "server.golden", "server.precision", "server.errors",
                     "server.api_keys", "server.log", "server.orders", "server.process"],
    "server.bulk": ["server.golden", "client", "server.service", "server.config", "server.errors", "server.log",
                    "server.process"],
    "server.doctor": ["client", "server.precision", "server.service", "server.local_workers", "server.stages",
                      "server.engine", "server.core", "server.launchers",
                      "server.proxy", "server.machine", "server.keys", "server.api_keys", "server.config",
                      "server.errors", "server.process"],
    "server.benchmark": ["client", "server.service", "server.stages", "server.core", "server.machine", "server.config",
                         "server.errors", "server.log", "server.orders", "server.process"],
    "server": ["server", "client"],
    "tools.peers": ["server.benchmark", "server.engine", "server.core", "server.machine", "server.process",
                    "server.config", "server.errors", "client"],
}

# A library that is heavy, optional or particular -> the only rooms that may import it, inside functions too.
GUESTS = {
    "zmq": ["client.link", "client.client", "client.aio", "client.pool", "server.stages", "server.service",
            "server.local_workers", "server.join", "server.keys", "server.doctor"],
    "packaging": ["server.doctor"],
    "tensorflow": ["server.engine", "tools.peers"],
    "ai_edge_litert": ["server.engine", "tools.peers"],
    "safetensors": ["server.engine"],
    "huggingface_hub": ["server.engine"],
    "tokenizers": ["server.core"],
    "flask": ["server.proxy"],
    "flask_cors": ["server.proxy"],
    "flask_compress": ["server.proxy"],
    "flask_json": ["server.proxy"],
    "werkzeug": ["server.proxy"],
    "waitress": ["server.proxy"],
    "orjson": ["server.proxy"],
    "prometheus_client": ["server.proxy"],
    "ray": ["server.launchers", "server.bulk"],
    "pyarrow": ["server.bulk"],
    "tqdm": ["server.bulk"],
    "matplotlib": ["server.benchmark"],
    "GPUtil": ["server.machine"],
    "termcolor": ["server.log"],
    **dict.fromkeys(("onnx", "onnxruntime"), ["server.engine", "tools.peers"]),
    **dict.fromkeys(("torch", "transformers", "sentence_transformers", "openvino", "nncf", "ctranslate2"),
                    ["tools.peers"]),
}


def module_name(path):
    """``client.protocol`` for .../client/bert_serving/client/protocol.py, ``tools.peers.host`` for tools/peers/host.py;
    a package is named like its folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts[0 if TOOLS in path.parents else 2:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {path: module_name(path) for folder in [*PACKAGES.values(), TOOLS]
         for path in sorted(folder.rglob("*.py")) if path.parent != TOOLS}
MODULES = set(FILES.values())


def within(module, rooms):
    return any(module == room or module.startswith(room + ".") for room in rooms)


def room_of(module):
    return max((room for room in ROOMS if within(module, [room])), key=len)


def imports(source, module, is_package=False):
    """Absolute names of what ``source`` imports anywhere; ours are named by module, without ``bert_serving``."""
    whole = module if module.startswith("tools.") else f"bert_serving.{module}"
    package = whole.split(".")[: None if is_package else -1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join(base + ([node.module] if node.module else []))
            inner = {alias.name: f"{stem}.{alias.name}" for alias in node.names}
            names = [name if name.removeprefix("bert_serving.") in MODULES else stem for name in inner.values()]
        else:
            continue
        yield from (name.removeprefix("bert_serving.") for name in names)


def complaints(source, module, is_package=False):
    room = room_of(module)
    for name in imports(source, module, is_package):
        if name in ("client", "server") and module.startswith(name):
            continue  # the package's own version; its __init__ imports nothing on its own
        if name.split(".")[0] in ("client", "server", "tools") and not within(name, [room, *ROOMS[room]]):
            yield f"{module} is in room {room} and imports {name}"
        guest = name.split(".")[0]
        if guest in GUESTS and not within(module, GUESTS[guest]):
            yield f"{module} imports {guest}, which only {', '.join(GUESTS[guest])} may"


@pytest.mark.parametrize("path", FILES, ids=FILES.get)
def test_imports_point_the_allowed_way(path):
    assert not list(complaints(path.read_text(encoding="utf-8"), FILES[path], path.name == "__init__.py"))


@pytest.mark.parametrize("module, source", [
    ("client.protocol", "import zmq"),
    ("client.protocol", "from .client import BertClient"),
    ("client.client", "from bert_serving.server import config"),
    ("server.core.sink", "def f():\n    import zmq"),
    ("server.core.sink", "from ..config import ServerConfig"),
    ("server.core.sink", "from .. import config"),
    ("server.stages.worker", "def f():\n    import tensorflow as tf"),
    ("server.stages.worker", "from bert_serving.client.client import BertClient"),
    ("server.cli", "from flask.json import loads"),
    ("server.proxy.app", "from ..config import ServerConfig"),
    ("server.config", "from bert_serving.server.core import messages"),
    ("server.benchmark.command", "from tools.peers import catalogue"),
    ("server.service", "import tools.peers.driver"),
    ("tools.peers.driver", "from bert_serving.server.service import Service"),
])
def test_the_rules_bite(module, source):
    assert list(complaints(source, module))


@pytest.mark.parametrize("module, source", [
    ("client.client", "import zmq\nfrom . import protocol"),
    ("server.core.sink", "from bert_serving.client.errors import RequestError\nfrom .messages import Job"),
    ("server.config", "from . import __version__"),
    ("server.engine.backends.graph", "def f():\n    import tensorflow as tf"),
])
def test_the_rules_allow(module, source):
    assert not list(complaints(source, module))


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_room_is_in_the_tables_for_people(page):
    """By the name of its folder or file; the page on architecture leaves out the server's single files."""
    text = (ROOT / page).read_text(encoding="utf-8")
    single = {"server.config", "server.errors", "server.log", "server.orders", "server.process", "server.machine",
              "server.api_keys", "server.precision", "server.golden"}
    for room in set(ROOMS) - {"client", "server"} - (single if page.startswith("docs") else set()):
        package, name = room.split(".", 1)
        assert f"/{name.replace('.', '/')}/`" in text or f"{name}.py`" in text, f"{page} has no row for {room}"


@pytest.mark.parametrize("package", PACKAGES)
def test_bert_serving_is_a_namespace(package):
    """Two pip packages share the name; an ``__init__.py`` in one would hide the other (PEP 420)."""
    assert not (PACKAGES[package] / "__init__.py").exists()
    assert (PACKAGES[package] / package / "__init__.py").exists()
