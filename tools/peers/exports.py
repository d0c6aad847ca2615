"""What peers read, made from a model's directory, each step run by the Python of the environment that has its library.

    python exports.py onnx MODEL_DIR RAW.onnx                        in PyTorch's
    python exports.py optimize RAW.onnx FP32.onnx INT8.onnx          in PyTorch's, with ONNX Runtime
    python exports.py ctranslate2 MODEL_DIR DIR                      in PyTorch's, with CTranslate2
    python exports.py calibrate RAW.onnx SEQUENCES.json INT8.xml     in OpenVINO's

Run as a file, as engines.py is. Each does what the library's own documentation recommends for BERT on a CPU.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def onnx(model_dir: str, target: str) -> None:
    """The encoder: input_ids and attention_mask, int64 [B, L] -> float32 [B, L, D]."""
    import torch
    from transformers import AutoModel

    class ExportedEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(model_dir, attn_implementation="eager",
                                                   add_pooling_layer=False)

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.randint(1000, 2000, (3, 7))
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 5:] = 0
    names = ["input_ids", "attention_mask"]
    axes = {name: {0: "batch", 1: "length"} for name in (*names, "hidden")}
    torch.onnx.export(ExportedEncoder().eval(), (ids, mask), target, input_names=names, output_names=["hidden"],
                      dynamic_axes=axes, opset_version=17, dynamo=False)


def optimize(source: str, exact: str, quantized: str, num_heads: str, hidden_size: str) -> None:
    """ONNX Runtime's fused operators for BERT; then its dynamic quantization, weights per channel."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    model = optimizer.optimize_model(source, model_type="bert", num_heads=int(num_heads),
                                     hidden_size=int(hidden_size))
    print(model.get_fused_operator_statistics())
    model.save_model_to_file(exact)
    # Its shape inference does not know its own fused operators' results.
    quantize_dynamic(exact, quantized, per_channel=True, weight_type=QuantType.QInt8,
                     extra_options={"DefaultTensorType": TensorProto.FLOAT})


def ctranslate2(model_dir: str, target: str) -> None:
    """CTranslate2's own form; it chooses the type of the weights when it loads them."""
    from ctranslate2.converters import TransformersConverter
    from transformers import BertConfig

    # The converter reads this attribute, which transformers 5 has dropped: positions are always absolute there.
    BertConfig.position_embedding_type = "absolute"
    TransformersConverter(model_dir).convert(target)


def calibrate(source: str, sequences: str, target: str) -> None:
    """NNCF's post-training quantization of a transformer, its ranges taken from these sequences."""
    import nncf
    import openvino as ov

    def inputs(sequence: list[int]) -> dict[str, np.ndarray]:
        ids = np.array([sequence], np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    data = nncf.Dataset(json.loads(Path(sequences).read_text()), inputs)
    model = nncf.quantize(ov.Core().read_model(source), data, model_type=nncf.ModelType.TRANSFORMER,
                          subset_size=300)
    ov.save_model(model, target, compress_to_fp16=False)


STEPS: dict[str, Callable[..., None]] = {
    "onnx": onnx, "optimize": optimize, "ctranslate2": ctranslate2, "calibrate": calibrate}


if __name__ == "__main__":
    STEPS[sys.argv[1]](*sys.argv[2:])
