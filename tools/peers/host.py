"""The machine, as far as figures depend on it."""
from __future__ import annotations

import platform
import re
from pathlib import Path

from bert_serving.client.words import counted
from bert_serving.server.machine import allowed_cores

INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd",
                "asimddp", "i8mm", "bf16")
"""What products of matrices are made of, as /proc/cpuinfo names it."""


def describe(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """ "2 cores, AMD EPYC (avx2), Linux x86_64, Python 3.11.7" """
    try:
        text = cpuinfo.read_text()
    except OSError:
        text = ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    present = [name for name in INSTRUCTIONS if name in text.split()]
    processor = (model[1] if model else platform.processor() or "processor") + f" ({', '.join(present) or 'unknown'})"
    return (f"{counted(allowed_cores(), 'core')}, {processor}, {platform.system()} {platform.machine()}, "
            f"Python {platform.python_version()}")
