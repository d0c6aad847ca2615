"""Well-known models of the Hugging Face Hub: what ``bert-serving-model list`` and the page "Models" show.

Figures are those of the models' public cards and files. What is not known for sure is left out: a model's own files say
it when it is served.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .architectures import ARCHITECTURES

EMBEDDING, PAIRS, CLASSIFIER, ENCODER = "embeddings", "rerankers and other models of pairs", "classifiers", "encoders"
KINDS = {EMBEDDING: "Embeddings", PAIRS: "Rerankers and other models of pairs", CLASSIFIER: "Classifiers",
         ENCODER: "Encoders to be fine-tuned"}
"""Kind -> its heading."""


@dataclass(frozen=True)
class WellKnownModel:
    """A row of the table.

    Attributes:
        name: on the Hugging Face Hub.
        model_type: of its ``config.json`` there.
        dimensions: of an embedding; None: it gives scores.
        labels: of a classifier or a model of pairs.
        max_length: in tokens, special tokens included, as its own files limit it.
        pooling: "mean", "cls" or "last"; None: a plain encoder, or a head.
        normalizes: its modules bring embeddings to length 1; None: not known.
        prompts: what its authors put before a text, by their names for it.
        licence: as SPDX or its authors call it.
        megabytes: of its weights as they are fetched.
        gated: its terms must be accepted on the Hub first.
        was_run_here: compared with the reference by this project, with its real weights.
        has_own_code: its ``config.json`` on the Hub is that of code of its authors, which this server does not read.
    """

    name: str
    model_type: str
    kind: str = EMBEDDING
    dimensions: int | None = None
    labels: int | None = None
    max_length: int | None = None
    pooling: str | None = None
    normalizes: bool | None = None
    prompts: tuple[tuple[str, str], ...] = ()
    licence: str = ""
    megabytes: int | None = None
    gated: bool = False
    was_run_here: bool = False
    has_own_code: bool = False

    @property
    def is_served(self) -> bool:
        return self.was_run_here or self.model_type in ARCHITECTURES and not self.has_own_code

    @property
    def state(self) -> str:
        """What is known of it here, for people."""
        if self.was_run_here:
            return "run here"
        return "by architecture" if self.is_served else "not served"


def served(kind: str) -> Iterator[WellKnownModel]:
    return (model for model in WELL_KNOWN if model.kind == kind and model.is_served)


def not_served() -> Iterator[WellKnownModel]:
    return (model for model in WELL_KNOWN if not model.is_served)


_BGE = (("query", "Represent this sentence for searching relevant passages: "),)
_BGE_ZH = (("query", "为这个句子生成表示以用于检索相关文章："),)
_E5 = (("query", "query: "), ("passage", "passage: "))
_ARCTIC_2 = (("query", "query: "),)
_NOMIC = (("query", "search_query: "), ("passage", "search_document: "), ("clustering", "clustering: "),
          ("classification", "classification: "))
_MODERN_NOMIC = _NOMIC[:2]
_INSTRUCT = (("query", "Instruct: {task}\nQuery: "),)
_QWEN = (("query", "Instruct: {task}\nQuery:"),)
_GEMMA = (("query", "task: search result | query: "), ("passage", "title: none | text: "))

_APACHE, _MIT = "Apache-2.0", "MIT"


def _st(name: str, model_type: str, dimensions: int, max_length: int, megabytes: int | None,
        pooling: str = "mean", normalizes: bool = True, licence: str = _APACHE, was_run_here: bool = False
        ) -> WellKnownModel:
    """One of the sentence-transformers project's own."""
    return _embedding(f"sentence-transformers/{name}", model_type, dimensions, max_length, pooling, normalizes, licence,
                      megabytes, was_run_here=was_run_here)


def _embedding(name: str, model_type: str, dimensions: int, max_length: int, pooling: str, normalizes: bool | None,
               licence: str, megabytes: int | None, prompts: tuple[tuple[str, str], ...] = (), gated: bool = False,
               has_own_code: bool = False, was_run_here: bool = False) -> WellKnownModel:
    return WellKnownModel(name, model_type, dimensions=dimensions, max_length=max_length, pooling=pooling,
                          normalizes=normalizes, licence=licence, megabytes=megabytes, prompts=prompts, gated=gated,
                          was_run_here=was_run_here, has_own_code=has_own_code)


def _head(kind: str, name: str, model_type: str, labels: int, max_length: int, licence: str, megabytes: int | None,
          has_own_code: bool = False) -> WellKnownModel:
    return WellKnownModel(name, model_type, kind, labels=labels, max_length=max_length, licence=licence,
                          megabytes=megabytes, has_own_code=has_own_code)


def _encoder(name: str, model_type: str, dimensions: int, max_length: int, licence: str, megabytes: int | None
             ) -> WellKnownModel:
    return WellKnownModel(name, model_type, ENCODER, dimensions=dimensions, max_length=max_length, licence=licence,
                          megabytes=megabytes)


WELL_KNOWN: tuple[WellKnownModel, ...] = (
    _st("all-MiniLM-L6-v2", "bert", 384, 256, 91, was_run_here=True),
    _st("all-MiniLM-L12-v2", "bert", 384, 128, 133),
    _st("all-mpnet-base-v2", "mpnet", 768, 384, 438, was_run_here=True),
    _st("all-distilroberta-v1", "roberta", 768, 512, 328),
    _st("all-roberta-large-v1", "roberta", 1024, 256, 1421),
    _st("multi-qa-MiniLM-L6-cos-v1", "bert", 384, 512, 91),
    _st("multi-qa-distilbert-cos-v1", "distilbert", 768, 512, 265),
    _st("multi-qa-mpnet-base-cos-v1", "mpnet", 768, 512, 438),
    _st("multi-qa-mpnet-base-dot-v1", "mpnet", 768, 512, 438, "cls", False),
    _st("msmarco-distilbert-base-tas-b", "distilbert", 768, 512, 265, "cls", False),
    _st("paraphrase-MiniLM-L6-v2", "bert", 384, 128, 91, normalizes=False),
    _st("paraphrase-multilingual-MiniLM-L12-v2", "bert", 384, 128, 471, normalizes=False),
    _st("paraphrase-multilingual-mpnet-base-v2", "xlm-roberta", 768, 128, 1112, normalizes=False),
    _st("distiluse-base-multilingual-cased-v2", "distilbert", 512, 128, 539, normalizes=False),
    _st("LaBSE", "bert", 768, 256, 1884, "cls"),
    _embedding("BAAI/bge-small-en-v1.5", "bert", 384, 512, "cls", True, _MIT, 133, _BGE),
    _embedding("BAAI/bge-base-en-v1.5", "bert", 768, 512, "cls", True, _MIT, 438, _BGE),
    _embedding("BAAI/bge-large-en-v1.5", "bert", 1024, 512, "cls", True, _MIT, 1341, _BGE),
    _embedding("BAAI/bge-small-zh-v1.5", "bert", 512, 512, "cls", True, _MIT, 96, _BGE_ZH),
    _embedding("BAAI/bge-base-zh-v1.5", "bert", 768, 512, "cls", True, _MIT, 409, _BGE_ZH),
    _embedding("BAAI/bge-large-zh-v1.5", "bert", 1024, 512, "cls", True, _MIT, 1302, _BGE_ZH),
    _embedding("BAAI/bge-m3", "xlm-roberta", 1024, 8192, "cls", True, _MIT, 2271),
    _embedding("intfloat/e5-small-v2", "bert", 384, 512, "mean", True, _MIT, 133, _E5),
    _embedding("intfloat/e5-base-v2", "bert", 768, 512, "mean", True, _MIT, 438, _E5),
    _embedding("intfloat/e5-large-v2", "bert", 1024, 512, "mean", True, _MIT, 1341, _E5),
    _embedding("intfloat/multilingual-e5-small", "bert", 384, 512, "mean", True, _MIT, 471, _E5),
    _embedding("intfloat/multilingual-e5-base", "xlm-roberta", 768, 512, "mean", True, _MIT, 1112, _E5),
    _embedding("intfloat/multilingual-e5-large", "xlm-roberta", 1024, 512, "mean", True, _MIT, 2240, _E5),
    _embedding("intfloat/multilingual-e5-large-instruct", "xlm-roberta", 1024, 512, "mean", True, _MIT, None,
               _INSTRUCT),
    _embedding("thenlper/gte-small", "bert", 384, 512, "mean", True, _MIT, 67),
    _embedding("thenlper/gte-base", "bert", 768, 512, "mean", True, _MIT, 219),
    _embedding("thenlper/gte-large", "bert", 1024, 512, "mean", True, _MIT, 670),
    _embedding("Alibaba-NLP/gte-base-en-v1.5", "new", 768, 8192, "cls", None, _APACHE, None, has_own_code=True),
    _embedding("Alibaba-NLP/gte-large-en-v1.5", "new", 1024, 8192, "cls", None, _APACHE, None, has_own_code=True),
    _embedding("Alibaba-NLP/gte-multilingual-base", "new", 768, 8192, "cls", True, _APACHE, None, has_own_code=True),
    _embedding("Alibaba-NLP/gte-modernbert-base", "modernbert", 768, 8192, "cls", None, _APACHE, None),
    _embedding("nomic-ai/nomic-embed-text-v1.5", "nomic_bert", 768, 8192, "mean", None, _APACHE, 547, _NOMIC),
    _embedding("nomic-ai/modernbert-embed-base", "modernbert", 768, 8192, "mean", True, _APACHE, 596, _MODERN_NOMIC),
    _embedding("mixedbread-ai/mxbai-embed-large-v1", "bert", 1024, 512, "cls", None, _APACHE, 670, _BGE),
    _embedding("WhereIsAI/UAE-Large-V1", "bert", 1024, 512, "cls", None, _MIT, 1341, _BGE),
    _embedding("Snowflake/snowflake-arctic-embed-xs", "bert", 384, 512, "cls", True, _APACHE, 90, _BGE),
    _embedding("Snowflake/snowflake-arctic-embed-s", "bert", 384, 512, "cls", True, _APACHE, 133, _BGE),
    _embedding("Snowflake/snowflake-arctic-embed-m", "bert", 768, 512, "cls", True, _APACHE, 436, _BGE),
    _embedding("Snowflake/snowflake-arctic-embed-m-v1.5", "bert", 768, 512, "cls", True, _APACHE, 436, _BGE),
    _embedding("Snowflake/snowflake-arctic-embed-l", "bert", 1024, 512, "cls", True, _APACHE, 1336, _BGE),
    _embedding("Snowflake/snowflake-arctic-embed-l-v2.0", "xlm-roberta", 1024, 8192, "cls", True, _APACHE, 2271,
               _ARCTIC_2),
    _embedding("Snowflake/snowflake-arctic-embed-m-v2.0", "gte", 768, 8192, "cls", True, _APACHE, None,
               _ARCTIC_2),
    _embedding("ibm-granite/granite-embedding-30m-english", "roberta", 384, 512, "cls", None, _APACHE, None),
    _embedding("ibm-granite/granite-embedding-107m-multilingual", "xlm-roberta", 384, 512, "cls", None, _APACHE, None),
    _embedding("google/embeddinggemma-300m", "gemma3_text", 768, 2048, "mean", True, "Gemma", 1211, _GEMMA, gated=True),
    _embedding("Qwen/Qwen3-Embedding-0.6B", "qwen3", 1024, 32768, "last", True, _APACHE, 1192, _QWEN),
    _embedding("jinaai/jina-embeddings-v3", "xlm-roberta", 1024, 8192, "mean", True, "CC-BY-NC-4.0", 1144,
               has_own_code=True),
    _head(PAIRS, "cross-encoder/ms-marco-MiniLM-L6-v2", "bert", 1, 512, _APACHE, 91),
    _head(PAIRS, "cross-encoder/ms-marco-MiniLM-L12-v2", "bert", 1, 512, _APACHE, 133),
    _head(PAIRS, "cross-encoder/ms-marco-electra-base", "electra", 1, 512, _APACHE, 438),
    _head(PAIRS, "BAAI/bge-reranker-base", "xlm-roberta", 1, 512, _MIT, 1112),
    _head(PAIRS, "BAAI/bge-reranker-large", "xlm-roberta", 1, 512, _MIT, 2240),
    _head(PAIRS, "BAAI/bge-reranker-v2-m3", "xlm-roberta", 1, 8192, _APACHE, 2271),
    _head(PAIRS, "Alibaba-NLP/gte-reranker-modernbert-base", "modernbert", 1, 8192, _APACHE, None),
    _head(PAIRS, "Alibaba-NLP/gte-multilingual-reranker-base", "new", 1, 8192, _APACHE, None, has_own_code=True),
    _head(PAIRS, "mixedbread-ai/mxbai-rerank-base-v1", "deberta-v2", 1, 512, _APACHE, None),
    _head(PAIRS, "cross-encoder/stsb-distilroberta-base", "roberta", 1, 512, _APACHE, 328),
    _head(PAIRS, "cross-encoder/stsb-roberta-base", "roberta", 1, 512, _APACHE, 499),
    _head(PAIRS, "cross-encoder/stsb-roberta-large", "roberta", 1, 512, _APACHE, 1421),
    _head(PAIRS, "cross-encoder/nli-deberta-v3-small", "deberta-v2", 3, 512, _APACHE, 568),
    _head(PAIRS, "cross-encoder/nli-deberta-v3-base", "deberta-v2", 3, 512, _APACHE, 738),
    _head(CLASSIFIER, "distilbert/distilbert-base-uncased-finetuned-sst-2-english", "distilbert", 2, 512, _APACHE, 268),
    _head(CLASSIFIER, "unitary/toxic-bert", "bert", 6, 512, _APACHE, 438),
    _head(CLASSIFIER, "SamLowe/roberta-base-go_emotions", "roberta", 28, 512, _MIT, 499),
    _encoder("google-bert/bert-base-uncased", "bert", 768, 512, _APACHE, 440),
    _encoder("google-bert/bert-base-cased", "bert", 768, 512, _APACHE, 436),
    _encoder("google-bert/bert-base-multilingual-cased", "bert", 768, 512, _APACHE, 714),
    _encoder("distilbert/distilbert-base-uncased", "distilbert", 768, 512, _APACHE, 268),
    _encoder("FacebookAI/roberta-base", "roberta", 768, 512, _MIT, 499),
    _encoder("FacebookAI/xlm-roberta-base", "xlm-roberta", 768, 512, _MIT, 1116),
    _encoder("almanach/camembert-base", "camembert", 768, 512, _MIT, None),
    _encoder("microsoft/mpnet-base", "mpnet", 768, 512, _MIT, None),
    _encoder("google/electra-base-discriminator", "electra", 768, 512, _APACHE, None),
    _encoder("albert/albert-base-v2", "albert", 768, 512, _APACHE, 47),
    _encoder("answerdotai/ModernBERT-base", "modernbert", 768, 8192, _APACHE, 599),
    _encoder("answerdotai/ModernBERT-large", "modernbert", 1024, 8192, _APACHE, 1583),
    _encoder("EuroBERT/EuroBERT-210m", "eurobert", 768, 8192, _APACHE, None),
    _encoder("microsoft/deberta-v3-base", "deberta-v2", 768, 512, _MIT, None),
)
"""Every row; whether a model is served follows from the table of architectures."""
