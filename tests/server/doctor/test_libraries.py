"""Versions, against packages as a registry's metadata would describe them."""
import platform
from email.message import Message
from importlib import metadata

import bert_serving.server
import pytest
from bert_serving.server.doctor.findings import Level
from bert_serving.server.doctor.libraries import check_extra, check_libraries, check_packages


def lines(findings):
    return [(finding.level, finding.text) for finding in findings]


@pytest.fixture
def installed(monkeypatch):
    """Say what is installed: name -> version, what the server's package asks for, and of which Python."""
    def install(versions, requires=(), python=">=3.10"):
        def version(name):
            if versions.get(name) is None:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        about = Message()
        about["Version"], about["Requires-Python"] = version("bert-serving-server"), python
        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr(metadata, "metadata", lambda name: about)
        monkeypatch.setattr(metadata, "requires", lambda name: list(requires))
    return install


def test_this_environment_is_well():
    found = [*check_packages(), *check_libraries(), *check_extra("http"), *check_extra("cpu")]
    assert [finding for finding in found if finding.level is not Level.OK] == []
    assert any(bert_serving.server.__version__ in finding.text for finding in found)
    assert any("numpy " in finding.text and "pyzmq " in finding.text for finding in found)


@pytest.mark.parametrize("client, said", [("1.10.0", "bert-serving-client 1.10.0"),
                                          (None, "bert-serving-client is missing")])
def test_both_packages_are_of_one_version(installed, client, said):
    installed({"bert-serving-server": "2.0.0", "bert-serving-client": client})
    (_, _), (level, text) = lines(check_packages())
    assert level is Level.PROBLEM
    assert said in text and text.endswith("pip install bert-serving-client==2.0.0")


def test_a_python_that_is_too_old(installed):
    installed({"bert-serving-server": "2.0.0", "bert-serving-client": "2.0.0"}, python=">=3.99")
    (level, text), _ = lines(check_packages())
    assert level is Level.PROBLEM and text.startswith(f"Python {platform.python_version()}, expected >=3.99")


def test_a_server_that_pip_does_not_know(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)
    monkeypatch.setattr(metadata, "metadata", missing)
    monkeypatch.setattr(metadata, "requires", missing)
    (level, text), = lines([*check_packages(), *check_libraries()])
    assert level is Level.WARNING and "is not installed as a package" in text


REQUIRES = ("bert-serving-client==2.0.0", "numpy>=1.24", "pyzmq>=26", "elsewhere>=1; sys_platform == 'plan9'",
            "flask>=3.1.1; extra == 'http'")


def test_what_is_missing_or_too_old_has_a_line(installed):
    installed({"bert-serving-server": "2.0.0", "pyzmq": "22.1", "flask": "2.0"}, REQUIRES)
    assert lines(check_libraries()) == [
        (Level.PROBLEM, "numpy is missing, expected numpy>=1.24; install bert-serving-server with pip, which brings "
                        "it"),
        (Level.WARNING, "pyzmq is 22.1, expected >=26, which is what was tested; pip install \"pyzmq>=26\"")]
    assert lines(check_extra("http")) == [
        (Level.WARNING, "flask is 2.0, expected >=3.1.1, which is what was tested; pip install \"flask>=3.1.1\"")]


def test_what_is_well_shares_a_line(installed):
    installed({"bert-serving-server": "2.0.0", "numpy": "2.1", "pyzmq": "27.0.0b1"}, REQUIRES)
    assert lines(check_libraries()) == [(Level.OK, "numpy 2.1, pyzmq 27.0.0b1")]
    assert lines(check_extra("http")) == [], "what is missing is said where it is needed"
