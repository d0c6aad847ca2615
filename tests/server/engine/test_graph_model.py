"""The encoder as a graph: its inputs, and the variables that it asks for. Vectors are in backends/test_graph.py."""
import numpy as np
import pytest

from bert_serving.server.config import PoolingStrategy
from bert_serving.server.engine.spec import Embeddings, EncoderSpec, variables
from bert_serving.server.engine.graph_model import FORMS, INPUTS, build_graph


def build(spec, **options):
    """The graph, and the names of the variables that it reads."""
    import tensorflow as tf
    read = set()

    def constant(name, dtype, *beside):
        read.update((name, *beside))
        arrays = [np.zeros(variables(spec, pooler=True, num_labels=2)[each]) for each in (name, *beside)]
        return tf.constant(np.concatenate(arrays, -1), dtype)

    return build_graph(spec, constant, **{"pooling": PoolingStrategy.REDUCE_MEAN, "layers": [-1], **options}), read


@pytest.mark.parametrize("strategy", ["REDUCE_MEAN", "CLS_POOLED", "CLASSIFICATION"])
@pytest.mark.parametrize("token_types", [0, 2])
def test_it_reads_the_variables_that_the_spec_has(tiny, strategy, token_types):
    """The pooler's and a head's are NumPy's."""
    spec = EncoderSpec(vocab_size=9, hidden_size=24, num_layers=2, embeddings=Embeddings(token_types=token_types))
    graph, read = build(spec, pooling=PoolingStrategy[strategy])
    assert read == set(variables(spec))
    assert {node.name for node in graph.as_graph_def().node if node.op == "Placeholder"} == set(INPUTS)


def test_layers_above_the_last_one_wanted_are_left_out():
    spec = EncoderSpec(vocab_size=9, hidden_size=24, num_layers=3)
    _, read = build(spec, layers=[0])
    assert not {name for name in read if name.startswith("layers/1/")}


@pytest.mark.parametrize("precision", FORMS)
def test_a_graph_holds_the_forms_of_its_precision(precision):
    graph, _ = build(EncoderSpec(vocab_size=9, hidden_size=24, num_layers=1), precision=precision)
    names = {node.name for node in graph.as_graph_def().node}
    assert names & {form for forms in FORMS.values() for form in forms} == set(FORMS[precision])
