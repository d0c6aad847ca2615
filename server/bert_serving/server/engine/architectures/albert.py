"""ALBERT: Lan et al., 2019 (https://arxiv.org/abs/1909.11942). BERT with narrower embeddings and shared layers."""
from __future__ import annotations

from ...core.tokenization import InputTemplate
from ..spec import (HEAD, POSITIONS, PROJECTION, TOKEN_TYPES, WORDS, Attention, Embeddings, EncoderSpec, Mlp, Norm,
                    TablePositions)
from .base import MAX_LAYERS, MAX_VOCABULARY, Architecture, Names, Values, dense, norm


def spec(values: Values) -> EncoderSpec:
    values.refuse("position_embedding_type", "absolute")
    hidden = values.number("hidden_size", 4096)
    layers, groups = values.number("num_hidden_layers", 12, MAX_LAYERS), values.number("num_hidden_groups", 1)
    inner = values.number("inner_group_num", 1)
    if groups > layers or inner * layers > MAX_LAYERS:
        raise ValueError(f"num_hidden_groups is {groups} and inner_group_num {inner}, expected at most "
                         f"num_hidden_layers {layers}, and {MAX_LAYERS} layers in all")
    # With the reference's rounding: 14 groups of 18 layers fall otherwise than in whole numbers.
    weights = tuple(f"{int(layer / (layers / groups))}.{number}" for layer in range(layers) for number in range(inner))
    return EncoderSpec(
        vocab_size=values.number("vocab_size", most=MAX_VOCABULARY), hidden_size=hidden, num_layers=len(weights),
        layer_weights=weights,
        embeddings=Embeddings(token_types=values.count("type_vocab_size", 2),
                              size=values.number("embedding_size", 128)),
        attention=Attention(heads=values.heads("num_attention_heads", "hidden_size", hidden, 64)),
        mlp=Mlp(size=values.number("intermediate_size", 16384), activation=values.activation("hidden_act", "gelu_new")),
        positions=TablePositions(rows=values.number("max_position_embeddings", 512)),
        norm=Norm(eps=values.real("layer_norm_eps", 1e-12)))


LAYER = "encoder.albert_layer_groups.{n}."

ARCHITECTURE = Architecture(
    model_type="albert", label="ALBERT", spec=spec, template=InputTemplate(second_type=0), hugging_face=Names(
        (("embeddings.word_embeddings.weight", WORDS), ("embeddings.position_embeddings.weight", POSITIONS),
         ("embeddings.token_type_embeddings.weight", TOKEN_TYPES), *norm("embeddings.LayerNorm", "embeddings/norm"),
         *dense("encoder.embedding_hidden_mapping_in", PROJECTION),
         *(row for theirs, ours in (("attention.query", "attention/query"), ("attention.key", "attention/key"),
                                    ("attention.value", "attention/value"), ("attention.dense", "attention/output"),
                                    ("ffn", "mlp/up"), ("ffn_output", "mlp/down"))
           for row in dense(LAYER + theirs, f"layers/{{n}}/{ours}")),
         *norm(LAYER + "attention.LayerNorm", "layers/{n}/attention/norm"),
         *norm(LAYER + "full_layer_layer_norm", "layers/{n}/mlp/norm"),
         *dense("pooler", "pooler"), ("classifier.weight", HEAD[0]), ("classifier.bias", HEAD[1])),
        encoder=("embeddings.", "encoder."), ignored=("embeddings.position_ids", "embeddings.token_type_ids"),
        kernels_are_transposed=True, has_prefix=True, inner=".albert_layers."))
