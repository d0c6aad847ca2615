"""DeBERTa of the second and third version: He et al., 2021 (https://arxiv.org/abs/2111.09543)."""
from __future__ import annotations

from ...core.tokenization import InputTemplate
from ..spec import (HEAD, HEAD_DENSE, RELATIVE, RELATIVE_NORM, TOKEN_TYPES, WORDS, Attention, DisentangledPositions,
                    Embeddings, EncoderSpec, Head, Mlp, Norm)
from .base import MAX_LAYERS, MAX_VOCABULARY, Architecture, Names, Values, dense, norm


def spec(values: Values) -> EncoderSpec:
    values.refuse("relative_attention", True)
    values.refuse("position_biased_input", False)
    values.refuse("share_att_key", True)
    values.refuse("norm_rel_ebd", "layer_norm")
    values.refuse("conv_kernel_size", 0, None)
    Values({"pos_att_type": None, **values.values}).refuse("pos_att_type", ["p2c", "c2p"], ["c2p", "p2c"], "p2c|c2p",
                                                           "c2p|p2c")
    hidden = values.number("hidden_size", 1536)
    values.refuse("embedding_size", hidden, None)
    values.refuse("pooler_hidden_size", hidden, None)
    heads = values.heads("num_attention_heads", "hidden_size", hidden, 24)
    length = values.number("max_position_embeddings", 512)
    buckets, farthest = values.number("position_buckets"), values.values.get("max_relative_positions", -1)
    distance = length if farthest == -1 else values.number("max_relative_positions")
    if buckets < 4 or distance - 1 <= buckets // 2 < length - 1:
        raise ValueError(f"position_buckets is {buckets}, expected 4 at least, and half of it less than the distances "
                         f"that it is for, which are below {distance}")
    activation = values.activation("pooler_hidden_act")
    return EncoderSpec(
        vocab_size=values.number("vocab_size", most=MAX_VOCABULARY), hidden_size=hidden,
        num_layers=values.number("num_hidden_layers", 24, MAX_LAYERS),
        # Three scores are added: of content with content, with positions, and of positions with content.
        attention=Attention(heads=heads, scale=(3 * hidden // heads) ** -0.5),
        mlp=Mlp(size=values.number("intermediate_size", 6144), activation=values.activation("hidden_act")),
        positions=DisentangledPositions(buckets=buckets, max_length=length, max_distance=distance),
        embeddings=Embeddings(token_types=values.count("type_vocab_size", 0)),
        norm=Norm(eps=values.real("layer_norm_eps", 1e-7)), pooler=False, head=Head(activation=activation))


LAYER = "encoder.layer.{n}."

ARCHITECTURE = Architecture(
    model_type="deberta-v2", label="DeBERTa-v2", spec=spec, template=InputTemplate(second_type=0), hugging_face=Names(
        (("embeddings.word_embeddings.weight", WORDS), ("embeddings.token_type_embeddings.weight", TOKEN_TYPES),
         *norm("embeddings.LayerNorm", "embeddings/norm"),
         ("encoder.rel_embeddings.weight", RELATIVE), *norm("encoder.LayerNorm", RELATIVE_NORM),
         *(row for theirs, ours in (("attention.self.query_proj", "attention/query"),
                                    ("attention.self.key_proj", "attention/key"),
                                    ("attention.self.value_proj", "attention/value"),
                                    ("attention.output.dense", "attention/output"),
                                    ("intermediate.dense", "mlp/up"), ("output.dense", "mlp/down"))
           for row in dense(LAYER + theirs, f"layers/{{n}}/{ours}")),
         *norm(LAYER + "attention.output.LayerNorm", "layers/{n}/attention/norm"),
         *norm(LAYER + "output.LayerNorm", "layers/{n}/mlp/norm"),
         *dense("pooler.dense", HEAD_DENSE), ("classifier.weight", HEAD[0]), ("classifier.bias", HEAD[1])),
        encoder=("embeddings.", "encoder."), ignored=("embeddings.position_ids",), kernels_are_transposed=True,
        has_prefix=True))
