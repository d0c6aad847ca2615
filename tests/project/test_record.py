"""The recorded session of the README is what docs/record.py would type and draw today."""
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORD = runpy.run_path(str(ROOT / "docs" / "record.py"))
Line, COLUMNS = RECORD["Line"], RECORD["COLUMNS"]
SVG = "{http://www.w3.org/2000/svg}"


def texts(picture, kind):
    return ["".join(text.itertext()) for text in ElementTree.fromstring(picture).iter(f"{SVG}text")
            if text.get("class") == kind]


def draw(*lines):
    return RECORD["draw"]([list(lines)], ["a terminal"])


def test_the_picture_shows_what_the_script_types():
    typed = texts(RECORD["PICTURE"].read_text(encoding="utf-8"), "typed")
    expected = [f"$ {RECORD['SERVE']}", f"$ {RECORD['PYTHON']} -q", *(f">>> {line}" for line in RECORD["LINES"]),
                ">>> exit()", f"$ {RECORD['CURL']}"]
    assert typed == expected, "run `python docs/record.py`"


def test_colours_become_colours_and_other_sequences_nothing():
    picture = draw(Line(0, "I 12:00 \x1b[34mSERVER\x1b[0m <ready>\x1b[K\r"))
    assert texts(picture, "line") == ["I 12:00 SERVER <ready>"]
    assert f'<tspan fill="{RECORD["COLOURS"]["34"]}">SERVER</tspan>' in picture


def test_a_long_line_goes_on_in_the_next_row():
    text = "".join(chr(97 + number % 26) for number in range(2 * COLUMNS + 5))
    rows = texts(draw(Line(0, f"\x1b[31m{text}\x1b[0m")), "line")
    assert rows == [text[:COLUMNS], text[COLUMNS:2 * COLUMNS], text[-5:]]


def test_pauses_are_cut_and_typing_takes_time():
    first, second = [Line(0, "$ x", typed=True), Line(60, "answer")], [Line(60.5, "late")]
    [[typed, answer], [late]] = RECORD["paced"]([first, second])
    assert typed.at == 0
    assert RECORD["MAX_PAUSE"] < answer.at < 3
    assert late.at == pytest.approx(answer.at + 0.5)


def test_the_home_directory_is_not_shown():
    assert texts(draw(Line(0, f"in {Path.home()}/.cache")), "line") == ["in ~/.cache"]
