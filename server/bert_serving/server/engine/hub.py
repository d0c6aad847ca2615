"""Models of the Hugging Face Hub: what their names are, which of their files are needed, and how those get here.

The library ``huggingface_hub`` moves the bytes, keeps the cache, resumes what broke off, and reads ``HF_TOKEN``,
``HF_HUB_OFFLINE``, ``HF_ENDPOINT`` and its other variables. Here is which files are wanted: configuration first, so
that a model that cannot be served costs no gigabytes, and weights last. Code in a repository is never fetched.
"""
from __future__ import annotations

import errno
import functools
import json
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

from bert_serving.client.words import counted

from ..core.files import read_json
from ..errors import ModelError
from .architectures import from_values
from .cache import user_cache
from .modules import class_of
from .static_model import MODEL2VEC
from .weight_files import INDEX, WHOLE, listing

logger = logging.getLogger(__name__)

T = TypeVar("T")

NAME = re.compile(r"(?![^@]*(?:--|\.\.))(?P<repo>(?:\w(?:[\w.-]{0,94}\w)?/)?\w(?:[\w.-]{0,94}\w)?)"
                  r"(?:@(?!.*\.\.)(?P<revision>\w[\w./-]{0,199}))?", re.ASCII)
"""``organization/name`` or ``name``, and ``@revision`` if need be: a branch, a tag or a commit."""

SMALL_FILES = ("config.json", "modules.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
               "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "sentence_*_config.json",
               "config_sentence_transformers.json", "router_config.json", "adapter_config.json")
"""What is fetched of each folder of a model beside its weights, wherever it is there."""

TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json")

MAX_CONFIG_BYTES = 10_000_000
"""Of a configuration: far more than any has."""

COMMIT = re.compile(r"[0-9a-f]{40}")


class HubError(Exception):
    """The Hub does not give what it was asked for; the message says why, and what to do."""


class HubUnreachable(HubError):
    """It was not asked, or gave no answer of its own: what is on this machine may do."""


@dataclass(frozen=True)
class HubName:
    """What a name means.

    Attributes:
        repo: as the Hub spells it, "organization/name" or "name".
        revision: a branch, tag or commit; None: the newest of the default branch.
    """

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """None if it cannot be a name of the Hub."""
        match = NAME.fullmatch(text)
        return cls(match["repo"], match["revision"]) if match else None


# ---- what a model needs ----------------------------------------------------------------------------------------------

def check_config(name: str, values: Any) -> None:
    """
    Raises:
        ModelError: no model with this ``config.json`` can be served.
    """
    if not isinstance(values, dict):
        raise ModelError(f"{name}: its config.json is not a JSON object")
    try:
        from_values(values)
    except ValueError as error:
        raise ModelError(f"{name}: its config.json does not describe a model that can be served: {error}") from error


def needed(name: str, files: Collection[str], read: Callable[[str], Any]) -> list[str]:
    """The files of a model that a server reads, weights last.

    Args:
        name: the model's, for messages.
        files: all that there are.
        read: gives the content of a JSON file, which may fetch it.
    Raises:
        ModelError: they do not make a model that can be served; nothing large was read.
    """
    files = {file for file in files if not {"", ".", ".."} & set(file.split("/")) and "\\" not in file}
    read = functools.cache(read)
    modules = _modules(name, read("modules.json")) if "modules.json" in files else _one_module(files, read)
    encoder = next((folder for folder, module in modules.items() if module == "Transformer"), None)
    if encoder is not None:
        _check_encoder(name, encoder, files, read)
    found = {"": [file for file in files if "/" not in file]}
    for folder, module in modules.items():
        # Git, and so the Hub, has no empty folders, as these mostly are.
        may_be_empty = not folder or module in ("Normalize", "Dropout")
        if not may_be_empty and not any(file.startswith(f"{folder}/") for file in files):
            raise ModelError(f"{name}: its modules.json names the folder {folder}, which it does not have")
    for file in files:
        if any(folder and file.startswith(f"{folder}/") for folder in modules):
            found.setdefault(str(PurePosixPath(file).parent), []).append(file)
    small, large = [], []
    for folder, content in sorted(found.items()):
        small += sorted(file for file in content if _is_small(file))
        if folder or encoder in ("", None):
            large += _weights(name, folder, set(content), read)
    if encoder is not None and not any(_parent(file) == encoder for file in large):
        raise ModelError(f"{name} has neither {' nor '.join(WHOLE)}; it holds {_some(found.get(encoder, []))}")
    return small + large


def _modules(name: str, values: Any) -> dict[str, str]:
    """Folder -> kind of module, in their order.

    Raises:
        ModelError: the file says something else.
    """
    if not isinstance(values, list) or not all(
            isinstance(module, dict) and isinstance(module.get("type"), str) and isinstance(module.get("path", ""), str)
            for module in values):
        raise ModelError(f"{name}: its modules.json is not a list of modules, each with a type and a path")
    # model2vec writes "." for the model's own folder.
    folders = ["" if (path := str(PurePosixPath(module.get("path", "").strip("/")))) == "." else path
               for module in values]
    kinds = [class_of(f"{name}: its modules.json", module["type"]) for module in values]
    return dict(reversed(list(zip(folders, kinds))))


def _one_module(files: Collection[str], read: Callable[[str], Any]) -> dict[str, str]:
    """Folder -> kind of module of a model without modules.json, as modules.read takes it."""
    config = read("config.json") if "config.json" in files else None
    is_static = isinstance(config, dict) and config.get("model_type") == MODEL2VEC
    if is_static:
        return {"": "StaticEmbedding"}
    return {"": "Transformer", **({"1_Pooling": "Pooling"} if "1_Pooling/config.json" in files else {})}


def _check_encoder(name: str, folder: str, files: Collection[str], read: Callable[[str], Any]) -> None:
    """
    Raises:
        ModelError: its configuration or its tokenizer is missing, or cannot be served.
    """
    inside = {PurePosixPath(file).name for file in files if _parent(file) == folder}
    config = f"{folder}/config.json".lstrip("/")
    if config not in files:
        if "adapter_config.json" in inside:
            raise ModelError(f"{name} is an adapter (LoRA) without its base model; merge it into that, and serve the "
                             "result")
        raise ModelError(f"{name} has no {config}, so it is no model that can be served; it holds {_some(files)}")
    check_config(name, read(config))
    if not inside & set(TOKENIZERS):
        raise ModelError(f"{name} has none of {', '.join(TOKENIZERS)}; save its tokenizer with "
                         "tokenizer.save_pretrained of today's transformers")


def _is_small(file: str) -> bool:
    return any(fnmatchcase(PurePosixPath(file).name, pattern) for pattern in SMALL_FILES)


def _parent(file: str) -> str:
    return file.rpartition("/")[0]


def _weights(name: str, folder: str, content: set[str], read: Callable[[str], Any]) -> list[str]:
    """The files with a folder's weights, in the best form that it has; none if it has none.

    Raises:
        ModelError: an index names files that are not there.
    """
    for form in WHOLE:
        whole = f"{folder}/{form}".lstrip("/")
        index = whole + INDEX
        if whole in content:
            return [whole]
        if index in content:
            values = read(index)
            table = values.get("weight_map") if isinstance(values, dict) else None
            if not isinstance(table, dict) or not table or not all(isinstance(file, str) for file in table.values()):
                raise ModelError(f"{name}: its {index} has no weight_map from variables to files")
            parts = sorted({f"{folder}/{file}".lstrip("/") for file in table.values()})
            missing = [part for part in parts if part not in content]
            if missing:
                raise ModelError(f"{name}: its {index} names {_some(missing)}, which it does not have")
            return [index, *parts]
    return []


def _some(files: Collection[str]) -> str:
    return listing(sorted(files), 6) or "nothing"


# ---- getting it ------------------------------------------------------------------------------------------------------

def is_at_hand(name: str) -> bool:
    """Whether :func:`get` would find that model on this machine without asking the Hub for it."""
    meant = HubName.parse(name)
    return meant is not None and _recorded(meant) is not None


def get(name: str, update: bool = False) -> Path:
    """The directory of a model of the Hub, in the cache that all programs with ``huggingface_hub`` share.

    A model that was fetched before is not asked for again: a restart serves what was served before.

    Args:
        update: ask for the newest commit of its revision, though there is one here.
    Raises:
        ModelError: it cannot be had, or cannot be served.
    """
    meant = HubName.parse(name)
    if meant is None:
        raise ModelError(f"{name!r} is no name of the Hugging Face Hub: these are name or organization/name, and "
                         "@revision if need be")
    here = _recorded(meant)
    if here is not None and not update:
        return here
    try:
        return _fetch(meant)
    except HubUnreachable as error:
        here = here or _complete_snapshot(meant)
        if here is not None:
            logger.info("%s; taking %s from the cache, %s", error, meant, here)
            return here
        raise ModelError(_told(meant, error)) from error
    except HubError as error:
        raise ModelError(_told(meant, error)) from error


def _told(meant: HubName, error: HubError) -> str:
    return f"there is no directory {meant}, and {error}"


def _fetch(meant: HubName) -> Path:
    """
    Raises:
        HubError: the Hub does not give it.
        ModelError: it cannot be served.
    """
    info = describe(meant)
    commit = info.commit or meant.revision or "main"

    @functools.cache
    def fetch(file: str) -> Path:
        return download(meant, file, commit)

    def read(file: str) -> Any:
        size = info.sizes.get(file)
        if size is not None and size > MAX_CONFIG_BYTES:
            raise ModelError(f"{meant}: its {file} has {size / 1e6:.0f} MB, expected {MAX_CONFIG_BYTES / 1e6:.0f} at "
                             "most")
        return _json(meant, file, fetch(file))

    wanted = needed(str(meant), info.sizes, read)
    total = sum(info.sizes[file] or 0 for file in wanted)
    logger.info("fetching %s from %s: %s, %.0f MB", meant, place(), counted(len(wanted), "file"), total / 1e6)
    for number, file in enumerate(wanted, start=1):
        if (info.sizes[file] or 0) >= 10_000_000:
            logger.info("fetching %s of %s, %.0f MB (file %d of %d)", file, meant, (info.sizes[file] or 0) / 1e6,
                        number, len(wanted))
        fetch(file)
    directory = fetch(wanted[0]).parents[wanted[0].count("/")]
    _record(meant, commit, directory, wanted)
    logger.info("%s is in %s", meant, directory)
    return directory


def _json(meant: HubName, file: str, path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{meant}: its {file} cannot be read: {error}") from error


# ---- what was fetched before -----------------------------------------------------------------------------------------

def _record_path(meant: HubName) -> Path:
    repo, revision = meant.repo.replace("/", "--"), quote(meant.revision or "main", safe="")
    return user_cache("hub") / f"{repo}@{revision}.json"


def _record(meant: HubName, commit: str, directory: Path, files: Collection[str]) -> None:
    """Note what a model consists of, once all of it is here: the cache itself does not tell whole from half."""
    path = _record_path(meant)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False, encoding="ascii") as file:
            json.dump({"name": str(meant), "commit": commit, "directory": str(directory), "files": list(files)}, file,
                      indent=1)
        os.replace(file.name, path)
    except OSError as error:
        logger.warning("cannot note in %s that %s is here, so it will be asked for again: %s", path.parent, meant,
                       error.strerror)


def fetched() -> dict[str, Path]:
    """Name -> directory of the models that were fetched, while all of them is still there."""
    found = {}
    for path in sorted(user_cache("hub").glob("*.json")):
        try:
            name = str(read_json(path)["name"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        meant = HubName.parse(name)
        directory = _recorded(meant) if meant is not None else None
        if directory is not None:
            found[name] = directory
    return found


def _recorded(meant: HubName) -> Path | None:
    """The directory of a model that was fetched, while all of it is still there."""
    try:
        noted = read_json(_record_path(meant))
        directory, files = Path(noted["directory"]), noted["files"]
        return directory if all((directory / file).is_file() for file in files) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _complete_snapshot(meant: HubName) -> Path | None:
    """A copy that another program fetched, if it is sure to be whole.

    Raises:
        ModelError: it is not, or cannot be served.
    """
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    storage = Path(constants.HF_HUB_CACHE) / f"models--{meant.repo.replace('/', '--')}"
    revision = meant.revision or "main"
    try:
        commit = revision if COMMIT.fullmatch(revision) else (storage / "refs" / revision).read_text("ascii").strip()
        snapshot = storage / "snapshots" / commit
        files = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
    except (OSError, ValueError):
        return None
    if not COMMIT.fullmatch(commit) or not files:
        return None
    # A program that computes the encoder alone never asks for modules.json: then vectors would differ without a word.
    is_told = {"modules.json", ".gitattributes"} & set(files)
    if not is_told and not (storage / ".no_exist" / commit / "modules.json").is_file():
        raise ModelError(f"{meant} is in the cache, {snapshot}, but it may be incomplete: it has no modules.json, and "
                         "the Hub cannot be asked whether the model has one; run bert-serving-model get where there is "
                         "a network, or give that directory as -model_dir if it is complete")
    needed(str(meant), files, lambda file: _json(meant, file, snapshot / file))
    return snapshot


# ---- asking the Hub --------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Description:
    """What the Hub says of a repository.

    Attributes:
        commit: 40 hexadecimal digits; None if it does not say.
        sizes: file -> bytes, None if it does not say.
        checksums: file -> SHA-256, of those that it keeps as large files.
    """

    commit: str | None
    sizes: Mapping[str, int | None]
    checksums: Mapping[str, str]


def place() -> str:
    """The Hub, for people: with its address where that is not the usual one."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return "the Hugging Face Hub"
    return "the Hugging Face Hub" + (
        "" if constants.ENDPOINT == "https://huggingface.co" else f" ({constants.ENDPOINT})")


def is_offline() -> bool:
    """Whether the Hub is not to be asked: ``HF_HUB_OFFLINE`` is set, or there is no library to ask it with."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return True
    return bool(constants.HF_HUB_OFFLINE)


def describe(meant: HubName, seconds: float | None = None) -> Description:
    """
    Args:
        seconds: until it counts as unreachable; by default twice what ``HF_HUB_ETAG_TIMEOUT`` says, which is 10.
    Raises:
        HubError: it does not say.
    """
    with _explained(meant):
        from huggingface_hub import HfApi, constants

        if constants.HF_HUB_OFFLINE:
            raise HubUnreachable(f"{place()} is not asked, since HF_HUB_OFFLINE is set; fetch the model where there is "
                                 "a network, or unset it")
        _quiet()
        seconds = seconds or 2.0 * constants.HF_HUB_ETAG_TIMEOUT
        api = HfApi(endpoint=constants.ENDPOINT)
        info = _within(seconds, lambda: api.model_info(meant.repo, revision=meant.revision, timeout=seconds,
                                                       files_metadata=True))
        siblings = info.siblings or []
        checksums = {file.rfilename: getattr(file.lfs, "sha256", None) for file in siblings if file.lfs is not None}
        return Description(commit=info.sha, sizes={file.rfilename: file.size for file in siblings},
                           checksums={file: checksum for file, checksum in checksums.items() if checksum})


def download(meant: HubName, file: str, commit: str | None = None, folder: Path | None = None) -> Path:
    """Where a file lies once it is fetched; what broke off before is resumed.

    Args:
        folder: put it there instead of into the shared cache.
    Raises:
        HubError: it cannot be had.
        ModelError: it cannot be written.
    """
    with _explained(meant, file):
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.utils import disable_progress_bars

        if constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not sys.stderr.isatty():
            disable_progress_bars()                    # Of use to people, not to a log.
        _quiet()
        return Path(hf_hub_download(meant.repo, file, revision=commit or meant.revision, endpoint=constants.ENDPOINT,
                                    etag_timeout=constants.HF_HUB_ETAG_TIMEOUT, cache_dir=constants.HF_HUB_CACHE,
                                    local_dir=folder))


def _quiet() -> None:
    """Leave the log to lines of ours: the library and its network layer log every request, and every try."""
    for name in ("huggingface_hub", "httpx", "httpx2", "httpcore"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What a call returns or raises. The resolver of names knows no limit of time, so it gets one here.

    Raises:
        TimeoutError: it takes longer; nobody waits for it any more.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:                 # Whatever it is, the caller's thread raises it.
            errors.append(error)

    thread = threading.Thread(target=run, name="hub", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


@contextmanager
def _explained(meant: HubName, file: str | None = None) -> Iterator[None]:
    """Turns whatever the library raises into what a user can do something about.

    Args:
        file: what is being fetched.
    Raises:
        HubError, ModelError: instead.
    """
    try:
        yield
    except (HubError, ModelError):
        raise
    except ImportError as error:
        raise HubUnreachable("to fetch it as a model of the Hugging Face Hub takes the package huggingface_hub; "
                             "install it, or give a path") from error
    except Exception as error:                         # Its network layer differs from version to version.
        raise _explain(meant, file, error) from error


def _explain(meant: HubName, file: str | None, error: BaseException) -> HubError | ModelError:
    from huggingface_hub import get_token, utils

    while isinstance(error, utils.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__                        # The file is not in the cache either; that says why it is not.
    status = getattr(getattr(error, "response", None), "status_code", None)
    has_token = bool(get_token())
    caller = "your token" if has_token else "callers without a token"
    if isinstance(error, utils.GatedRepoError):
        return HubError(f"{place()} does not give {meant.repo} to {caller} ({status}): it is gated; accept its terms "
                        "on its page, and set HF_TOKEN to a token of that account")
    if isinstance(error, utils.RevisionNotFoundError):
        return HubError(f"{place()} has no revision {meant.revision} of {meant.repo}; give a branch, tag or commit "
                        "that it has")
    # Callers without a token are told 401 of models that are private and of those that do not exist.
    if isinstance(error, utils.RepositoryNotFoundError) or status == 401 and not has_token:
        return HubError(f"{place()} has no such model, or does not show it to {caller}; check the name or the path, "
                        "and for a private model set HF_TOKEN to a token that may read it")
    if status in (401, 403):
        return HubError(f"{place()} does not give {meant.repo} to {caller} ({status}); set HF_TOKEN to a valid token "
                        "that may read it")
    if isinstance(error, utils.EntryNotFoundError):
        return HubError(f"{place()} lists {file} of {meant}, but does not have it; try again later")
    if status is not None:
        return HubUnreachable(f"{place()} answers with status {status}; try again later")
    if isinstance(error, OSError) and (error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return ModelError(f"cannot write {meant} to the cache: {error}; make room, or set HF_HOME to another directory")
    if file is not None:
        return HubUnreachable(f"{place()} broke off when {file} of {meant} was fetched: {_reason(error)}; try again: "
                              "what was fetched is kept")
    return HubUnreachable(f"{place()} is not reachable: {_reason(error)}; check the network and HF_ENDPOINT, or give "
                          "a directory as -model_dir")


def _reason(error: BaseException) -> str:
    """What was wrong in the first place: network layers wrap it several times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
