"""Every module has its test module, in the mirrored place, and every test module has its module."""
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"

# Module -> where it is tested instead. A line here is a promise that the named file does it.
TESTED_ELSEWHERE = {
    "server/service.py": "tests/integration/test_start.py",
    "server/helper.py": "tests/server/test_doors.py",
    "server/graph.py": "tests/server/test_doors.py",
    "server/engine/tensor_file.py": "tests/server/engine/test_tensors.py",
    **{f"server/engine/architectures/{name}.py": "tests/server/engine/architectures/test_reference.py"
       for name in ("albert", "camembert", "deberta_v2", "electra", "eurobert", "gemma3_text", "gte",
                    "jina_embeddings_v3", "modernbert", "mpnet", "nomic_bert", "qwen3", "roberta", "xlm_roberta")},
}

# Folders of tests that follow no module: whole commands, and the project itself.
FREE = ("integration", "project", "chaos", "fuzz")


def modules():
    """(package, path of the module below the package), as ("server", "core/sink.py")."""
    for package in ("client", "server"):
        folder = ROOT / package / "bert_serving" / package
        for path in sorted(folder.rglob("*.py")):
            if path.name != "__init__.py":  # packages re-export; what they say is tested where it is made
                yield package, path.relative_to(folder)
    for path in sorted((ROOT / "tools").rglob("*.py")):
        if path.name != "__init__.py":
            yield "tools", path.relative_to(ROOT / "tools")


def mirror(package, module):
    """tests/server/core/test_sink.py for ("server", "core/sink.py"); __main__ is tested as "main"."""
    return TESTS / package / module.with_name(f"test_{module.stem.strip('_')}.py")


@pytest.mark.parametrize("package, module", list(modules()), ids=str)
def test_module_has_its_tests(package, module):
    name = f"{package}/{module.as_posix()}"
    expected = ROOT / TESTED_ELSEWHERE[name] if name in TESTED_ELSEWHERE else mirror(package, module)
    assert expected.is_file(), f"{name} has no {expected.relative_to(ROOT)}"
    assert "def test_" in expected.read_text(encoding="utf-8")


def test_exceptions_are_needed():
    everything = {f"{package}/{module.as_posix()}": mirror(package, module) for package, module in modules()}
    for name in TESTED_ELSEWHERE:
        assert name in everything, f"{name} is gone; so should be its line in TESTED_ELSEWHERE"
        assert not everything[name].exists(), f"{name} has its own tests now; its line in TESTED_ELSEWHERE can go"


def test_test_modules_have_their_module():
    known = {mirror(package, module) for package, module in modules()}
    known |= {ROOT / elsewhere for elsewhere in TESTED_ELSEWHERE.values()}
    strays = [path.relative_to(ROOT) for path in TESTS.rglob("test_*.py")
              if path.relative_to(TESTS).parts[0] not in FREE and path not in known]
    assert not strays
