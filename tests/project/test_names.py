"""Nothing in the repository names the machine, the paths or the package registries that it was made with."""
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Written in pieces, so that this file does not find itself.
FORBIDDEN = {
    "a path of one machine": r"/wor" r"k/|/home/(?!bert\b)\w+|/roo" r"t/|/Use" r"rs/\w|/op" r"t/(?:wheels|pypi)",
    "a package registry": r"pypi\." r"org|pythonhosted\." r"org|npmjs\." r"(?:org|com)|index-ur" r"l|find-link" r"s",
}


def tracked():
    """Files that git knows or would take, text only; where there is no git, whatever lies in the tree."""
    try:
        names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                               capture_output=True, text=True, check=True).stdout
        paths = [ROOT / name for name in names.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [path for path in ROOT.rglob("*") if not {".venv", ".git", "__pycache__"} & set(path.parts)]
    return [path for path in paths if path.is_file() and path.suffix not in (".npz", ".npy", ".png", ".bin", ".so")]


@pytest.mark.parametrize("what, pattern", FORBIDDEN.items(), ids=FORBIDDEN)
def test_no_file_names(what, pattern):
    found = [f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
             for path in tracked()
             for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
             if re.search(pattern, line)]
    assert not found, f"{what}:\n" + "\n".join(found)


@pytest.mark.parametrize("what, line", [
    ("a path of one machine", "see /wor" "k/main/x"), ("a path of one machine", "cd /home/" "ann/src"),
    ("a package registry", "https://pypi." "org/simple"), ("a package registry", "--extra-index-ur" "l https://x"),
])
def test_the_patterns_bite(what, line):
    assert re.search(FORBIDDEN[what], line)


def test_files_are_found():
    assert {Path(__file__), ROOT / "README.md", ROOT / ".ci/run"} <= set(tracked())
