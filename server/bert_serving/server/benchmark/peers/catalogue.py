"""Who takes part: this project's engines, and what a user would take instead."""
from __future__ import annotations

from dataclasses import dataclass

TEI = "text-embeddings-inference"


@dataclass(frozen=True)
class Peer:
    """One engine at one precision.

    Attributes:
        name: as --peers takes it.
        title: as in the tables.
        precision: fp32, bf16 or int8.
        environment: a key of environments.ENVIRONMENTS; None: this project's own.
        engine: a key of engines.ENGINES.
        form: which of a model's forms it reads, as models.Forms.path takes it.
    """

    name: str
    title: str
    precision: str
    environment: str | None
    engine: str
    form: str


PEERS = {peer.name: peer for peer in (
    Peer("original-graph", "the original's graph, padded, on TensorFlow", "fp32", "tensorflow", "original",
         "tensorflow/model"),
    Peer("own-fp32", "bert-as-service", "fp32", None, "own", ""),
    Peer("pytorch", "sentence-transformers on PyTorch", "fp32", "pytorch", "pytorch", ""),
    Peer("onnxruntime-fp32", "ONNX Runtime", "fp32", "onnxruntime", "onnxruntime", "fused/fp32.onnx"),
    Peer("openvino-fp32", "OpenVINO", "fp32", "openvino", "openvino", "exported/model.onnx"),
    Peer("openvino-bf16", "OpenVINO bf16", "bf16", "openvino", "openvino", "exported/model.onnx"),
    Peer("own-int8", "bert-as-service int8", "int8", None, "own", ""),
    Peer("onnxruntime-int8", "ONNX Runtime int8, dynamic", "int8", "onnxruntime", "onnxruntime", "fused/int8.onnx"),
    Peer("openvino-int8", "OpenVINO int8, calibrated", "int8", "openvino", "openvino", "calibrated/int8.xml"),
)}
"""By name, in the order of the tables."""

OWN = ("own-fp32", "own-int8")

BASE = "original-graph"
"""What all others are multiples of."""

EXACT = "own-fp32"
"""Whose vectors the cosines are taken to; tests compare these with an independent implementation's."""

NOT_FROM_A_REGISTRY = {
    TEI: "it comes as container images, or as source in Rust that fetches more while it is built; pip has no package"}
"""Peers that pip cannot install -> why."""
