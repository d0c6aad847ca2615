"""What a spec says of itself: layers, variables, and in what it differs from BERT."""
from dataclasses import fields, replace
from math import prod

import pytest

from bert_serving.server.engine.spec import (Attention, Departure, DisentangledPositions, Embeddings, EncoderSpec, Head,
                                             Mlp, Norm, Placement, RelativePositions, RotaryPositions, TablePositions,
                                             layer_of, variables)

BERT = EncoderSpec(vocab_size=30522)


@pytest.mark.parametrize("layer, index", [(-1, 11), (-12, 0), (0, 0), (11, 11)])
def test_layer_index(layer, index):
    assert BERT.layer_index(layer) == index


@pytest.mark.parametrize("layer", [-13, 12])
def test_layers_that_do_not_exist(layer):
    with pytest.raises(ValueError, match=rf"-pooling_layer {layer} does not exist in a model of 12 layers; "
                                         r"expected -12 \(first\) to -1 \(last\)"):
        BERT.layer_index(layer)


@pytest.mark.parametrize("layers, pooler, expected", [([-2], False, 11), ([-12], False, 1), ([0, 3], False, 4),
                                                      ([-12], True, 12), ([-2, -1], False, 12)])
def test_layers_needed(layers, pooler, expected):
    assert BERT.layers_needed(layers, pooler) == expected


# ---- variables -------------------------------------------------------------------------------------------------------

def test_variables_of_bert_base():
    """110 million parameters, as the paper says."""
    shapes = variables(BERT, pooler=True)
    assert sum(map(prod, shapes.values())) == 109_482_240
    assert len(shapes) == 199
    assert shapes["layers/11/mlp/up/kernel"] == (768, 3072)
    assert shapes["embeddings/norm/gamma"] == (768,)


def test_variables_of_a_tiny_model(tiny):
    model = tiny(num_labels=3)
    assert {name: array.shape for name, array in model.variables.items()} == variables(
        model.spec, pooler=True, num_labels=3)
    assert len(model.variables) == len(model.weights)


@pytest.mark.parametrize("changes, there, missing", [
    ({"embeddings": Embeddings(token_types=0)}, [], ["embeddings/token_types"]),
    ({"embeddings": Embeddings(size=128)}, ["embeddings/projection/kernel"], []),
    ({"positions": RotaryPositions(thetas=(1e4,), max_length=9)}, [], ["embeddings/positions"]),
    ({"positions": RelativePositions()}, ["relative_positions", "embeddings/positions"], []),
    ({"positions": DisentangledPositions(buckets=8, max_distance=64, max_length=64)},
     ["relative_positions", "relative_positions/norm/gamma"], ["embeddings/positions"]),
    ({"norm": Norm(placement=Placement.AROUND, first=False)}, ["layers/0/attention/output_norm/gamma",
                                                               "layers/1/attention/norm/gamma"],
     ["layers/0/attention/norm/gamma"]),
    ({"norm": Norm(bias=False, final=True)}, ["final_norm/gamma"], ["final_norm/beta", "layers/0/mlp/norm/beta"]),
    ({"attention": Attention(bias=False, qk_norm=True)}, ["layers/3/attention/key_norm/gamma"],
     ["layers/3/attention/key/bias"]),
    ({"mlp": Mlp(gated=True, bias=False)}, ["layers/3/mlp/gate/kernel", "layers/3/mlp/down/bias"],
     ["layers/3/mlp/up/bias"]),
    ({"layer_weights": ("0.1",) * 12}, ["layers/0.1/mlp/up/kernel"], ["layers/0/mlp/up/kernel"])])
def test_variables_follow_the_spec(changes, there, missing):
    found = variables(replace(BERT, **changes))
    assert set(there) <= set(found) and not set(missing) & set(found)


@pytest.mark.parametrize("head, there, missing", [
    (Head(pooler=True), {"pooler/kernel", "pooler/bias"}, {"head/dense/kernel"}),
    (Head(), {"head/dense/kernel", "head/dense/bias"}, {"pooler/kernel", "head/norm/gamma"}),
    (Head(bias=False, norm=True), {"head/dense/kernel", "head/norm/gamma"}, {"head/dense/bias"})])
def test_variables_of_a_head(head, there, missing):
    found = variables(replace(BERT, head=head), num_labels=3)
    assert found["head/weights"] == (3, 768) and there <= set(found) and not missing & set(found)


def test_grouped_heads_have_fewer_keys():
    shapes = variables(replace(BERT, attention=Attention(heads=12, key_value_heads=2, head_size=32)))
    assert shapes["layers/0/attention/query/kernel"] == (768, 384)
    assert shapes["layers/0/attention/value/kernel"] == (768, 64)
    assert shapes["layers/0/attention/output/kernel"] == (384, 768)


def test_layer_of():
    assert [layer_of(name) for name in ("layers/11/mlp/up/kernel", "layers/2.1/mlp/up/kernel", "pooler/kernel")] == [
        11, 2, None]


# ---- departures ------------------------------------------------------------------------------------------------------

DEPARTURES = {
    "vocab_size": None, "hidden_size": None, "num_layers": None,  # sizes
    "pooler": None, "head": None,  # what is after the encoder
    "embeddings.token_types": {0: Departure.NO_TOKEN_TYPES}, "embeddings.size": {128: Departure.PROJECTED_EMBEDDINGS},
    "embeddings.scale": {2.0: Departure.SCALED_EMBEDDINGS},
    "embeddings.norm": {False: Departure.UNNORMALIZED_EMBEDDINGS},
    "positions": {TablePositions(rows=514, first=2): Departure.POSITION_OFFSET,
                  RotaryPositions(thetas=(1e4,), max_length=9): Departure.ROTARY_POSITIONS,
                  RelativePositions(): Departure.RELATIVE_POSITIONS,
                  DisentangledPositions(buckets=8, max_distance=64, max_length=64): Departure.DISENTANGLED_POSITIONS},
    "norm.eps": None, "norm.rms": {True: Departure.RMS_NORM}, "norm.bias": {False: Departure.NORM_WITHOUT_BIAS},
    "norm.placement": {Placement.BEFORE: Departure.NORM_BEFORE, Placement.AROUND: Departure.NORM_AROUND},
    "norm.first": {False: Departure.NO_FIRST_NORM}, "norm.final": {True: Departure.FINAL_NORM},
    "attention.heads": None, "attention.key_value_heads": {4: Departure.GROUPED_HEADS},
    "attention.head_size": {32: Departure.HEAD_SIZE}, "attention.bias": {False: Departure.ATTENTION_WITHOUT_BIAS},
    "attention.scale": {0.5: Departure.ATTENTION_SCALE}, "attention.causal": {True: Departure.CAUSAL},
    "attention.windows": {(8,) * 12: Departure.WINDOWS}, "attention.qk_norm": {True: Departure.QK_NORM},
    "mlp.size": None, "mlp.activation": None,  # backends list activations by name
    "mlp.gated": {True: Departure.GATED_MLP}, "mlp.bias": {False: Departure.MLP_WITHOUT_BIAS},
    "mlp.down_bias": {False: Departure.MLP_WITHOUT_DOWN_BIAS}, "layer_weights": {("0",) * 12: Departure.SHARED_LAYERS},
}


def leaves():
    for outer in fields(EncoderSpec):
        value = getattr(BERT, outer.name)
        if outer.name in ("embeddings", "norm", "attention", "mlp"):
            yield from (f"{outer.name}.{inner.name}" for inner in fields(value))
        else:
            yield outer.name


@pytest.mark.parametrize("name", list(leaves()))
def test_no_field_can_differ_from_bert_without_a_departure(name):
    """A backend that knows BERT alone must not compute something else in silence."""
    outer, _, inner = name.partition(".")
    for value, departure in (DEPARTURES[name] or {}).items():
        changed = replace(getattr(BERT, outer), **{inner: value}) if inner else value
        assert replace(BERT, **{outer: changed}).departures == {departure}


def test_bert_departs_from_nothing():
    assert BERT.departures == frozenset()
    named = {departure for values in DEPARTURES.values() for departure in (values or {}).values()}
    assert named == set(Departure)


@pytest.mark.parametrize("positions, longest, first", [
    (TablePositions(rows=514, first=2), 512, 2), (RotaryPositions(thetas=(1e4,), max_length=8192), 8192, 0)])
def test_longest_sequence(positions, longest, first):
    spec = replace(BERT, positions=positions)
    assert (spec.max_length, spec.first_position) == (longest, first)
