"""Every example runs to its end against a real server, and shows what it says it shows."""
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "example").glob("*.py"))

# Example -> words of its output that are there only if it did its work.
SHOWS = {
    "example1.py": ["sentences/s", "float32 ("],
    "example2.py": ["request 2: (1, ", "request 4: (3, ", "  (6, ", "request 17: (1, "],
    "example3.py": ["the first listener hears (5, ", "the second listener hears (5, "],
}


def test_every_example_is_listed():
    assert [path.name for path in EXAMPLES] == sorted(SHOWS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example(path, echo_server):
    done = subprocess.run(
        [sys.executable, str(path), str(echo_server.port), str(echo_server.port_out), "-ip", "127.0.0.1"],
        capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    for words in SHOWS[path.name]:
        assert words in done.stdout, f"{words!r} is missing in:\n{done.stdout}"
