"""The native encoder's libraries: in the package where there is a compiler, left out with one line elsewhere."""
import ctypes
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from server.native import variants

pytestmark = pytest.mark.timeout(180)  # to compile and to build packages takes a busy machine a while

ROOT = Path(__file__).parents[2]
PACKAGE = "bert_serving/server/engine/native"
LINE = "native encoder: "


def has_compiler():
    try:
        return bool(variants.find_compiler())
    except variants.CompileError:
        return False


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler here; apt-get install g++")


# ---- packages --------------------------------------------------------------------------------------------------------

@pytest.fixture
def tree(tmp_path):
    """A copy of what the server's package is built from, without anything that was built."""
    shutil.copytree(ROOT / "server", tmp_path / "tree/server", symlinks=True,
                    ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "*.so"))
    shutil.copytree(ROOT / "plugin", tmp_path / "tree/plugin")
    return tmp_path / "tree"


def run(words, environ, cwd):
    """Standard output and error of a command that has to succeed."""
    done = subprocess.run([sys.executable, *map(str, words)], env={**os.environ, **environ}, cwd=cwd, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=170)
    assert done.returncode == 0, done.stdout
    return done.stdout


def pip(cwd, *words, **environ):
    return run(["-m", "pip", words[0], "--no-index", "--no-deps", "--disable-pip-version-check", *words[1:]], environ,
               cwd)


def build_wheel(tree, **environ):
    """(the one wheel, its lines about the native encoder)"""
    output = pip(tree, "wheel", "--verbose", "--no-build-isolation", "--wheel-dir", "wheels", "./server", **environ)
    wheel, = (tree / "wheels").iterdir()
    return wheel, [line.strip() for line in output.splitlines() if LINE in line]


def libraries(wheel):
    return {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")}


def test_without_a_compiler_the_wheel_is_for_every_platform(tree):
    wheel, lines = build_wheel(tree, CXX="false")
    assert wheel.name.endswith("-py3-none-any.whl")
    line, = lines
    assert line.startswith("native encoder: not compiled") and "false failed (exit code 1)" in line and "g++" in line
    assert f"{PACKAGE}/__init__.py" in zipfile.ZipFile(wheel).namelist() and not libraries(wheel)
    pip(tree, "install", "--target", "installed", wheel)
    assert (tree / "installed" / PACKAGE / "__init__.py").is_file()


@needs_compiler
def test_with_a_compiler_the_wheel_has_all_libraries_and_the_platforms_tag(tree):
    """Without warnings, which would leave a library out here."""
    wheel, (line,) = build_wheel(tree, CXXFLAGS="-O0 -Werror")
    expected = variants.variants_for(variants.find_compiler())
    assert line.startswith(f"native encoder: compiled {', '.join(expected)} with ") and ";" not in line
    assert libraries(wheel) == {f"{PACKAGE}/libnative_{variant}.so" for variant in expected}
    _, _, python, abi, platform = wheel.stem.split("-")
    assert (python, abi) == ("py3", "none") and platform != "any"
    assert b"Root-Is-Purelib: false" in next(
        zipfile.ZipFile(wheel).read(name) for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/WHEEL"))
    pip(tree, "install", "--target", "installed", wheel)
    for library in (tree / "installed" / PACKAGE).glob("*.so"):
        ctypes.CDLL(str(library))


def install_editable(tree, **environ):
    """What ``pip install --editable`` has the package do."""
    program = "import sys; from setuptools.build_meta import build_editable; build_editable(sys.argv[1])"
    output = run(["-c", program, tree], environ, tree / "server")
    assert output.count(LINE) == 1
    return {path.name for path in (tree / "server" / PACKAGE).glob("*.so")}


def test_an_editable_install_has_its_libraries_beside_the_sources(tree, compiler):
    assert install_editable(tree, CXX=str(compiler)) == {f"libnative_{variant}.so" for variant in variants.VARIANTS}


def test_what_is_not_compiled_now_is_not_left_from_before(tree, compiler):
    """It would have an interface that the Python code no longer knows."""
    install_editable(tree, CXX=str(compiler))
    with open(tree / "server/native/native.cpp", "a") as source:
        source.write("// changed\n")
    assert install_editable(tree, CXX=str(compiler), REFUSED="-mamx-tile") == {
        f"libnative_{variant}.so" for variant in variants.VARIANTS if variant != "amx"}
    assert install_editable(tree, CXX="false") == set()


@pytest.fixture
def make(tree):
    """Runs the Makefile in a copy of the tree where everything seems to be installed; gives its output."""
    shutil.copy(ROOT / "Makefile", tree)
    for file in ("client/pyproject.toml", ".venv/installed"):  # the last is the newest
        (tree / file).parent.mkdir()
        (tree / file).touch()

    def make(*words):
        done = subprocess.run(["make", *words], cwd=tree, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return make


@pytest.mark.parametrize("source", ["setup.py", "native/native.cpp", "native/variants.py"])
def test_make_compiles_again_what_changed(make, source):
    assert "pip install" not in make("--dry-run", "serve")
    assert "pip install" in make("--dry-run", "--what-if", f"server/{source}", "serve")


def test_make_clean_removes_libraries(make, tree):
    (tree / "server" / PACKAGE / "libnative_plain.so").touch()
    for folder in ("tests", "tools", "docs", "example"):
        (tree / folder).mkdir()
    make("clean")
    assert [path.name for path in (tree / "server" / PACKAGE).iterdir() if path.suffix != ".py"] == []


# ---- the table, with a compiler that only writes down what it should do ----------------------------------------------

COMPILER = """#!/bin/sh
case "$1" in
    -dumpmachine) echo "${MACHINE:-x86_64-linux-gnu}"; exit ;;
    --version) echo "stand-in 1.0"; exit ;;
esac
echo "$*" >> "$(dirname "$0")/calls"
case " $* " in *" ${REFUSED:-nothing} "*) echo "in it" >&2; echo "x.cpp:1:2: error: no $REFUSED" >&2; exit 1 ;; esac
while [ "$1" != -o ]; do shift; done
echo made > "$2"
"""


@pytest.fixture
def compiler(tmp_path):
    path = tmp_path / "compiler"
    path.write_text(COMPILER)
    path.chmod(0o755)
    return path


@pytest.fixture
def build(compiler, tmp_path, monkeypatch):
    """Compiles all; gives the variants that were made, the line, and how often the compiler ran for that."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "native.cpp").write_text("1")
    (sources / "a.h").write_text("2")
    monkeypatch.setattr(variants, "SOURCES", sources)

    def build(**environ):
        calls = tmp_path / "calls"
        calls.write_text("")
        made, line = variants.compile_all(tmp_path / "made", {**os.environ, "CXX": str(compiler), **environ})
        assert all(path.read_text() == "made\n" for path in made.values())
        assert not list((tmp_path / "made").glob("*.partial*"))
        return list(made), line, calls.read_text().splitlines()

    return build


def test_only_what_changed_is_compiled_again(build, tmp_path):
    everything = list(variants.VARIANTS)
    assert build()[0] == everything
    made, line, calls = build()
    assert (made, calls) == (everything, [])
    assert line == "native encoder: compiled plain, tiles, avx512, avx512bf16, amx with stand-in 1.0"
    (tmp_path / "sources/a.h").write_text("3")
    assert len(build()[2]) == len(everything)
    assert len(build(CXXFLAGS="-g")[2]) == len(everything)
    (tmp_path / "made/libnative_amx.so").unlink()
    assert len(build(CXXFLAGS="-g")[2]) == 1
    assert len(build()[2]) == len(everything)


def test_a_library_that_fails_is_left_out_alone_and_tried_again(build):
    made, line, calls = build(REFUSED="-mavx512bf16")
    assert made == ["plain", "tiles", "avx512"] and len(calls) == 5
    assert line.count("\n") == 0
    assert line.endswith("compiler failed (x.cpp:1:2: error: no -mavx512bf16)") and "left out avx512bf16, amx: " in line
    made, line, calls = build()
    assert made == list(variants.VARIANTS) and len(calls) == 2


def test_flags_of_the_user_come_last(build):
    _, _, calls = build(CXXFLAGS="-O0 '-DNAME=a b'")
    for call in calls:
        assert re.match(r"-std=c\+\+17 .* -O[23] .* ?-O0 -DNAME=a b native\.cpp -o ", call)


def test_machine_flags_are_for_x86_64_alone(build):
    assert build(MACHINE="aarch64-linux-gnu")[:2] == (
        ["plain", "tiles"], "native encoder: compiled plain, tiles with stand-in 1.0")


def test_a_compiler_with_arguments(build, compiler):
    made, _, calls = build(CXX=f"env {compiler}")
    assert len(made) == len(calls) == 5


@pytest.mark.parametrize("environ, reason", [
    ({"CXX": "/no/such"}, "/no/such cannot be started (No such file or directory)"),
    ({"CXX": "", "PATH": "/no/such"}, "there is no c++, g++ or clang++ here"), ({"CXX": "false"}, "exit code 1")])
def test_no_compiler(build, environ, reason):
    made, line, _ = build(**environ)
    assert not made and reason in line and "\n" not in line


def test_flags_of_a_caller_overrule_all(compiler, tmp_path):
    """As of a fuzzer that wants sanitizers."""
    environ = {**os.environ, "CXX": str(compiler), "CXXFLAGS": "-O1"}
    variants.compile_variant(variants.find_compiler(environ), "plain", tmp_path / "new/x.so", ["-fsanitize=address"],
                             environ)
    assert (tmp_path / "new/x.so").is_file() and "-O1 -fsanitize=address native.cpp" in (tmp_path / "calls").read_text()


def test_a_failure_leaves_an_earlier_library_and_tells_everything(compiler, tmp_path):
    target = tmp_path / "x.so"
    target.write_text("before")
    environ = {**os.environ, "CXX": str(compiler), "REFUSED": "-O2"}
    with pytest.raises(variants.CompileError, match="error: no -O2") as caught:
        variants.compile_variant(variants.find_compiler(environ), "plain", target, environ=environ)
    assert "in it" in caught.value.output and target.read_text() == "before"
