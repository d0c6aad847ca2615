"""The engine without a model: what it answers, and the trouble it makes on demand."""
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client.pairs import Pair
from bert_serving.server.config import PoolingStrategy
from bert_serving.server.engine import backends, base
from bert_serving.server.engine.backends.echo import echo_vector
from bert_serving.server.engine.base import EngineSettings

NAMES = [strategy.name for strategy in PoolingStrategy]


def start(**options):
    settings = EngineSettings(engine="echo", **options)
    tokenizer = base.create_tokenizer(settings)
    engine = backends.create(settings)
    return engine, lambda texts: base.features(texts, tokenizer, settings)


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layers", [(-2,), (-1, 0)])
def test_a_checker_can_know_the_answer(name, masked, fp16, layers):
    engine, features = start(pooling_strategy=name, mask_cls_sep=masked, pooling_layer=layers,
                             precision="fp16" if fp16 else "fp32", hidden_size=16, num_labels=3)
    batch = features(["a", "a b c", Pair("x", "y"), ["p", "q"], ""])
    rows = engine.encode(batch)
    assert rows.dtype == (np.float16 if fp16 else np.float32) and np.isfinite(rows).all()
    expected = [echo_vector(sequence.input_ids, sequence.input_mask, strategy=PoolingStrategy[name], layers=layers,
                            hidden_size=16, num_labels=3, fp16=fp16) for sequence in batch]
    assert np.array_equal(rows, np.concatenate(expected) if name == "NONE" else np.stack(expected))


@given(texts=st.lists(st.text(st.sampled_from("ab "), max_size=20), min_size=1, max_size=9))
def test_a_batch_equals_each_alone_bit_for_bit(texts):
    engine, features = start(hidden_size=8)
    assert np.array_equal(engine.encode(features(texts)),
                          np.concatenate([engine.encode(features([text])) for text in texts]))


def test_texts_layers_and_words_can_be_told_apart():
    engine, features = start()
    one, other, swapped = engine.encode(features(["a b", "a c", "b a"]))
    assert one.shape == (768,) and not np.array_equal(one, other)
    assert np.array_equal(one, swapped)                # A mean over vectors that know nothing of their place.
    upper, _ = start(pooling_layer=(-1,))
    assert not np.array_equal(one, upper.encode(features(["a b"]))[0])


def test_component_0_is_the_id():
    engine, features = start(pooling_strategy="NONE")
    batch = features(["hello world"])
    assert engine.encode(batch)[:, 0].tolist() == batch[0].input_ids.tolist()


def test_nan_hits_only_the_sentence_that_asks_for_it():
    for name in ("REDUCE_MEAN", "NONE"):
        engine, features = start(pooling_strategy=name)
        batch = features(["a", "b __nan__", "c"])
        rows = engine.encode(batch)
        bad = np.isnan(rows).any(axis=1).tolist()
        assert bad == ([False, True, False] if name == "REDUCE_MEAN" else [False] * 3 + [True] * 4 + [False] * 3)


def test_raise_and_sleep():
    engine, features = start()
    with pytest.raises(RuntimeError, match="__raise__"):
        engine.encode(features(["fine", "not __raise__ fine"]))
    began = time.monotonic()
    engine.encode(features(["__sleep_50__", ["__sleep_50__"]]))
    assert 0.1 <= time.monotonic() - began


def test_words_that_only_look_like_trouble():
    engine, features = start()
    assert np.isfinite(engine.encode(features(["__init__ __sleep_x__ __ ___ nan die"]))).all()


PROGRAM = """
import sys
from bert_serving.server.engine import backends, base
settings = base.EngineSettings(engine="echo")
engine, tokenizer = backends.create(settings), base.create_tokenizer(settings)
print("ready", flush=True)
engine.encode(base.features([sys.argv[1]], tokenizer, settings))
"""


def test_die_and_hang():
    dead = subprocess.run([sys.executable, "-c", PROGRAM, "a __die__"], capture_output=True, timeout=30)
    assert dead.returncode == -9 and dead.stderr == b""
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "a __hang__"], stdout=subprocess.PIPE) as hanging:
        assert hanging.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            hanging.wait(0.5)
        hanging.kill()
