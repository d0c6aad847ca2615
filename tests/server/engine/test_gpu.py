"""Whether TensorFlow can use a GPU, asked in a process of its own."""
import pytest

from bert_serving.server.engine import gpu


def test_tensorflow_is_asked():
    """No GPU has that number."""
    why = gpu.why_unusable("graph", 4097)
    assert "sees no GPU 4097; check its driver and that this TensorFlow is built for GPUs" in why


@pytest.mark.parametrize("answer, said", [
    ({"error": None}, None), ({"error": "sees none"}, "sees none"),
    (None, "engine graph gave no answer about GPU 1 within 7 s, or ended; is the driver in order?")])
def test_the_answer_or_why_there_is_none(monkeypatch, answer, said):
    monkeypatch.setattr(gpu, "ask", lambda module, orders, seconds, environ: answer)
    assert gpu.why_unusable("graph", 1, 7) == said


def test_a_process_that_cannot_be_started_is_a_reason(monkeypatch):
    def no_room(*arguments, **how):
        raise OSError("no room")
    monkeypatch.setattr(gpu, "ask", no_room)
    assert gpu.why_unusable("graph", 1) == "engine graph could not be asked for GPU 1: no room"
