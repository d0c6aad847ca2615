"""A static model, from the command to the client."""
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "static"


def test_a_static_model_is_served(serve):
    server = serve("-model_dir", str(GOLDEN / "model2vec-quantized"), "-num_worker", "2").ready()
    assert "engine: static (config.json describes a static model), fp32" in server.log
    assert "max_seq_len: 9 (config.json)" in server.log
    with np.load(GOLDEN / "reference.npz") as reference:
        expected = reference["model2vec-quantized/vectors"]
    with server.client() as client:
        vectors = client.encode(["hello world", "The quick brown fox jumps over the lazy dog.", "a", "\u200b"])
    assert np.abs(vectors - [*expected[:3], np.zeros(8)]).max() < 1e-6
    assert server.stop() == 0
