"""The dashboard's files: small, complete, from nowhere else, safe, and about keys that a real status reply has."""
import json
import re
import urllib.request
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "plugin/dashboard"
FILES = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir() if path.suffix != ".md"}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}
PAGE, STYLE = FILES["index.html"], FILES["style.css"]
LIMIT = 300_000


@pytest.fixture(scope="module")
def status(echo_server):
    """A status reply of a server that has answered something, so that every counter is there."""
    address = f"http://127.0.0.1:{echo_server.http_port}"
    request = urllib.request.Request(f"{address}/encode", json.dumps({"id": 1, "texts": ["hello"]}).encode(),
                                     {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=20).close()
    with urllib.request.urlopen(f"{address}/status/server", timeout=20) as response:
        return json.load(response)


# ---- what it reads ---------------------------------------------------------------------------------------------------

READING = SCRIPTS["reading.js"]
OBJECTS = {"status": [], "statistic": ["statistic"], "queue": ["queue"], "worker": ["workers", 0]}


@pytest.mark.parametrize("name, key", sorted({
    (name, key) for name in OBJECTS for key in re.findall(rf"\b{name}\.(\w+)", READING)}))
def test_key_is_in_a_status_reply(name, key, status):
    value = status
    for step in OBJECTS[name]:
        value = value[step]
    assert key in value


@pytest.mark.parametrize("name", re.findall(r'histogram\(status, "(\w+)"\)', READING))
def test_histogram_is_in_a_status_reply(name, status):
    histogram = status["histograms"][name]
    assert len(histogram["counts"]) == len(histogram["bounds"]) + 1
    assert "sum" in histogram


def test_keys_are_found():
    assert len(re.findall(r"\bstatus\.(\w+)", READING)) >= 12
    assert len(re.findall(r'histogram\(status, "(\w+)"\)', READING)) >= 4


def test_only_one_file_names_the_keys():
    """``reading`` holds what the others need under names of the page's own."""
    for name, text in SCRIPTS.items():
        if name not in ("reading.js", "api.js"):
            assert not re.findall(r"\bstatus\.\w+|\bstatistic\.\w+|\bnum_(?!worker\b)\w+(?=[^\"\w])", text), name


def table(name, script):
    return re.search(rf"const {name} = (.*?);\n\n", SCRIPTS[script], re.DOTALL).group(1)


def test_counts_are_in_a_status_reply(status):
    counts = re.findall(r'\["(\w+)", "', table("COUNTS", "live.js"))
    assert set(counts) == set(status["counts"])


def test_options_are_grouped_by_names_that_are_there(status):
    """An option that is not grouped stands under "Other"."""
    live = set(re.findall(r'"([^"]+)"', table("LIVE", "reading.js")))
    grouped = re.findall(r'"([^"]+)"(?=[,\]])', table("GROUPS", "config.js"))
    assert len(grouped) == len(set(grouped))
    assert live <= set(status)
    assert set(grouped) <= set(status) - live


# ---- where it comes from ---------------------------------------------------------------------------------------------

def test_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < LIMIT


def test_every_file_is_used_and_every_used_file_is_there():
    used = set(re.findall(r'(?:src|href)="([^"#]+)"', PAGE))
    assert used | {"index.html"} == set(FILES)


def test_nothing_comes_from_elsewhere():
    for name, text in FILES.items():
        addresses = set(re.findall(r"https?://[\w.:/-]+", text))
        assert addresses <= {"http://localhost:8125", "http://www.w3.org/2000/svg", "http://", "https://"}, name
        assert not re.findall(r"@import|url\(|import\(|importScripts", text), name


def test_a_strict_content_security_policy_allows_it():
    """No script and no style in the page or in attributes; and the page says so itself."""
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in PAGE
    assert not re.findall(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|javascript:", PAGE)
    for name, text in SCRIPTS.items():
        assert not re.findall(r"\beval\(|new Function|setAttribute\(\"style\"|\bstyle: ", text), name


def test_texts_never_become_markup():
    for name, text in SCRIPTS.items():
        assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc", text), name


def test_elements_that_scripts_name_are_there():
    ids = set(re.findall(r'\bid="([\w-]+)"', PAGE))
    assert len(ids) == len(re.findall(r'\bid="([\w-]+)"', PAGE))
    for name, text in SCRIPTS.items():
        assert set(re.findall(r'byId\("([\w-]+)"\)', text)) <= ids, name


# ---- for everyone ----------------------------------------------------------------------------------------------------

def test_every_field_has_a_label():
    labelled = set(re.findall(r'<label[^>]*\bfor="([\w-]+)"', PAGE))
    fields = set(re.findall(r'<(?:input|textarea|select)[^>]*?\bid="([\w-]+)"', PAGE))
    assert fields and fields <= labelled


def palette(block):
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{3,6})\b", block))


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at:at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


BLOCKS = re.findall(r"(:root[^{,]*) \{(.*?)\n *\}", STYLE, re.DOTALL)


def test_dark_is_the_same_by_the_system_and_by_the_button():
    light, by_system, by_button = (palette(block) for _, block in BLOCKS)
    assert by_system == by_button != light
    assert set(by_button) == set(light)


@pytest.mark.parametrize("colours", [palette(block) for _, block in BLOCKS], ids=[name for name, _ in BLOCKS])
def test_text_can_be_read(colours):
    """WCAG 2.1 AA: 4.5 for text, 3 for what is drawn."""
    for ground in ("--card", "--page"):
        for ink in ("--ink", "--quiet", "--good", "--warn", "--bad"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    assert contrast(colours["--on-accent"], colours["--accent"]) >= 4.5
    assert contrast(colours["--bad"], colours["--bad-soft"]) >= 4.5
    for tone in (name for name in colours if name.startswith(("--tone", "--map"))):
        assert contrast(colours[tone], colours["--card"]) >= 3, tone
