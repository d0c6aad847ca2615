"""Pictures of sweeps."""
import struct

import pytest
from bert_serving.server.benchmark import plots
from bert_serving.server.benchmark.load import BenchmarkError


def test_a_picture(result, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "num_client.png"
    plots.draw(result, "about " * 40, path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (840, 720)


def test_what_it_shows(result, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "num_client.svg"
    plots.draw(result, "about", path)
    text = path.read_text(encoding="utf-8")
    for shown in ("num_client", "sentences/s", "200", "480", "4.00", "about"):
        assert f"<!-- {shown} -->" in text
    assert "<!-- 9 -->" not in text, "it was left out"


def test_matplotlib_is_asked_for_by_name(monkeypatch):
    pytest.importorskip("matplotlib")
    plots.check()
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(BenchmarkError, match=r"-plot needs matplotlib; install it, or './server\[plot\]'"):
        plots.check()
