"""Bulk jobs: files of any size in, a file of vectors out, asking a server as any client does."""
from typing import Any

__all__ = ["encode_dataset"]


def __getattr__(name: str) -> Any:
    if name == "encode_dataset":  # most do without Ray, and the command is quick to say what it is
        from .dataset import encode_dataset
        return encode_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
