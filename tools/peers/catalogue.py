"""Who takes part: this project's engines, and what a user would take instead."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TEI = "text-embeddings-inference"


@dataclass(frozen=True)
class Peer:
    """One engine at one precision.

    Attributes:
        name: as --peers takes it.
        title: as in the tables; it names no precision, since these show beside it what the peer's runtime reports.
        precision: what it is asked for: fp32, bf16 or int8.
        environment: a key of environments.ENVIRONMENTS; None: this project's own.
        engine: a key of engines.ENGINES.
        form: which of a model's forms it reads, as models.Forms.path takes it.
        hint: precision that the rest may be computed in: bf16, where int8 is only the products'; None: fp32.
        backend: of this project's own, the value of -engine.
        variables: of the environment of its process.
    """

    name: str
    title: str
    precision: str
    environment: str | None
    engine: str
    form: str
    hint: str | None = None
    backend: str = "auto"
    variables: Mapping[str, str] = field(default_factory=dict)


PEERS = {peer.name: peer for peer in (
    Peer("original-graph", "the original's graph, padded, on TensorFlow", "fp32", "tensorflow", "original",
         "tensorflow/model"),
    Peer("own-fp32", "bert-as-service", "fp32", None, "own", ""),
    Peer("own-lite-fp32", "bert-as-service, lite", "fp32", None, "own", "", backend="lite"),
    Peer("pytorch", "sentence-transformers on PyTorch", "fp32", "pytorch", "pytorch", ""),
    Peer("onnxruntime-fp32", "ONNX Runtime", "fp32", "onnxruntime", "onnxruntime", "fused/fp32.onnx"),
    Peer("openvino-fp32", "OpenVINO", "fp32", "openvino", "openvino", "exported/model.onnx"),
    Peer("ctranslate2-fp32", "CTranslate2", "fp32", "ctranslate2", "ctranslate2", "ctranslate2/model"),
    # Its own choice on processors that are not Intel's is oneDNN, which is slower there on short texts, in fp32 only.
    Peer("ctranslate2-fp32-mkl", "CTranslate2, with MKL", "fp32", "ctranslate2", "ctranslate2", "ctranslate2/model",
         variables={"CT2_USE_MKL": "1"}),
    Peer("own-bf16", "bert-as-service", "bf16", None, "own", ""),
    Peer("pytorch-bf16", "sentence-transformers on PyTorch", "bf16", "pytorch", "pytorch", ""),
    Peer("openvino-bf16", "OpenVINO", "bf16", "openvino", "openvino", "exported/model.onnx"),
    Peer("own-int8", "bert-as-service", "int8", None, "own", ""),
    Peer("own-lite-int8", "bert-as-service, lite", "int8", None, "own", "", backend="lite"),
    Peer("onnxruntime-int8", "ONNX Runtime, quantized dynamically", "int8", "onnxruntime", "onnxruntime",
         "fused/int8.onnx"),
    Peer("openvino-int8", "OpenVINO, quantized after calibration", "int8", "openvino", "openvino",
         "calibrated/int8.xml"),
    Peer("openvino-int8-bf16", "OpenVINO, quantized after calibration, the rest in 16 bits", "int8", "openvino",
         "openvino", "calibrated/int8.xml", hint="bf16"),
    Peer("ctranslate2-int8", "CTranslate2", "int8", "ctranslate2", "ctranslate2", "ctranslate2/model"),
)}
"""By name, in the order of the tables."""

OWN = ("own-fp32", "own-bf16", "own-int8")
"""What this project computes with by default; each is compared with the others."""

OTHERS = tuple(name for name, peer in PEERS.items() if peer.environment)
"""What is not this project's."""

BASE = "original-graph"
"""What all others are multiples of."""

EXACT = "own-fp32"
"""Whose vectors the cosines are taken to; tests compare these with an independent implementation's."""


@dataclass(frozen=True)
class ServerPeer:
    """One server.

    Attributes:
        name: as --servers takes it.
        title: as in the tables.
        precision: fp32 or int8.
        environment: a key of environments.ENVIRONMENTS; None: this project's own.
        engine: of PEERS, the one that it has, where that is this project's.
        is_http: it is asked over HTTP, in OpenAI's words; else over ZeroMQ, by BertClient.
        about: how it was started.
    """

    name: str
    title: str
    precision: str
    environment: str | None
    engine: str | None
    is_http: bool
    about: str


SERVERS = {server.name: server for server in (
    ServerPeer("original", "the original server", "fp32", "original", None, False,
           "bert-serving-server 1.10.0, unmodified, TensorFlow 1.12.0, Python 3.6, -num_worker 1"),
    ServerPeer("own-fp32", "bert-as-service", "fp32", None, "own-fp32", False, "as bert-serving-start starts it"),
    ServerPeer("own-int8", "bert-as-service int8", "int8", None, "own-int8", False, "-precision int8"),
    ServerPeer("own-http", "bert-as-service over HTTP", "fp32", None, "own-fp32", True, "-http_port, /v1/embeddings"),
    ServerPeer("infinity", "infinity over HTTP", "fp32", "infinity", None, True, "--engine torch, /embeddings"),
)}
"""By name, in the order of the tables."""

ORIGINAL = "original"
"""The server that all others are multiples of."""

NOT_FROM_A_REGISTRY = {
    TEI: "it comes as container images, or as source in Rust that fetches more while it is built; pip has no package"}
"""Peers that pip cannot install -> why."""
