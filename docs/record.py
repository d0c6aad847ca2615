"""Writes docs/images/session.svg: a real session in two terminals, recorded and drawn.

    .venv/bin/python docs/record.py

What is typed is below; what is answered is what the programs print, in their colours and at their pace. Only pauses are
cut to less than a second, and the home directory is written as ``~``. The usual ports have to be free; on Linux
``sudo unshare --net sh -c 'ip link set lo up; ...'`` gives a network where they are.
"""
from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "session.svg"

SERVE = "make serve"
PYTHON = ".venv/bin/python"
LINES = [
    "from bert_serving.client import BertClient",
    "bc = BertClient()",
    "bc.encode(['First do it', 'then do it right', 'then do it better'])",
    "import numpy as np",
    "vectors = bc.encode(['a cat sat on the mat', 'the kitten is on a rug', 'shares fell on Monday'])",
    "cat, kitten, shares = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)",
    "print(f'{cat @ kitten:.2f} {cat @ shares:.2f}')",
]
CURL = ("curl -s http://localhost:8125/tokenize -H 'Content-Type: application/json' "
        "-d '{\"texts\": [\"unaffable embeddings\"]}'")

COLUMNS, FONT, LEADING = 124, 12, 17
ADVANCE = FONT * 0.6
MAX_PAUSE, TYPING = 0.8, 0.02       # seconds, and seconds a character
COLOURS = {"30": "#6e7681", "31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "34": "#79c0ff", "35": "#d2a8ff",
           "36": "#76e3ea", "37": "#e6edf3"}
SEQUENCE = re.compile(r"\x1b\[([0-9;]*)m|\x1b\[[0-9;?]*[A-Za-z]|\r|\x07")


@dataclass
class Line:
    """A line of a terminal.

    Attributes:
        at: when it appears, in seconds from the beginning.
        text: with the terminal's sequences for colours.
        typed: somebody typed it, so that it appears letter by letter.
    """

    at: float
    text: str
    typed: bool = False


# ---- what happens ----------------------------------------------------------------------------------------------------

def session() -> list[list[Line]]:
    """The lines of both terminals."""
    start = time.monotonic()
    first, second = [Line(0, f"$ {SERVE}", typed=True)], []
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvp("make", ["make", "serve"])
    try:
        for text in printed(terminal, until="ready: port="):
            first.append(Line(time.monotonic() - start, text))
        for line in asked():
            second.append(Line(time.monotonic() - start, line.text, line.typed))
    finally:
        os.killpg(pid, signal.SIGINT)  # as Ctrl-C does
        os.waitpid(pid, 0)
    return [first, second]


def printed(terminal: int, until: str, seconds: float = 120) -> Iterator[str]:
    """Lines that come from a terminal, up to the one that contains ``until``."""
    rest, end = "", time.monotonic() + seconds
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        *lines, rest = (rest + os.read(terminal, 65536).decode()).split("\n")
        for text in lines:
            yield text.rstrip("\r")
            if until in text:
                return
    raise TimeoutError(f"no line with {until!r} in {seconds} seconds")


def asked() -> Iterator[Line]:
    """What is typed into an interactive Python and a shell, and what they answer."""
    yield Line(0, f"$ {PYTHON} -q", typed=True)
    python = subprocess.Popen([sys.executable, "-q", "-i", "-u"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, bufsize=0, cwd=ROOT)
    assert python.stdin is not None and python.stdout is not None
    up_to_prompt(python.stdout)
    for line in LINES:
        yield Line(0, f">>> {line}", typed=True)
        python.stdin.write(line + "\n")
        yield from (Line(0, text) for text in up_to_prompt(python.stdout).splitlines())
    python.stdin.close()
    python.wait(20)
    yield Line(0, ">>> exit()", typed=True)
    yield Line(0, f"$ {CURL}", typed=True)
    yield from (Line(0, text) for text in subprocess.run(CURL, shell=True, capture_output=True, text=True, check=True,
                                                         timeout=20).stdout.splitlines())


def up_to_prompt(stream) -> str:
    text = ""
    while not text.endswith(">>> "):
        text += stream.read(1) or sys.exit(f"Python ended: {text}")
    return text.removesuffix(">>> ")


# ---- how it is drawn -------------------------------------------------------------------------------------------------

def paced(terminals: Iterable[list[Line]]) -> list[list[Line]]:
    """The same with pauses cut, and with time for typing."""
    terminals = [list(lines) for lines in terminals]
    late = before = 0.0
    for line in sorted((line for lines in terminals for line in lines), key=lambda line: line.at):
        late -= max(0.0, line.at - before - MAX_PAUSE)
        before, line.at = line.at, line.at + late
        if line.typed:
            late += len(line.text) * TYPING + 0.4
    return terminals


def wrapped(text: str) -> list[list[tuple[str, str]]]:
    """(text, colour) parts of each row that a line takes."""
    rows: list[list[tuple[str, str]]] = [[]]
    colour, used, last = "", 0, 0
    for match in [*SEQUENCE.finditer(text), None]:
        part = text[last: match.start() if match else len(text)]
        while part:
            if used == COLUMNS:
                rows.append([])
                used = 0
            rows[-1].append((part[:COLUMNS - used], colour))
            part, used = part[COLUMNS - used:], used + len(rows[-1][-1][0])
        if match:
            last = match.end()
            if match[1] is not None:
                colour = next((COLOURS[code] for code in match[1].split(";") if code in COLOURS), "")
    return rows


def window(title: str, lines: list[Line], top: int) -> tuple[str, int]:
    """A window with these lines, and its height."""
    body, y = [], top + 50
    for line in lines:
        rows = wrapped(line.text.replace(str(Path.home()), "~"))
        for number, row in enumerate(rows):
            length = sum(len(text) for text, _ in row)
            spans = "".join(f'<tspan fill="{colour}">{escape(text)}</tspan>' if colour else escape(text)
                            for text, colour in row)
            at = line.at + (number * COLUMNS * TYPING if line.typed else 0)
            style = f"animation-delay:{at:.2f}s" + (
                f";animation-duration:{length * TYPING:.2f}s;animation-timing-function:steps({length})"
                if line.typed and length else "")
            body.append(f'<text class="{"typed" if line.typed else "line"}" x="16" y="{y}" style="{style}" '
                        f'textLength="{length * ADVANCE:.1f}">{spans}</text>')
            y += LEADING
    height = y - top
    width = COLUMNS * ADVANCE + 32
    return (f'<rect x="0.5" y="{top + 0.5}" width="{width - 1}" height="{height - 1}" rx="8" fill="#0d1117" '
            'stroke="#30363d"/>'
            f'<text x="16" y="{top + 21}" fill="#8b949e">{escape(title)}</text>'
            f'<path d="M0 {top + 31.5}H{width}" stroke="#30363d"/>' + "\n".join(body)), height


def draw(terminals: list[list[Line]], titles: list[str]) -> str:
    """The picture. It moves once; who prefers less motion sees the end at once."""
    top, windows = 0, []
    for title, lines in zip(titles, terminals):
        text, height = window(title, lines, top)
        windows.append(text)
        top += height + 12
    width, height = round(COLUMNS * ADVANCE + 32), top - 12
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<title>make serve, and a client in another terminal</title>
<style>
text {{ font: {FONT}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #e6edf3;
  white-space: pre }}
@media (prefers-reduced-motion: no-preference) {{
  .line {{ animation: appear 0.01s both }}
  .typed {{ animation: type 1s both }}
}}
@keyframes appear {{ from {{ opacity: 0 }} }}
@keyframes type {{ from {{ clip-path: inset(0 100% 0 0) }} to {{ clip-path: inset(0 0 0 0) }} }}
</style>
{chr(10).join(windows)}
</svg>
"""


if __name__ == "__main__":
    if subprocess.run(["make", "--question", ".venv/installed"], cwd=ROOT).returncode:
        sys.exit("make serve would install first, which is not to be in the picture: run `make install`")
    PICTURE.write_text(draw(paced(session()), ["one terminal", "another one"]), encoding="utf-8")
    print(f"wrote {PICTURE}")
