"""Messages say "1 worker", not "1 workers": a count and its noun are written by ``counted``."""
import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("client/bert_serving", "server/bert_serving", "tools")
               for path in (ROOT / folder).rglob("*.py"))

NOUNS = ("batch|byte|character|client|connection|core|CPU|dimension|element|field|file|frame|GPU|host|job|key|layer"
         "|node|number|position|record|refusal|reject|request|result|row|second|sentence|sequence|text|thread|token"
         "|vector|worker")

COUNT = re.compile(rf" (?:(?:more|different) )?(?:{NOUNS})e?s\b(?![/=])")
"""What follows a value: a noun in the plural, and not the unit of a rate."""

COUNT_IN_FORMAT = re.compile(rf"(?<!to )%[dis]{COUNT.pattern}")


def written_by_hand(source):
    """The counts of a source whose nouns are always in the plural, whatever the number."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:]):
                if (isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)
                        and not is_constant(value) and COUNT.match(text.value)):
                    yield f"line {node.lineno}: {ast.unparse(value.value)}{text.value}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.endswith("."):
            yield from (f"line {node.lineno}: {node.value}" for _ in COUNT_IN_FORMAT.finditer(node.value))


def is_constant(value):
    """Whether the number is one of ours, in capitals, or a figure with decimals: "1.0 seconds" is right."""
    name = ast.unparse(value.value).rpartition(".")[2]
    digits = ast.unparse(value.format_spec) if value.format_spec else ""
    return name.isupper() or bool(re.search(r"\.[1-9]", digits))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_count_is_written_with_its_noun(path):
    assert not list(written_by_hand(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("source", [
    'f"{n} workers"', 'f"with {len(x)} more requests, ..."', '"%d bytes" % n', 'f"{s:g} seconds"',
    '"%s of %d batches"'])
def test_the_rule_bites(source):
    assert list(written_by_hand(source))


@pytest.mark.parametrize("source", [
    'f"{MAX_WORKERS} workers"', 'f"{protocol.MOST} bytes"', 'f"{rate} sentences/s"', 'f"{s:.1f} seconds"',
    '"1 to %d bytes"', 'f"{counted(n, 1)} is"'])
def test_the_rule_allows(source):
    assert not list(written_by_hand(source))
