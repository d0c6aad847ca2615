"""Which files of a directory hold the weights, and what a directory or a file is that holds none.

Nothing here needs TensorFlow, and no weights are read: at most the first bytes of a file.
"""
from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bert_serving.client.words import counted

from ..config import FromModel
from ..core.files import read_json
from ..errors import ModelError

SAFETENSORS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth")
INDEX = ".index.json"

WHOLE = ("model.safetensors", "pytorch_model.bin")
"""Hugging Face's names of weights in one file, best first."""
USUAL = tuple(name + ending for name in WHOLE for ending in ("", INDEX))
"""Those, and the indexes of several files."""

MAX_SHARDS = 200
MAX_INDEX = 16_000_000
"""Bytes of an index; that of a BERT has 20,000."""
MAX_ENTRIES = 2000
"""Entries of a directory that are looked at for a hint."""

UNREAD = (
    (("*.onnx", "onnx/*.onnx"), "ONNX"),
    (("openvino_model*.xml", "openvino/*.xml"), "OpenVINO"),
    (("*.h5", "*.keras"), "TensorFlow 2 (Keras)"),
    (("*.msgpack",), "Flax"),
    (("*.gguf",), "GGUF"),
    (("saved_model.pb", "saved_model/saved_model.pb", "saved_model/*/saved_model.pb"), "a TensorFlow SavedModel"),
    (("*.ot",), "Rust"),
    (("*.tflite",), "TensorFlow Lite"),
    (("*.mlmodel", "*.mlpackage", "coreml/*"), "Core ML"),
)
"""Files with weights that are not read: how they are called, and what they are."""

SHARD = re.compile(r"-\d+-of-\d+\.(safetensors|bin)$")
"""Ends the name of one of several files of weights."""

SAVE = "save the model with transformers' save_pretrained"


def is_safetensors(path: str | Path) -> bool:
    return str(path).endswith(SAFETENSORS)


def is_hugging_face(path: str | Path) -> bool:
    """Weights that are no TensorFlow checkpoint: safetensors or torch's, one file or the index of several."""
    return str(path).endswith((SAFETENSORS, INDEX, *PICKLES))


def listing(names: Iterable[str], most: int = 4) -> str:
    """ "a, b, c and 9 more" """
    names = list(names)
    shown = ", ".join(map(printable, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def printable(name: str) -> str:
    """A name from a file that anybody may have written, for a line of the log."""
    return name if name.isprintable() and len(name) <= 200 else f"{name[:200]!r}"


# ---- the files that belong together ----------------------------------------------------------------------------------

def checkpoint_files(path: str | Path) -> list[Path]:
    """All files that hold the weights, the index included.

    Args:
        path: a file of weights, the index of several, or the prefix of a TensorFlow checkpoint.
    Raises:
        ModelError: some are not there, or the index is none.
    """
    if str(path).endswith(INDEX):
        return [Path(path), *shards(path, weight_map(path))]
    return [Path(path)] if is_hugging_face(path) else tensorflow_checkpoint_files(path)


def weight_map(index: str | Path) -> dict[str, Path]:
    """Variable -> the file that holds it, as Hugging Face's index of several files of weights says.

    Raises:
        ModelError: it is no such index, or names files of other directories.
    """
    index = Path(index)
    try:
        if index.stat().st_size > MAX_INDEX:
            raise ModelError(f"{index} has {counted(index.stat().st_size, 'byte')}, expected {MAX_INDEX} at most")
        values = read_json(index)
    except (OSError, ValueError) as error:
        raise unreadable(index, error) from error
    names = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{index} has no weight_map, which says what file each variable is in")
    # torch's files are told by their names, too: a safetensors index cannot lead to a pickle.
    ending = SAFETENSORS if str(index).endswith(SAFETENSORS + INDEX) else PICKLES
    files = sorted(set(names.values()))
    for name in files:
        if re.search(r"[/\\\0]", name) or not name.endswith(ending):
            raise ModelError(f"{index} names a file {printable(name)}, expected one of its own directory that ends in "
                             f"{ending if isinstance(ending, str) else ' or '.join(ending)}")
    if len(files) > MAX_SHARDS:
        raise ModelError(f"{index} names {counted(len(files), 'file')}, expected {MAX_SHARDS} at most")
    return {name: index.parent / file for name, file in names.items()}


def shards(index: str | Path, table: Mapping[str, Path]) -> list[Path]:
    """The files that an index names, each of which is there.

    Args:
        table: what weight_map says of it.
    Raises:
        ModelError: some are not.
    """
    files = sorted(set(table.values()))
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ModelError(f"{index} names {counted(len(files), 'file')}, of which {listing(missing)} "
                         f"{'is' if len(missing) == 1 else 'are'} missing; fetch the model again")
    return files


def tensorflow_checkpoint_files(prefix: str | Path) -> list[Path]:
    """The files of a checkpoint: its index, then all of its data. Needs no TensorFlow.

    Raises:
        ModelError: some are not there.
    """
    prefix = Path(prefix)
    index = Path(f"{prefix}.index")
    if not index.is_file():
        others = sorted(path.name for path in prefix.parent.glob("*") if path.is_file()) \
            if prefix.parent.is_dir() else []
        raise ModelError(f"there is no checkpoint {prefix} (no {index.name}); "
                         f"{prefix.parent} holds {listing(others, 12) or 'nothing'}")
    data = sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}.data-*-of-*"))
    totals = {path.name.rpartition("-")[2] for path in data}
    if len(totals) != 1 or not totals <= {f"{len(data):05d}"}:
        raise ModelError(f"the checkpoint {prefix} is incomplete: beside {index.name} there is "
                         f"{listing([path.name for path in data]) or 'no data file'}")
    return [index, *data]


def whole_weights(directory: Path) -> Path | None:
    """The weights of a module, which come in one file; None: there are none."""
    return next((path for name in WHOLE if (path := directory / name).is_file()), None)


# ---- the weights of a directory --------------------------------------------------------------------------------------

def find_weights(directory: Path, given: str | FromModel) -> Path:
    """The weights of a directory.

    Args:
        given: as -ckpt_name says: name of a file, or prefix of a TensorFlow checkpoint; FromModel: the usual ones are
            looked for, Google's first, then safetensors, then torch's.
    Returns:
        A file of weights, the index of several, or the prefix of a TensorFlow checkpoint; all of its files are there.
    Raises:
        ModelError: there are none, or not all of them, or they are plainly something else (a Git LFS pointer), or the
            directory is an adapter; naming what there is.
    """
    found = _usual(directory, str(given.fallback)) if isinstance(given, FromModel) else _given(directory, given)
    for path in checkpoint_files(found):
        if wrong := wrong_content(path):
            raise ModelError(f"{path} {wrong}")
    return found


def _usual(directory: Path, checkpoint: str) -> Path:
    if adapter := adapter_fault(directory):
        raise ModelError(adapter)
    if (directory / f"{checkpoint}.index").is_file():
        return directory / checkpoint
    for name in USUAL:
        if (directory / name).is_file():
            return directory / name
        if (directory / name).is_symlink():
            raise ModelError(f"{directory / name} is a link to a file that is not there; fetch the model again")
    raise ModelError(f"{directory} has no supported weights: no {WHOLE[0]} or {WHOLE[1]}"
                     f"{_no_checkpoint(directory, checkpoint)}{_other_weights(directory)}")


def _given(directory: Path, name: str) -> Path:
    path = directory / name
    if is_hugging_face(name):
        if not path.is_file():
            raise ModelError(f"-ckpt_name {name}: {directory} has no such file, and holds "
                             f"{directory_content(directory)}; give the name of one of them, or leave it out")
        return path
    if path.exists() and (kind := _unread(path)):
        raise ModelError(f"-ckpt_name {name} is {kind}, which is not supported; {SAVE}, or leave it out")
    # The shell completes the names of files, of which a checkpoint's prefix is none.
    prefix = directory / re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", name)
    try:
        tensorflow_checkpoint_files(prefix)
    except ModelError as error:
        raise ModelError(f"-ckpt_name {name}: {error.message}; give the prefix of one that is there, or leave it "
                         "out") from None
    return prefix


def _no_checkpoint(directory: Path, checkpoint: str) -> str:
    """Google's format is only spoken of where the configuration is not Hugging Face's."""
    is_hugging_face = (directory / "config.json").is_file() and not (directory / "bert_config.json").is_file()
    return "" if is_hugging_face else f", no checkpoint {checkpoint}"


def _other_weights(directory: Path) -> str:
    """What else there is, and what to do."""
    names = [path.name for path in _entries(directory)]
    usable = [name for name in names if name.endswith((SAFETENSORS, *PICKLES)) and not _is_by_the_way(name)]
    indexes = [name for name in usable if name + INDEX in names]
    usable = indexes or usable
    usable += [name.removesuffix(".index") for name in names if name.endswith(".index")]
    if usable:
        return f"; there is {listing(usable, 8)}: give -ckpt_name {printable(usable[0])}" \
               f"{' or another of them' if len(usable) > 1 else ''}"
    parts = [name for name in names if SHARD.search(name)]
    if parts:
        return f"; there is {listing(parts)}, without the index that says what is in them; fetch the model again"
    return _unread_hint(directory) or hint_for(directory) or f"; it holds {directory_content(directory)}"


def _is_by_the_way(name: str) -> bool:
    """Whether a file with such an ending holds something else than a model's weights."""
    return name.startswith(("training_args", "optimizer", "scheduler", "scaler", "rng_state", "adapter_", "openvino_",
                            "tokenizer")) or bool(SHARD.search(name))


def _unread_hint(directory: Path) -> str:
    found = [f"{printable(path.relative_to(directory).as_posix())} ({kind})" for path, kind in _unread_in(directory)]
    return f"; {listing(found)} {'is' if len(found) == 1 else 'are'} not supported: {SAVE}" if found else ""


def _unread_in(directory: Path) -> Iterator[tuple[Path, str]]:
    for patterns, kind in UNREAD:
        for pattern in patterns:
            path = next(iter(directory.glob(pattern)), None)
            if path is not None:
                yield path, kind
                break


def _unread(path: Path) -> str | None:
    return next((kind for patterns, kind in UNREAD for pattern in patterns if path.match(pattern)), None)


def directory_content(directory: Path) -> str:
    """The names of what is in a directory, for messages."""
    return listing([path.name for path in _entries(directory)], 12) or "nothing"


def _entries(directory: Path) -> list[Path]:
    """In order of their names; not all of a very large directory."""
    try:
        return sorted(path for path, _ in zip(directory.iterdir(), range(MAX_ENTRIES), strict=False))
    except OSError:
        return []


# ---- what a directory is that is no model ----------------------------------------------------------------------------

def hint_for(directory: Path) -> str:
    """What to do with a directory that is no model, to follow a message that says what is missing.

    Returns:
        " ; give DIR/X", or that it is an adapter or weights of a kind that is not read, beginning with the semicolon;
        "" if it does not look like anything.
    """
    if adapter := adapter_fault(directory):
        return "; it" + adapter.removeprefix(str(directory))
    # A cache of huggingface_hub: models--ORG--NAME/snapshots/REVISION, and refs/main says which one is meant.
    found = [path for folder in (directory, *_folders(directory)) if (path := _snapshot(folder))]
    if not found:
        found = [folder for folder in _folders(directory) if _is_model(folder)]
    if not found:
        found = [inner for folder in _folders(directory)[:50] for inner in _folders(folder)[:50] if _is_model(inner)]
    if len(found) == 1:
        return f"; give {found[0]}"
    if found:
        return f"; it has several models: give one of {listing([str(path.relative_to(directory)) for path in found])}"
    return _unread_hint(directory)


def adapter_fault(directory: Path) -> str | None:
    """One line if this is an adapter (LoRA): its weights are a change of another model's. transformers applies it even
    where the other model's weights lie beside it."""
    config = directory / "adapter_config.json"
    if not config.is_file() and not (directory / "adapter_model.safetensors").is_file() \
            and not (directory / "adapter_model.bin").is_file():
        return None
    try:
        values: Any = read_json(config)
    except (OSError, ValueError):
        values = None
    base = values.get("base_model_name_or_path") if isinstance(values, dict) else None
    base = printable(base) if isinstance(base, str) and base else "another model"
    return (f"{directory} is an adapter for {base}, no model; merge the two: "
            "PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(NEW), and serve NEW")


def _snapshot(directory: Path) -> Path | None:
    """The snapshot that a folder of a Hub cache stands for."""
    snapshots = [path for path in _folders(directory / "snapshots") if _is_model(path)]
    try:
        with open(directory / "refs" / "main", "rb") as file:
            main = file.read(100).decode("ascii").strip()
    except (OSError, ValueError):
        main = ""
    chosen = [path for path in snapshots if path.name == main] or snapshots
    return chosen[0] if len(chosen) == 1 else None


def _folders(directory: Path) -> list[Path]:
    return [path for path in _entries(directory) if path.is_dir()]


def _is_model(directory: Path) -> bool:
    """A configuration of an encoder with weights beside it; modules of sentence-transformers, such as 2_Dense, have
    files of the same names."""
    if (directory / "modules.json").is_file() or (directory / "bert_config.json").is_file():
        return True
    if not any((directory / name).is_file() for name in USUAL):
        return False
    try:
        values = read_json(directory / "config.json")
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and ("model_type" in values or "hidden_size" in values)


# ---- what a file is that is not what its name says -------------------------------------------------------------------

def wrong_content(path: str | Path) -> str | None:
    """What a file is, if it is plainly not what its name says: a Git LFS pointer, a page, nothing at all.

    Returns:
        "is ..., what to do", to follow the file's name; None: it may be what it should.
    """
    path = Path(path)
    start = _start(path)
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return f"is a Git LFS pointer, not the file itself; run `git lfs pull` in {path.parent}"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not the file itself; download it again (a page about the file was saved in its place)"
    try:
        is_empty = path.is_file() and path.stat().st_size == 0
    except OSError:
        return None
    if is_empty:
        return "is empty; download it again"
    # A pickle begins as a safetensors file does whose header's length happens to be a number such as 640.
    has_header = re.match(rb"....\0\0\0\0\{\"", start, re.DOTALL) is not None
    if is_safetensors(path):
        if start.startswith(b"PK\3\4") or re.match(rb"\x80[\2-\5]", start) and not has_header:
            return f"is torch's, not safetensors; name it {WHOLE[1]}, or {SAVE}"
    elif str(path).endswith(PICKLES) and has_header:
        return f"is safetensors, not torch's; name it {WHOLE[0]}"
    return None


def unreadable(path: str | Path, error: Exception) -> ModelError:
    """The error of a file of weights that cannot be read, and what the file is instead."""
    if wrong := wrong_content(path):
        return ModelError(f"{path} {wrong}")
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    reason = "it is no JSON" if isinstance(error, json.JSONDecodeError) else reason
    return ModelError(f"cannot read the weights {path}: {reason.splitlines()[0] if reason else 'it is damaged'}")


def _start(path: str | Path) -> bytes:
    try:
        if not Path(path).is_file():
            return b""
        with open(path, "rb") as file:
            return file.read(200)
    except (OSError, ValueError):
        return b""
