"""The precisions that a model can be computed in: one table for everybody who has to know something about one."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Precision:
    """One row of :data:`PRECISIONS`.

    Attributes:
        name: the value of -precision.
        about: what it is, for the option's help text.
        weight_bytes: most of one weight of a matrix product, in a worker's memory; with 16 bits it may compute in fp32.
        stored_bytes: of one weight in an artefact, which with 16 bits has both.
        answer_dtype: NumPy's name for the type of the vectors that leave the server.
        tolerance: most that a value of a vector may change between two runs of one engine, whatever else is in the
            batch; as a share of the value where that is above 1.
        least_cosine: least cosine of the vectors that two engines or two machines compute for one text.
        cpu_features: flags of a processor, each of which means that it has instructions for this precision; empty: it
            takes none.
        without_features: what to expect of it on other processors, as measured: see docs/performance.md.
    """

    name: str
    about: str
    weight_bytes: int
    stored_bytes: int
    answer_dtype: str = "float32"
    tolerance: float
    least_cosine: float
    cpu_features: frozenset[str] = frozenset()
    without_features: str = ""


PRECISIONS = {precision.name: precision for precision in (
    Precision(name="fp32", about="exact", weight_bytes=4, stored_bytes=4, tolerance=1e-3, least_cosine=0.9999),
    Precision(name="int8", about="engines native and lite: weights and activations in 8 bits, faster on processors "
              "that have instructions for it, a little less exact", weight_bytes=1, stored_bytes=1, tolerance=1e-3,
              least_cosine=0.99,
              cpu_features=frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}),
              without_features="it makes one sentence alone faster, and the rest hardly"),
    Precision(name="bf16", about="engines native and graph: matrix products in 16 bits", weight_bytes=4, stored_bytes=6,
              tolerance=1e-1, least_cosine=0.999,
              cpu_features=frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
              without_features="fp32 is faster, and exact"),
    Precision(name="fp16", about="engine graph: matrix products and the answers in half precision", weight_bytes=4,
              stored_bytes=6, answer_dtype="float16", tolerance=5e-2, least_cosine=0.999,
              cpu_features=frozenset({"avx512_fp16", "amx_fp16", "asimdhp"}),
              without_features="fp32 is faster, and exact"),
)}
"""Name -> precision, the default first."""


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Words by which Linux tells what instructions the processor has, among others; none where it does not tell."""
    try:
        return frozenset(cpuinfo.read_text().split())
    except OSError:
        return frozenset()
