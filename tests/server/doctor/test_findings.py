"""What the doctor prints, and how it ends."""
import pytest
from bert_serving.server.doctor.findings import conclusion, ok, problem, warning


def test_one_line_each_in_columns():
    assert [str(finding) for finding in (ok("port", "5555"), warning("cores", "2"), problem("libraries", "none"))] == [
        "ok       port       5555", "warning  cores      2", "problem  libraries  none"]


@pytest.mark.parametrize("findings, code, line", [
    ([], 0, "would start like this"),
    ([ok("a", ""), warning("b", "")], 0, "would start like this (1 warning)"),
    ([problem("a", ""), warning("b", ""), warning("c", "")], 1, "would not start like this: 1 problem (2 warnings)"),
    ([problem("a", ""), problem("b", "")], 1, "would not start like this: 2 problems"),
])
def test_conclusion(findings, code, line):
    assert conclusion(findings) == (code, f"bert-serving-start {line}")
