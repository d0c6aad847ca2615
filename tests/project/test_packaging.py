"""What pip would install: sdists of a copy of the tree, and the wheels that are built from them.

Without the native encoder's libraries, which test_native_build.py looks at.
"""
import configparser
import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import bert_serving.client
import bert_serving.server
import pytest
from bert_serving.server.proxy.pages import MEDIA_TYPES
from packaging.requirements import Requirement
from packaging.version import Version

pytestmark = pytest.mark.timeout(180)  # to build packages takes a busy machine a while

ROOT = Path(__file__).parents[2]
VERSIONS = {"client": bert_serving.client.__version__, "server": bert_serving.server.__version__}


class Wheel:
    """A built wheel, as it would be installed."""

    def __init__(self, path):
        with zipfile.ZipFile(path) as archive:
            self.names = set(archive.namelist())
            info = next(name.split("/")[0] for name in self.names if name.endswith(".dist-info/METADATA"))
            self.metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
            self.scripts = {}
            if f"{info}/entry_points.txt" in self.names:
                entry_points = configparser.ConfigParser()
                entry_points.read_string(archive.read(f"{info}/entry_points.txt").decode())
                self.scripts = dict(entry_points["console_scripts"])
        self.modules = {name for name in self.names if not name.startswith(info)}
        self.licences = {name for name in self.names if name.startswith(info) and name.endswith("LICENSE")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the sdists are, and the wheels."""
    folder = tmp_path_factory.mktemp("packages")
    for package in VERSIONS:
        copy = folder / package
        # With links as links, as in a clone: the page's has to lead out of the package's folder.
        shutil.copytree(ROOT / package, copy, symlinks=True,
                        ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "*.so"))
    shutil.copytree(ROOT / "plugin", folder / "plugin")
    builds = [subprocess.Popen([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder / package],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env={**os.environ, "CXX": "false"}) for package in VERSIONS]
    for build in builds:
        output, _ = build.communicate(timeout=170)
        assert build.returncode == 0, output
    return folder


@pytest.fixture(scope="module")
def wheels(folder):
    """Both wheels by package name."""
    return {package: Wheel(next(folder.glob(f"bert_serving_{package}-*.whl"))) for package in VERSIONS}


def test_a_registry_would_take_them(folder):
    made = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    assert len(made) == 4
    done = subprocess.run([sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, made)],
                          capture_output=True, text=True, timeout=50)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 4, done.stdout + done.stderr


@pytest.mark.parametrize("package", VERSIONS)
def test_sdist_holds_the_package_and_no_tests(folder, wheels, package):
    with tarfile.open(folder / f"bert_serving_{package}-{VERSIONS[package]}.tar.gz") as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert wheels[package].modules <= set(members)
    assert {"LICENSE", "pyproject.toml"} <= set(members)
    if package == "server":  # what its libraries are compiled from
        assert {f"native/{path.name}" for path in (ROOT / "server/native").iterdir() if path.is_file()} <= set(members)
    assert not [name for name in members if "test" in name]
    assert all(member.isfile() or member.isdir() for member in members.values()), "a link would lead nowhere"


def test_the_client_works_where_there_is_no_server(folder, tmp_path, echo_server):
    """Installed alone, beside what it needs and nothing else."""
    wheel, = folder.glob("bert_serving_client-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    # -S: without what an editable installation adds.
    program = (f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {sysconfig.get_path('purelib')!r}]\n"
               "from importlib.util import find_spec\nassert find_spec('bert_serving.server') is None\n"
               "from bert_serving.client import BertClient\n"
               f"with BertClient(port={echo_server.port}, port_out={echo_server.port_out}, timeout=20000) as client:\n"
               "    print(client.encode(['First do it', 'then do it right']).shape, BertClient.__module__)")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=50)
    assert done.stdout == "(2, 768) bert_serving.client.client\n", done.stderr


@pytest.mark.parametrize("package", VERSIONS)
def test_wheel_holds_the_package_and_nothing_else(wheels, package):
    folder = ROOT / package
    expected = {path.relative_to(folder).as_posix() for path in (folder / "bert_serving").rglob("*")
                if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"}
    if package == "server":  # the page lives in plugin/dashboard, which the package has a link to
        here = "bert_serving/server/proxy/dashboard/"
        expected = {name for name in expected if not name.startswith(here)} | {
            here + path.name for path in (ROOT / "plugin/dashboard").iterdir() if path.suffix in MEDIA_TYPES}
        assert here + "index.html" in expected and "bert_serving/server/proxy/openapi.json" in expected
    assert wheels[package].modules == expected
    assert "bert_serving/__init__.py" not in expected
    assert not [name for name in expected if "peers" in name]  # the comparison with others is tools/peers


@pytest.mark.parametrize("package", VERSIONS)
def test_version_and_licence(wheels, package):
    wheel = wheels[package]
    assert wheel.metadata["Version"] == VERSIONS[package]
    assert wheel.licences
    assert (ROOT / package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_the_client_is_typed(wheels):
    assert "bert_serving/client/py.typed" in wheels["client"].names


def test_the_server_wants_the_client_of_its_version(wheels):
    assert VERSIONS["client"] == VERSIONS["server"]
    assert f"bert-serving-client=={VERSIONS['client']}" in wheels["server"].metadata.get_all("Requires-Dist")


@pytest.mark.parametrize("extra", ["cpu", "tf", "gpu", "tf-gpu", "native", "http", "plot", "bulk", "ray"])
def test_extras(wheels, extra):
    assert extra in wheels["server"].metadata.get_all("Provides-Extra")


def test_commands(wheels):
    assert wheels["server"].scripts == {
        "bert-serving-start": "bert_serving.server.cli:main",
        "bert-serving-terminate": "bert_serving.server.cli:terminate",
        "bert-serving-keygen": "bert_serving.server.cli:keygen",
        "bert-serving-doctor": "bert_serving.server.doctor.command:main",
        "bert-serving-worker": "bert_serving.server.join:main",
        "bert-serving-model": "bert_serving.server.engine.command:main",
        "bert-serving-encode": "bert_serving.server.bulk.command:main",
        "bert-serving-benchmark": "bert_serving.server.benchmark.command:main",
    }


@pytest.mark.parametrize("command", ["bert-serving-start", "bert-serving-terminate", "bert-serving-keygen",
                                     "bert-serving-doctor", "bert-serving-model", "bert-serving-benchmark",
                                     "bert-serving-encode", "bert-serving-worker"])
def test_commands_lead_somewhere(wheels, command):
    module, function = wheels["server"].scripts[command].split(":")
    call = f"import sys; from {module} import {function}; sys.exit({function}(['-h']))"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert command in done.stdout


# ---- what a bill of materials takes from it --------------------------------------------------------------------------

LICENCES = {"License-Expression": "MIT", "License": "MIT"}
"""Header -> value; the client has the older one, since its setuptools for Python 3.8 knows no other."""


@pytest.mark.parametrize("package", VERSIONS)
def test_the_licence_is_an_expression_and_no_address_is_made_up(wheels, package):
    metadata = wheels[package].metadata
    assert [(header, metadata[header]) for header in LICENCES if metadata[header]] in (
        [("License-Expression", "MIT")], [("License", "MIT")])
    for header in ("Home-page", "Project-URL", "Author-email", "Maintainer-email", "Download-URL"):
        assert not metadata.get_all(header), "there is none that would be true"


def bounds(package):
    """Name -> requirement of everything that is not the other package, extras included."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    project = tomllib.loads((ROOT / package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *sum(project.get("optional-dependencies", {}).values(), [])]
    return {requirement.name: requirement for requirement in map(Requirement, listed)
            if not requirement.name.startswith("bert-serving")}


WITHOUT_BOUND = {"setuptools"}
NOT_INSTALLED = {"tensorflow", "matplotlib", "ray", "onnx", "onnxruntime"}
"""The same as tensorflow-cpu for other machines; for plots; for clusters; for an engine that nobody has to take."""


def test_every_dependency_has_a_lower_bound_and_that_is_what_is_tested():
    lines = (ROOT / "tests/lowest.txt").read_text(encoding="utf-8").splitlines()
    lowest = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    server = bounds("server")
    assert set(lowest) == set(server) - WITHOUT_BOUND - NOT_INSTALLED
    for requirement in (*server.values(), *bounds("client").values()):
        if requirement.name not in WITHOUT_BOUND:
            bound, = requirement.specifier
            assert bound.operator == ">=", requirement
            if requirement.name in lowest and requirement in server.values():
                assert Version(lowest[requirement.name]) == Version(bound.version), requirement
