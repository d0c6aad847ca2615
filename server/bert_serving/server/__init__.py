"""The server: maps sentences of any length to vectors of one length with BERT.

What users import from here is loaded when it is asked for, so that ``bert-serving-start -h`` answers at once.
"""
from __future__ import annotations

from typing import Any

__version__ = "2.0.0"
__all__ = ["BertServer", "__version__", "get_args_parser"]


def __getattr__(name: str) -> Any:
    if name == "BertServer":
        from .service import BertServer
        return BertServer
    if name == "get_args_parser":
        from .config import get_args_parser
        return get_args_parser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
