"""Every architecture on every backend that computes it, against what Hugging Face's transformers gives.

The models and the reference arrays are in tests/data/golden/architectures; its README says how they were made.
"""
import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from bert_serving.server.core.features import Features
from bert_serving.server.engine import artefact, backends
from bert_serving.server.engine.architectures import ARCHITECTURES, from_file, from_values
from bert_serving.server.engine.backends import BACKENDS, Requirements, backend
from bert_serving.server.engine.base import EngineSettings
from bert_serving.server.engine.spec import Departure
from bert_serving.server.engine.weights import open_checkpoint
from bert_serving.server.errors import ModelError

ROOT = Path(__file__).parents[3] / "data" / "golden" / "architectures"
ALL = bool(os.environ.get("BERT_SERVING_TEST_ALL"))
CASES = sorted(path.parent.name for path in ROOT.glob("*/reference.npz"))
TOLERANCE = {"native": 1e-4, "lite": 5e-5, "graph": 1e-4, "onnx": 5e-5}
"""Of a hidden state; as a share of it where it is above 1.

transformers itself rounds rotary tables, RMS norms and ModernBERT's rotation to float32, which is 2e-5 of it; and
weights as large as these let the rounding of one layer grow in the next.
"""


@cache
def reference(case):
    return dict(np.load(ROOT / case / "reference.npz"))


def settings_for(case, engine, **options):
    directory = ROOT / case
    _, spec = from_file(directory / "config.json")
    weights = directory / "model.safetensors"
    return EngineSettings(engine=engine, model_dir=str(directory), config_file=str(directory / "config.json"),
                          checkpoint=str(weights if weights.exists() else directory / "model.safetensors.index.json"),
                          max_seq_len=None, max_position_embeddings=spec.max_length, hidden_size=spec.hidden_size,
                          **options)


def sequences(case, pairs):
    """The references' tokens, as the engine takes them."""
    arrays, prefix = reference(case), "pair_" if pairs else ""
    ids, offsets = arrays[f"{prefix}input_ids"], arrays[f"{prefix}offsets"]
    types = arrays.get(f"{prefix}token_type_ids", np.zeros_like(ids))
    return [Features(ids[start:end].astype(np.int32), types[start:end].astype(np.int32),
                     np.ones(end - start, np.int32), 2, None) for start, end in zip(offsets, offsets[1:])]


@pytest.fixture
def start(tmp_path, any_native_build):
    def start(case, engine, **options):
        """The engine; the test is skipped where the backend objects, or its library is missing."""
        settings = settings_for(case, engine, **options)
        _, spec = from_file(settings.config_file)
        found = backend(engine)
        if reason := found.objection(Requirements(spec=spec, precision=settings.precision)) or found.missing():
            pytest.skip(f"{engine} {reason}")
        made = artefact.make(settings, tmp_path / "cache")
        return backends.create(replace(settings, artefact=made["path"]))
    return start


COMPUTING = [name for name in BACKENDS if backend(name).encodes]


OFTEN = ("albert", "bert-gelu-new", "deberta-v2", "gemma3_text", "modernbert", "mpnet", "qwen3", "roberta")
"""What every run computes on each backend: together they have all that there is. Engines native and lite compute every
case."""

ON_WHAT = [(case, engine) for case in CASES for engine in COMPUTING
           if ALL or engine in ("native", "lite") or case in OFTEN]


@pytest.mark.parametrize("case, engine", ON_WHAT)
def test_every_layer(start, case, engine):
    pairs = "pair_input_ids" in reference(case)
    _, spec = from_file(ROOT / case / "config.json")
    layers = (-1,) if pairs else tuple(range(spec.num_layers))
    running = start(case, engine, pooling_layer=layers, pooling_strategy="NONE")
    expected = (reference(case)["pair_last_hidden_state"] if pairs
                else np.concatenate(list(reference(case)["hidden_states"][1:]), axis=1))
    batch, count = [], 0
    for sequence in sequences(case, pairs):             # Of some the reference keeps no hidden states: it is large.
        if count < len(expected):
            batch, count = [*batch, sequence], count + len(sequence)
    together = running.encode(batch)
    difference = np.abs(together - expected) / np.maximum(1, np.abs(expected))
    assert difference.max() < TOLERANCE[engine]
    alone = np.concatenate([running.encode([sequence]) for sequence in batch])
    if engine in ("native", "lite"):
        assert np.array_equal(alone, together), "a vector depends on what is computed along with it"
    assert np.abs(alone - together).max() < TOLERANCE[engine]


@pytest.mark.parametrize("engine", COMPUTING if ALL else ["native", "lite"])
@pytest.mark.parametrize("case", [case for case in CASES if "pair_input_ids" in reference(case)])
def test_heads(start, case, engine):
    """The strategies that a head is for give its logits through a function, which is undone here."""
    logits = reference(case)["pair_logits"]
    strategy = "REGRESSION" if logits.shape[1] == 1 else "CLASSIFICATION"
    running = start(case, engine, pooling_layer=(-1,), pooling_strategy=strategy, num_labels=logits.shape[1])
    found = running.encode(sequences(case, True)).astype(np.float64)
    if strategy == "REGRESSION":
        found = np.log(found / (1 - found))
    else:
        found, logits = np.log(found), logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert np.abs(found - logits).max() < 2e-5 * np.abs(logits).max()


@pytest.mark.parametrize("case", [case for case in CASES if "pooler_output" in reference(case)])
@pytest.mark.parametrize("engine", ["native", "lite"])
def test_poolers(start, case, engine):
    running = start(case, engine, pooling_layer=(-1,), pooling_strategy="CLS_POOLED")
    expected = reference(case)["pooler_output"]
    assert np.abs(running.encode(sequences(case, False)) - expected).max() < 2e-5


def test_what_is_computed_often_has_all_that_there_is():
    specs = [from_file(ROOT / case / "config.json")[1] for case in OFTEN]
    assert set().union(*(spec.departures for spec in specs)) == set(Departure)


def test_every_architecture_has_a_case():
    types = {json.loads((ROOT / case / "config.json").read_text(encoding="utf-8"))["model_type"] for case in CASES}
    assert types == set(ARCHITECTURES)


@pytest.mark.parametrize("case", CASES if ALL else ["albert", "deberta-v2", "gte", "modernbert", "mpnet", "qwen3"])
def test_int8_is_near(start, case):
    """Two layers of random numbers say little of trained weights; that each product is there, and scaled as it was."""
    pairs = "pair_input_ids" in reference(case)
    batch = sequences(case, pairs)[:4]
    vectors = [start(case, "lite", pooling_layer=(-1,), precision=precision).encode(batch)
               for precision in ("fp32", "int8")]
    exact, quantized = (array / np.linalg.norm(array, axis=1, keepdims=True) for array in vectors)
    assert (exact * quantized).sum(1).min() > 0.99


@pytest.mark.parametrize("case", CASES)
def test_nothing_of_the_file_is_left_over(case):
    """A variable that nobody reads would change the vectors of who has it."""
    settings = settings_for(case, "lite")
    architecture, spec = from_file(settings.config_file)
    artefact.check_weights(settings, open_checkpoint(settings.checkpoint, architecture), spec)


@pytest.mark.parametrize("case", ["modernbert", "qwen3"])
def test_engines_agree_on_hidden_tokens(start, case):
    """With windows, or where a token sees nothing after it, -mask_cls_sep may hide all that a token could see."""
    batch = [replace(sequence, input_mask=np.where(np.arange(len(sequence)) < 2, 0, sequence.input_mask)
                     * (np.arange(len(sequence)) < len(sequence) - 1).astype(np.int32))
             for sequence in sequences(case, False)[:6] if len(sequence) > 4]
    found = [start(case, engine, pooling_layer=(-1,), pooling_strategy=strategy).encode(batch)
             for strategy in ("FIRST_TOKEN", "LAST_TOKEN", "REDUCE_MEAN") for engine in ("lite", "graph")]
    for lite, graph in zip(found[::2], found[1::2]):
        assert np.abs(lite - graph).max() < 1e-3 * np.abs(graph).max()


# ---- what a configuration may say, and what not ----------------------------------------------------------------------

def config(case, **changes):
    return {**json.loads((ROOT / case / "config.json").read_text(encoding="utf-8")), **changes}


@pytest.mark.parametrize("case, changes, message", [
    ("bert-wordpiece", {"is_decoder": True}, "is_decoder is true, expected false"),
    ("bert-wordpiece", {"position_embedding_type": "relative_key_query"}, "position_embedding_type is "),
    ("xlm-roberta", {"position_embedding_type": "rotary"}, "position_embedding_type is 'rotary', expected 'absolute'"),
    ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets is 64, expected 32"),
    ("albert", {"num_hidden_groups": 9}, "num_hidden_groups is 9 .* expected at most num_hidden_layers 3"),
    ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size is 3, expected 0"),
    ("deberta-v2", {"pos_att_type": ["c2p"]}, "pos_att_type is "),
    ("deberta-v2", {"pos_att_type": None}, "pos_att_type is null"),
    ("deberta-v2", {"position_buckets": -1}, "position_buckets is -1, expected a number above 0"),
    ("deberta-v2", {"embedding_size": 9}, "embedding_size is 9, expected 64"),
    ("modernbert", {"layer_types": ["full_attention"]}, "layer_types is .* for each of 4 layers"),
    ("modernbert", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn', expected 'default'"),
    ("modernbert", {"attention_bias": "no"}, "attention_bias is 'no', expected true or false"),
    ("nomic_bert", {"head_dim": 8}, "head_dim is 8, expected 16"),
    ("nomic_bert", {"n_embd": 64, "activation_function": "gelu"}, "activation_function is 'gelu', expected 'swiglu'"),
    ("qwen3", {"use_sliding_window": True}, "use_sliding_window is true, expected false"),
    ("qwen3", {"rope_scaling": {"type": "yarn"}}, "rope_scaling is "),
    ("qwen3", {"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": {"type": "yarn"}}, "rope_scaling is "),
    ("qwen3", {"rope_parameters": {"type": "linear"}}, "type is 'linear', expected 'default'"),
    ("qwen3", {"rope_parameters": [1e6]}, "rope_parameters is .*, expected an object"),
    ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, expected 1"),
    ("gte", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
    ("modernbert", {"rope_parameters": {"rope_theta": 1e4}}, "rope_theta for all layers, expected one in full_atten"),
    ("qwen3", {"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
    ("eurobert", {"head_dim": 11}, "head size is 11, expected an even number"),
    ("gte", {"hidden_size": 60}, "head size is 15, expected an even number"),
    ("gte", {"layer_norm_eps": 10 ** 400}, "layer_norm_eps is above 1e.30"),
    ("qwen3", {"rope_theta": 10 ** 400}, "rope_theta is above 1e.30"),
    ("deberta-v2", {"position_buckets": 1}, "position_buckets is 1, expected 4 at least"),
    ("deberta-v2", {"position_buckets": 16, "max_relative_positions": 9}, "that it is for, which are below 9"),
    ("distilbert", {"num_attention_heads": 2}, "num_attention_heads is 2, expected 4"),
    ("gemma3_text", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping is 30.0"),
    ("nomic_bert", {"num_experts": 8}, "num_experts is 8, expected 0"),
    ("gte", {"logn_attention_scale": True}, "logn_attention_scale is true, expected false"),
    ("gte", {"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute', expected 'rope'"),
    ("gte", {"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu'; choose from gelu, ")])
def test_what_is_not_computed_is_named(case, changes, message):
    with pytest.raises(ValueError, match=message):
        from_values(config(case, **changes))


@pytest.mark.parametrize("name, same", [("gelu_pytorch_tanh", "gelu_new"), ("gelu_fast", "gelu_new"),
                                        ("gelu_python", "gelu"), ("swish", "silu")])
def test_other_names_of_activations(name, same):
    assert from_values(config("bert-wordpiece", hidden_act=name)) == from_values(config("bert-wordpiece",
                                                                                        hidden_act=same))


def test_older_keys_mean_the_same():
    new = config("modernbert-rerank")
    old = {key: value for key, value in new.items() if key not in ("rope_parameters", "layer_types")}
    old |= {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    assert from_values(new) == from_values(old)
    first = {"model_type": "nomic_bert", "vocab_size": 704, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_inner": 128,
             "n_positions": 128, "activation_function": "swiglu", "rotary_emb_base": 1000, "type_vocab_size": 2,
             "layer_norm_epsilon": 1e-12, "rotary_emb_fraction": 1.0, "prenorm": False, "qkv_proj_bias": False}
    assert from_values(first) == from_values(config("nomic_bert"))


def test_what_a_file_leaves_out_means_what_it_means_in_the_reference():
    values = config("deberta-v2")
    del values["pos_att_type"]
    with pytest.raises(ValueError, match="pos_att_type is null"):
        from_values(values)
    values = config("eurobert")
    del values["rms_norm_eps"]
    assert from_values(values)[1].norm.eps == 1e-5


def test_an_older_rope_theta_counts_where_todays_is_left_out():
    for parameters in ({}, {"rope_type": "default"}, None):
        _, spec = from_values(config("gte", rope_theta=123.0, rope_parameters=parameters))
        assert set(spec.positions.thetas) == {123.0}
    _, spec = from_values(config("gte", rope_theta=123.0, rope_parameters={"rope_theta": 5.0}))
    assert set(spec.positions.thetas) == {5.0}
    _, spec = from_values(config("gemma3_text", rope_theta=123.0, rope_local_base_freq=7.0,
                                 rope_parameters={"full_attention": {"rope_type": "default"}}))
    assert set(spec.positions.thetas) == {123.0, 7.0}


def test_gemmas_hidden_act_is_not_what_it_computes():
    assert from_values(config("gemma3_text", hidden_act="silu")) == from_values(config("gemma3_text"))


def test_groups_of_albert_fall_as_in_the_reference():
    """Whose division is one of floating-point numbers."""
    values = config("albert", num_hidden_layers=18, num_hidden_groups=14, inner_group_num=1)
    assert from_values(values)[1].weights_of(9) == "6.0"


def test_a_causal_gemma_sees_itself_and_what_is_before():
    _, spec = from_values(config("gemma3_text", use_bidirectional_attention=False))
    assert spec.attention.causal and spec.window(0) == 11
    _, spec = from_values(config("gemma3_text"))
    assert not spec.attention.causal and spec.window(0) == 6


def test_a_file_that_lacks_a_part_of_a_product_names_it(tmp_path):
    from safetensors.numpy import load_file, save_file
    arrays = load_file(ROOT / "gte" / "model.safetensors")
    del arrays["encoder.layer.1.attention.qkv_proj.weight"]
    arrays["encoder.layer.2.mlp.up_gate_proj.weight"] = np.zeros((255, 64), np.float32)
    save_file(arrays, tmp_path / "model.safetensors")
    settings = replace(settings_for("gte", "lite"), checkpoint=str(tmp_path / "model.safetensors"))
    architecture, spec = from_file(settings.config_file)
    checkpoint = open_checkpoint(settings.checkpoint, architecture)
    with pytest.raises(ModelError, match=r"lacks encoder\.layer\.1\.attention\.qkv_proj\.weight$"):
        artefact.check_weights(settings, checkpoint, spec)
    arrays["encoder.layer.1.attention.qkv_proj.weight"] = np.zeros((192, 64), np.float32)
    save_file(arrays, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(settings.checkpoint, architecture)
    with pytest.raises(ModelError, match=r"up_gate_proj\.weight is \[255, 64\], expected \[256, 64\]"):
        artefact.check_weights(settings, checkpoint, spec)
