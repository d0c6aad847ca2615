"""What the documentation says is so: its blocks run, its links lead somewhere, its references are complete."""
import json
import re
import runpy
import shlex
import shutil
import subprocess
from dataclasses import fields
from functools import partial
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import urlopen

import bert_serving.client
import numpy as np
import pytest
from bert_serving.client.errors import BY_CODE
from bert_serving.server import errors as start_errors
from bert_serving.server.benchmark.options import get_parser as benchmark_parser, parse as parse_benchmark
from tools.peers.__main__ import get_parser as peers_parser
from tools.peers.catalogue import PEERS, SERVERS
from tools.peers.workloads import KINDS
from bert_serving.server.bulk.options import get_parser as bulk_parser, parse as parse_bulk
from bert_serving.server.cli import keygen, terminate
from bert_serving.server.config import ServerConfig, get_args_parser
from bert_serving.server.engine.command import main as model_command
from bert_serving.server.join import get_worker_parser
from bert_serving.server.proxy.pages import OPENAPI

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name(path):
    return path.relative_to(ROOT).as_posix()


def blocks(language):
    return [pytest.param(text, id=f"{name(page)}:{number}") for page in PAGES
            for number, (kind, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))) if kind == language]


def commands():
    """Every command of every bash block, its continued lines joined."""
    return [pytest.param(line, id=line[:60]) for block in blocks("bash")
            for line in block.values[0].replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


# ---- blocks ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("source", blocks("python"))
def test_python_block_runs(source, echo_server, monkeypatch):
    """With the echo server in place of the one on the default ports; every client it makes is used and closed."""
    clients = []

    def connect(kind, **kwargs):
        clients.append(kind(**{**kwargs, "ip": "127.0.0.1", "port": echo_server.port, "port_out": echo_server.port_out,
                               "timeout": 20_000}))
        return clients[-1]

    for kind in ("BertClient", "ConcurrentBertClient"):
        monkeypatch.setattr(bert_serving.client, kind, partial(connect, getattr(bert_serving.client, kind)))
    monkeypatch.setattr(bert_serving.client, "AsyncBertClient", partial(
        bert_serving.client.AsyncBertClient, port=echo_server.port, port_out=echo_server.port_out, timeout=20_000))
    exec(compile(source, "block", "exec"), {})
    for client in clients:
        assert isinstance(client.encode(["still works"]), np.ndarray)
        client.close()


@pytest.mark.parametrize("command", commands())
def test_command_is_true(command, request):
    words = shlex.split(command)
    CHECKS[words[0]](words, command, request)


def check_make(words, command, request):
    """The targets exist; what they do is what continuous integration runs."""
    done = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr


def check_pip(words, command, request):
    """One of our two packages, with an extra that it has, or what the examples' requirements name."""
    assert words[1] == "install"
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for word in words[2:]:
        if f"\n{word}>=" in requirements:
            continue
        folder, _, extras = word.rstrip("]").partition("[")
        folder = folder.removeprefix("bert-serving-")
        assert (ROOT / folder / "pyproject.toml").is_file()
        project = (ROOT / folder / "pyproject.toml").read_text(encoding="utf-8")
        for extra in filter(None, extras.split(",")):
            assert f"\n{extra} = [" in project


def check_activate(words, command, request):
    """Of the environment that the Makefile makes."""
    assert words[1:] == [".venv/bin/activate"]
    assert re.search(r"^VENV\s*[:?]?=\s*\.venv$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def check_printf(words, command, request):
    """It writes the file that it names, which a command after it reads."""
    directory = request.getfixturevalue("tmp_path")
    subprocess.run(["sh", "-c", command], cwd=directory, check=True, timeout=20)
    assert words[-2] == ">" and (directory / words[-1]).read_text(encoding="utf-8").endswith("\n")


def check_start(words, command, request):
    ServerConfig.from_args(get_args_parser({}).parse_args(words[1:]))


def check_benchmark(words, command, request):
    parse_benchmark(words[1:], {})


def check_encode(words, command, request):
    parse_bulk(words[1:], {})


def check_model(words, command, request):
    """The subcommand exists and takes these arguments; nothing is fetched."""
    with pytest.raises(SystemExit) as end:
        model_command([*words[1:], "-h"])
    assert end.value.code == 0


def check_curl(words, command, request):
    """It runs, against the echo server, and is answered with 200."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    server = request.getfixturevalue("echo_server")
    url = next(word for word in words if word.startswith("http"))
    assert urlparse(url).port == 8125
    there = command.replace("localhost:8125", f"127.0.0.1:{server.http_port}")
    done = subprocess.run([*shlex.split(there), "--silent", "--fail"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    if urlparse(url).path in ("/encode", "/status/server", "/status/client"):
        assert '"status":200' in done.stdout


def check_docker(words, command, request):
    """There is no docker in tests: the files it names exist, and the server knows the options it passes on."""
    if words[1] in ("build", "compose"):
        files = [word for before, word in zip(words, words[1:]) if before == "-f"]
        assert files and all((ROOT / file).is_file() for file in files)
    else:
        assert words[1] == "run"
        check_start(words[words.index("bert-as-service"):], command, request)


def check_kubectl(words, command, request):
    """There is no cluster in tests: the files it names exist, and so does what it looks at or scales."""
    for option, value in zip(words, words[1:]):
        if option == "-f":
            assert (ROOT / value).is_file()
    manifests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docker/kubernetes").glob("*.yaml"))
    if words[1] == "create":  # of what, and with which files, is in test_kubernetes.py
        assert words[2:4] == ["secret", "generic"] and f": {words[4]}\n" in manifests
    elif words[1] in ("rollout", "scale"):
        assert f"  name: {words[3].rpartition('/')[2]}\n" in manifests
    else:
        assert words[1] == "apply"


def check_example(words, command, request):
    """The example is there, which test_examples.py runs, and has these options."""
    assert (ROOT / words[1]).is_file()
    program = (ROOT / words[1]).read_text(encoding="utf-8")
    for word in words[2:]:
        assert not word.startswith("-") or f'"{word}"' in program


def check_keygen(words, command, request):
    directory = request.getfixturevalue("tmp_path")
    assert keygen([str(directory / words[1]), *words[2:]]) == 0


def check_worker(words, command, request):
    get_worker_parser().parse_args(words[1:])


def check_terminate(words, command, request):
    """It takes these arguments; nobody is told to stop."""
    from bert_serving.server.service import BertServer
    request.getfixturevalue("monkeypatch").setattr(BertServer, "shutdown", lambda args: None)
    assert terminate(words[1:]) == 0


def check_ssh(words, command, request):
    """A tunnel to the default ports."""
    forwarded = {word.split(":")[-1] for before, word in zip(words, words[1:]) if before == "-L"}
    options = get_args_parser({}).parse_args([])
    assert forwarded == {str(options.port), str(options.port_out)}


CHECKS = {".": check_activate, "printf": check_printf, "make": check_make, "pip": check_pip,
          "bert-serving-start": check_start,
          "bert-serving-doctor": check_start,
          "bert-serving-benchmark": check_benchmark, "bert-serving-encode": check_encode,
          "bert-serving-keygen": check_keygen, "bert-serving-worker": check_worker, "ssh": check_ssh,
          "bert-serving-terminate": check_terminate, "bert-serving-model": check_model, "curl": check_curl,
          "docker": check_docker, "kubectl": check_kubectl, "python": check_example, "node": check_example,
          "sh": check_example}


@pytest.mark.parametrize("command", ["make no-such-target", "pip install './server[no-such-extra]'",
                                     "bert-serving-start -no_such_option", "bert-serving-model steal",
                                     "bert-serving-benchmark -tests nothing", "bert-serving-encode in.txt",
                                     "bert-serving-keygen keys ../alice", "bert-serving-worker -connect nowhere",
                                     "bert-serving-terminate -por",
                                     "ssh -N -L 5555:localhost:1 10.0.0.7",
                                     "docker build -f docker/Nothing .",
                                     "kubectl apply -f docker/kubernetes/no.yaml",
                                     "kubectl rollout status statefulset/nothing", "pip install no-such-package",
                                     "python example/nothing.py", "python example/encode.py -no_such_option"])
def test_the_checks_bite(command, request, capsys):
    with pytest.raises((AssertionError, SystemExit)):
        words = shlex.split(command)
        CHECKS[words[0]](words, command, request)


# ---- links -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not urlparse(target).scheme:
            assert (page.parent / target).exists(), f"{name(page)} links to {target}"


def test_every_page_can_be_reached_from_the_index():
    docs = ROOT / "docs"
    seen, waiting = set(), [docs / "index.md"]
    while waiting:
        page = waiting.pop()
        if page not in seen:
            seen.add(page)
            waiting += [(page.parent / target).resolve() for target
                        in re.findall(r"\]\((?!https?:)([^)#\s]+\.md)", page.read_text(encoding="utf-8"))]
    # The place of a page from elsewhere in the site (see docs/conf.py) is reached with that page.
    places = {docs / f"{name}.md" for file, name in runpy.run_path(str(docs / "conf.py"))["guests"]().items()
              if file in seen}
    assert {page for page in docs.rglob("*.md")} <= seen | places


# ---- references ------------------------------------------------------------------------------------------------------

def reference(page):
    return (ROOT / "docs/reference" / page).read_text(encoding="utf-8")


def test_the_options_page_is_current():
    page = runpy.run_path(str(ROOT / "docs/options.py"))["page"]()
    assert reference("options.md") == page, "run `make docs-options`"


def test_the_page_of_models_is_current():
    page = runpy.run_path(str(ROOT / "docs/models.py"))["page"]()
    assert (ROOT / "docs/models.md").read_text(encoding="utf-8") == page, "run `make docs-models`"


@pytest.mark.parametrize("field", fields(ServerConfig), ids=lambda field: field.name)
def test_every_option_is_in_the_reference(field):
    for flag in field.metadata.get("flags", [field.name]):
        assert f"| `-{flag}`" in reference("options.md")


def test_every_command_and_extra_is_on_the_page_for_installing():
    project = (ROOT / "server/pyproject.toml").read_text(encoding="utf-8")
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    names = re.findall(r"^(bert-serving-\w+) =", project, re.MULTILINE)
    names += [f"server[{extra}]" for extra in re.findall(r"^([\w-]+) = \[", extras, re.MULTILINE)
              if extra not in ("tf", "tf-gpu")]  # what the original called cpu and gpu
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    assert len(names) >= 10 and not [name for name in names if f"| `{name}`" not in page]


def test_every_option_of_the_benchmark_is_on_its_page():
    ours = set(benchmark_parser({})._option_string_actions) - set(get_args_parser({})._option_string_actions)
    page = (ROOT / "docs/benchmark.md").read_text(encoding="utf-8")
    assert ours and not [name for name in ours if not name.startswith("--") and f"`{name}`" not in page]


def test_every_option_of_bulk_jobs_is_on_its_page():
    ours = set(bulk_parser({})._option_string_actions) - set(get_args_parser({})._option_string_actions)
    page = (ROOT / "docs/bulk.md").read_text(encoding="utf-8")
    assert ours and not [name for name in ours if not name.startswith("--") and f"`{name}`" not in page]


def test_every_option_of_remote_workers_is_on_their_page():
    ours = set(get_worker_parser()._option_string_actions) - set(get_args_parser({})._option_string_actions)
    page = (ROOT / "docs/remote-workers.md").read_text(encoding="utf-8")
    shown = [name for name in ours - {"-h", "-orders"} if not name.startswith("--")]
    assert shown and not [name for name in shown if f"`{name}" not in page]


def test_peers_are_on_their_page():
    options = {name for name in peers_parser()._option_string_actions if name.startswith("--")} - {"--help"}
    page = (ROOT / "docs/peers.md").read_text(encoding="utf-8")
    assert options and not [name for name in (*options, *PEERS, *SERVERS, *KINDS) if f"`{name}`" not in page]


def test_the_readme_and_the_picture_of_peers_have_their_figures_from_one_page():
    page = (ROOT / "docs/peers.md").read_text(encoding="utf-8")
    found = runpy.run_path(str(ROOT / "docs/performance/draw_peers.py"))["ratios"](page)
    precisions = [precision for precision, _, _ in found]
    assert precisions == sorted(precisions, key=["fp32", "bf16", "int8"].index) and {"fp32", "int8"} <= set(precisions)
    for _, _, figures in found:
        assert list(figures) == list(KINDS) and all(least <= ratio <= most for ratio, least, most in figures.values())
    rows = re.findall(r"\|((?: \d+\.\d\d \|){6})$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == ["".join(f" {ratio:.2f} |" for ratio, _, _ in figures.values()) for _, _, figures in found]


@pytest.mark.parametrize("code, error", BY_CODE.items(), ids=str)
def test_every_error_is_in_the_reference(code, error):
    assert f"| `{code}` | {error.http_status} | `{error.__name__}`" in reference("errors.md")


@pytest.mark.parametrize("error", start_errors.BY_NAME.values(), ids=lambda error: error.__name__)
def test_every_exit_code_is_in_the_reference(error):
    assert f"| {error.exit_code} | `{error.__name__}` |" in reference("errors.md")


def test_every_route_is_in_the_reference():
    paths = json.loads(OPENAPI.read_text(encoding="utf-8"))["paths"]  # which has every route: see test_pages.py
    for path, methods in paths.items():
        for method in methods:
            assert f"## `{method.upper()} {path}`" in reference("http.md")


def test_every_metric_is_in_the_reference(echo_server):
    with urlopen(f"http://127.0.0.1:{echo_server.http_port}/metrics", timeout=20) as answer:
        names = re.findall(r"^# TYPE bert_serving_(\w+)", answer.read().decode(), re.MULTILINE)
    table = reference("http.md").partition("## `GET /metrics`")[2].partition("\n## ")[0]
    assert len(names) > 30 and not [name for name in names if f"`{name}`" not in table]


def test_pages_are_found():
    assert ROOT / "README.md" in PAGES and ROOT / "docs/index.md" in PAGES
    assert len(blocks("python")) >= 2 and len(commands()) >= 5
