"""Every server option, once: name, type, default, unit and help.

The command line (``-port``, ``--port``), the environment (``BERT_SERVING_PORT``), the options page of the documentation
and the status reply are made from the fields of :class:`ServerConfig`. An option given on the command line wins over
the environment, that over what the model's own files say (``FROM_MODEL``), that over the default.
"""
from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, NamedTuple, NoReturn

from bert_serving.client.hosts import check_host

from .errors import ConfigError
from .precision import PRECISIONS

MB = 1_000_000
"""Bytes of a megabyte, in options as in messages."""


class PoolingStrategy(Enum):
    """How the vectors of a sentence's tokens become its vector; the numbers up to 8 are the original's."""

    NONE = 0
    REDUCE_MAX = 1
    REDUCE_MEAN = 2
    REDUCE_MEAN_MAX = 3
    FIRST_TOKEN = 4
    CLS_TOKEN = 4
    LAST_TOKEN = 5
    SEP_TOKEN = 5
    CLS_POOLED = 6
    CLASSIFICATION = 7
    REGRESSION = 8
    REDUCE_MEAN_SQRT_LEN = 9
    WEIGHTED_MEAN = 10

    def __str__(self) -> str:
        return self.name

    @classmethod
    def from_string(cls, name: str) -> PoolingStrategy:
        """The strategy of that name; old code calls it.

        Raises:
            argparse.ArgumentTypeError: there is none.
        """
        if name not in cls.__members__:
            raise argparse.ArgumentTypeError(f"{name!r} is not a pooling strategy; choose from "
                                             f"{', '.join(cls.__members__)}")
        return cls[name]

    @property
    def strategies(self) -> tuple[PoolingStrategy, ...]:
        """This one; of a :class:`JoinedPooling`, all."""
        return (self,)


ALONE = (PoolingStrategy.NONE, PoolingStrategy.CLS_POOLED, PoolingStrategy.CLASSIFICATION, PoolingStrategy.REGRESSION)
"""Strategies that cannot be joined with others."""


@dataclass(frozen=True)
class JoinedPooling:
    """Several strategies, whose vectors are concatenated in this order."""

    strategies: tuple[PoolingStrategy, ...]

    @property
    def name(self) -> str:
        return "+".join(strategy.name for strategy in self.strategies)

    value = name

    def __str__(self) -> str:
        return self.name


Pooling = PoolingStrategy | JoinedPooling


def join_pooling(strategies: Sequence[PoolingStrategy]) -> Pooling:
    return strategies[0] if len(strategies) == 1 else JoinedPooling(tuple(strategies))


def pooling_strategy(name: str) -> Pooling:
    """The strategy of that name, or those whose names have "+" between them.

    Raises:
        argparse.ArgumentTypeError: there is none, or they cannot be joined.
    """
    found = [PoolingStrategy.from_string(one) for one in name.split("+")]
    if len(found) > 1 and (apart := [one.name for one in found if one in ALONE]):
        raise argparse.ArgumentTypeError(f"{name!r}: {apart[0]} cannot be joined with another strategy; give it alone")
    return join_pooling(found)


class FromModel:
    """Stands for "not given": the model's own files decide, else ``fallback``, the original's default."""

    def __init__(self, fallback: Any) -> None:
        self.fallback = fallback

    def __repr__(self) -> str:
        shown = " ".join(map(str, self.fallback)) if isinstance(self.fallback, list) else self.fallback
        return f"the model's own, else {shown}"


# ---- types of option values ------------------------------------------------------------------------------------------

def port_number(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port; expected 0 (any free one) to 65535")
    return port


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small; expected a whole number from 1")
    return value


def yes_or_no(text: str) -> bool:
    if text.lower() not in TRUTH:
        raise argparse.ArgumentTypeError(f"{text!r} is neither yes nor no")
    return TRUTH[text.lower()]


def filled(text: str) -> str:
    """A text that is not empty, as an unset variable of a script makes it."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give a value, or leave the option out")
    return text


def natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; expected a whole number from 0")
    return value


def fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a fraction; expected a number above 0, up to 1")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a duration; expected a number of seconds from 0")
    return value


def positive_seconds(text: str) -> float:
    value = seconds(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text} is too short; expected a number of seconds above 0")
    return value


def host_name(text: str) -> str:
    try:
        check_host("the host", text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


class WorkerRange(NamedTuple):
    """From ``least`` to ``most`` workers, as they are needed."""

    least: int
    most: int

    def __str__(self) -> str:
        return f"{self.least}-{self.most}"


def worker_number(text: str) -> int | WorkerRange:
    try:
        bounds = [natural(part) for part in text.split("-")]
    except (ValueError, argparse.ArgumentTypeError):
        bounds = []
    if len(bounds) == 1:
        return bounds[0]
    if len(bounds) != 2 or not 1 <= bounds[0] <= bounds[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers; expected a whole number, or a range as "
                                         "1-8")
    return WorkerRange(*bounds)


def sequence_length(text: str) -> int | None:
    if text.upper() == "NONE":
        return None
    try:
        length = int(text)
    except ValueError:
        length = 0
    if length <= 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not a length; expected a whole number above 3, or NONE")
    return length


def origins(text: str) -> str:
    for origin in text.split(","):
        if origin not in ("*", "null") and not ORIGIN.fullmatch(origin):
            raise argparse.ArgumentTypeError(f"{origin!r} is no origin; expected one like https://example.org or "
                                             "http://localhost:3000, several with commas between, null (pages from "
                                             "files), or *")
    return text


ORIGIN = re.compile(r"https?://[^/?#@*\\\s]+", re.IGNORECASE)
"""Scheme, host and perhaps port, as browsers send them."""


# Shown by argparse in "invalid ... value".
for _type, _name in ((port_number, "port"), (positive, "whole number"), (natural, "whole number"),
                     (fraction, "fraction"), (seconds, "number of seconds"), (origins, "origin")):
    _type.__name__ = _name


# ---- the engines -----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class EngineRow:
    """
    Attributes:
        about: what it is, for the help text.
        computes: it computes a model; else it invents vectors.
        encodes: it computes encoders, on several threads, from what it makes of their weights first.
        is_automatic: -engine auto may choose it.
    """

    about: str
    computes: bool = True
    encodes: bool = True
    is_automatic: bool = True


ENGINES = {
    "native": EngineRow("our own, on CPUs with AVX-512 or AMX"),
    "lite": EngineRow("LiteRT, on CPUs"), "graph": EngineRow("TensorFlow"),
    "onnx": EngineRow("ONNX Runtime, on CPUs; only if asked for", is_automatic=False),
    "static": EngineRow("a table of token vectors, for static models", encodes=False),
    "echo": EngineRow("no model, for tests", computes=False, encodes=False, is_automatic=False)}
"""Values of -engine, best first; each is a file of engine/backends."""


# ---- when an option is of use ----------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Need:
    """What an option requires of the other options: without it the option would be ignored, and is refused.

    Attributes:
        is_met: configuration -> whether it can be used; True as well while only the model can tell.
        otherwise: why not, and what to do; follows the option's name, and may hold ``{engine}``.
    """

    is_met: Callable[[ServerConfig], bool]
    otherwise: str


def _is(value: Any, *wanted: Any) -> bool:
    """Whether a value is one of these, or is still to be decided by the model's files."""
    return isinstance(value, FromModel) or value in wanted


HTTP = Need(lambda config: config.http_port is not None,
            "is for the HTTP proxy, which is not asked for; give -http_port, too, or leave it out")


def _computes(config: ServerConfig) -> bool:
    return config.engine == "auto" or ENGINES[config.engine].computes


COMPUTING = Need(_computes, "is for engines that compute; -engine {engine} does not: leave one of them out")
CONFIGURED = Need(lambda config: _computes(config) or config.model_dir is not None,
                  "names a file of a model, and -engine {engine} has none; give -model_dir, too, or leave it out")
HERE = Need(lambda config: config.launcher == "local" and config.num_worker != 0,
            "is for workers on this host, of which there are none with these -launcher and -num_worker; leave it out, "
            "or give it to bert-serving-worker on theirs")
OWN_THREADS = Need(lambda config: config.num_worker != 0,
                   "is for workers of this server, and -num_worker is 0; leave it out, or give it to "
                   "bert-serving-worker on their host")
REMOTE = Need(lambda config: config.worker_port is not None or config.launcher == "ray",
              "is for workers of other hosts, and none can join; give -worker_port, too, or leave it out")
SCALING = Need(lambda config: isinstance(config.num_worker, WorkerRange),
               "is for a range of workers; give -launcher ray and a -num_worker such as 1-8, or leave it out")
CLASSES = Need(lambda config: _is(config.pooling_strategy, PoolingStrategy.CLASSIFICATION),
               "is for -pooling_strategy CLASSIFICATION; give that, too, or leave it out")
TOKENS = Need(lambda config: _is(config.pooling_strategy, PoolingStrategy.NONE) and _is(config.max_seq_len, None),
              "is for -pooling_strategy NONE with -max_seq_len NONE; give both, or leave it out")


# ---- the options -----------------------------------------------------------------------------------------------------

PATHS, BERT, SERVING, LIMITS = "File paths", "Model", "Serving configuration", "Limits and life cycle"


def option(default: Any, help: str, group: str, type: Callable[[str], Any] | None = None, *,
           aliases: Sequence[str] = (), nargs: str | None = None, choices: Sequence[Any] | None = None,
           metavar: str | None = None, secret: bool = False, private: bool = False, needs: Sequence[Need] = ()) -> Any:
    """A field of ServerConfig that is an option; without ``type`` it is a flag, off by default.

    A ``secret`` one is shown nowhere, and a ``private`` one only to clients on this host or with a key. Given without
    what it ``needs``, an option is refused. Only hints about resources (-gpu_memory_fraction on a CPU) have no needs:
    they change no embedding, and start scripts of the original give them everywhere.
    """
    metadata = {"help": help, "group": group, "type": type, "aliases": tuple(aliases), "nargs": nargs,
                "choices": choices, "metavar": metavar, "default": default, "secret": secret, "private": private,
                "needs": tuple(needs)}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


MIN_WORKER_TIMEOUT = 0.2

HANG_SECONDS, HANG_FLOOR, HANG_FLOOR_GPU = 30.0, 1.5, 10.0
"""Least seconds until a worker counts as hung: one of unknown speed, one of known speed on a CPU, and on a GPU, which
prepares itself for new shapes."""

OF_THE_MODEL = ("model_dir", "tuned_model_dir", "ckpt_name", "config_name", "precision", "fp16", "xla",
                "max_batch_size", "gpu_memory_fraction")
"""Options that workers of other hosts get, beside those of the group BERT and -engine."""


FILE_NAMES = ("ckpt_name", "config_name")
"""Options that name files of the model: not given, the usual names are looked for."""


@dataclass(kw_only=True)
class ServerConfig:
    """What one server was told, checked. Values that are :class:`FromModel` are settled when the model is read.

    Every option that was given is used, or is an error: see :class:`Need`.
    """

    model_dir: str | None = option(None, "directory of a model (as sentence-transformers or transformers save it, or a "
                                   "checkpoint of Google's BERT), or the name of one; default: the embedded "
                                   "all-MiniLM-L6-v2", PATHS, str, private=True)
    tuned_model_dir: str | None = option(None, "directory of a fine-tuned model: its weights replace those of "
                                         "-model_dir, tokenizer and configuration stay", PATHS, str, private=True,
                                         needs=[COMPUTING])
    ckpt_name: Any = option(FromModel("bert_model.ckpt"), "prefix of the checkpoint files, as model.ckpt-343, or name "
                            "of a .safetensors or .bin file, or of the .index.json of several", PATHS, str,
                            needs=[COMPUTING])
    config_name: Any = option(FromModel("bert_config.json"), "name of the model's configuration file", PATHS, str,
                              needs=[CONFIGURED])
    graph_tmp_dir: str | None = option(None, "directory that keeps frozen graphs; default: the user's cache", PATHS,
                                       str, private=True, needs=[COMPUTING, HERE])
    cache_mb: int = option(4096, "maximum size of that directory's frozen graphs in megabytes: when one is added, the "
                           "least recently used ones are removed, never one in use; 0: no limit", PATHS, natural,
                           needs=[COMPUTING, HERE])

    max_seq_len: Any = option(FromModel(25), "longest sequence in tokens, special tokens included; the rest of a "
                              "longer one is cut off at the right; NONE: the longest of each batch", BERT,
                              sequence_length, metavar="N|NONE")
    do_lower_case: Any = field(default=FromModel(True), metadata={"group": BERT, "flags": {
        "cased_tokenization": (False, "keep case and accents"),
        "uncased_tokenization": (True, "lower-case and strip accents, whatever the model's files say")}})
    pooling_layer: Any = option(FromModel([-2]), "encoder layers to pool: -1 is the last, 0 the first; vectors of "
                                "several layers are concatenated", BERT, int, nargs="+")
    pooling_strategy: Any = option(FromModel(PoolingStrategy.REDUCE_MEAN), "how token vectors become the sentence's "
                                   "vector; several with + between them are concatenated", BERT, pooling_strategy,
                                   metavar="{%s}" % ",".join(PoolingStrategy.__members__))
    normalize: Any = option(FromModel(False), "whether vectors are normalized to length 1; token vectors (NONE) and "
                            "scores never are", BERT, yes_or_no, metavar="yes|no", needs=[COMPUTING])
    prompt_name: Any = option(FromModel(None), "name of the model's own prompt that is put before every text; NONE: no "
                              "prompt. Tokenized texts and pairs get none", BERT,
                              lambda text: None if text == "NONE" else filled(text), metavar="NAME|NONE",
                              needs=[COMPUTING])
    special_tokens_in_text: Any = option(
        FromModel(False), "whether special tokens in a text, as [MASK], are special; left out: yes with a "
        "tokenizer.json, no with a vocab.txt", BERT, yes_or_no, metavar="yes|no", needs=[COMPUTING])
    mask_cls_sep: bool = option(False, "leave [CLS] and [SEP] out of attention and pooling", BERT)
    no_special_token: bool = option(False, "add no [CLS] and [SEP] to tokenized single sentences", BERT)
    show_tokens_to_client: bool = option(False, "send each sentence's tokens along with its vector", BERT)
    no_position_embeddings: bool = option(False, "do not add position embeddings", BERT, needs=[COMPUTING])
    num_labels: Any = option(FromModel(2), "number of labels of -pooling_strategy CLASSIFICATION", BERT, positive,
                             needs=[CLASSES])

    host: str = option("127.0.0.1", "address that the ports are bound to; 0.0.0.0 or * opens them to every network",
                       SERVING, str)
    port: int = option(5555, "port that receives requests; 0: any free one", SERVING, port_number,
                       aliases=("port_in", "port_data"))
    port_out: int = option(5556, "port that publishes results; 0: any free one", SERVING, port_number,
                           aliases=("port_result",))
    curve_dir: str | None = option(None, "directory with keys, made by bert-serving-keygen: all on -port and -port_out "
                                   "is encrypted, and only clients whose keys are in its folder clients are let in",
                                   SERVING, str, private=True)
    worker_port: int | None = option(None, "port on which workers of other hosts may join, see bert-serving-worker; "
                                     "0: any free one", SERVING, port_number)
    http_port: int | None = option(None, "start the HTTP proxy on this port; 0: any free one", SERVING, port_number)
    http_max_connect: int = option(10, "HTTP requests handled at the same time", SERVING, positive, needs=[HTTP])
    cors: str = option("*", "origins whose pages may call the HTTP proxy from a browser, with commas between; *: every "
                       "page", SERVING, origins, needs=[HTTP])
    api_key: list[str] = option([], "keys of which callers of the HTTP proxy have to send one, as 'Authorization: "
                                "Bearer KEY'; better given in a file or the environment than where ps shows it",
                                SERVING, str, nargs="+", metavar="KEY", secret=True, needs=[HTTP])
    api_key_file: str | None = option(None, "file with such keys, one on each line; lines that begin with # are "
                                      "comments", SERVING, str, metavar="FILE", secret=True, needs=[HTTP])
    engine: str = option("auto", "what computes: " + ", ".join(f"{name} ({row.about})" for name, row in ENGINES.items())
                         + "; auto: the first that can do what is asked", SERVING, str, choices=("auto", *ENGINES))
    num_worker: Any = option(None, "worker processes; default: one, and on CPUs one for every 4 cores; 0, with "
                             "-worker_port: those of other hosts only; with -launcher ray also a range, as 1-8: more "
                             "when there is much to do, fewer when there is not", SERVING, worker_number,
                             metavar="N|N-M")
    launcher: str = option("local", "where workers run: local (processes of this host), or ray (places on a Ray "
                           "cluster, which RAY_ADDRESS names)", SERVING, str, choices=("local", "ray"))
    scale_backlog: float = option(2.0, "with a range of -num_worker: seconds that what waits may take before there are "
                                  "more workers", SERVING, positive_seconds, needs=[SCALING])
    scale_idle: float = option(60.0, "with a range of -num_worker: seconds without a request before there is a worker "
                               "less", SERVING, positive_seconds, needs=[SCALING])
    num_threads: int | None = option(None, "threads that a worker computes with on CPUs; default: the workers share "
                                     "the cores that this process may use", SERVING, positive, needs=[OWN_THREADS])
    max_batch_size: int = option(256, "most sequences that one worker handles at a time", SERVING, positive)
    priority_batch_size: int = option(16, "requests of at most this many sentences go before larger ones", SERVING,
                                      natural)
    cpu: bool = option(False, "run all workers on the CPU", SERVING)
    xla: bool = option(False, "compile the graph with XLA", SERVING, needs=[COMPUTING])
    fp16: bool = option(False, "the same as -precision fp16", SERVING)
    precision: str | None = option(None, "numbers to compute with: " + ", ".join(
        f"{precision.name} ({precision.about})" for precision in PRECISIONS.values()) + "; default: fp32", SERVING,
                                   str, choices=tuple(PRECISIONS))
    gpu_memory_fraction: float = option(0.5, "share of a GPU's memory for each worker on it", SERVING, fraction)
    device_map: list[int] = option([], "ids of the GPUs to use, one a worker, in turn", SERVING, natural, nargs="+",
                                   needs=[COMPUTING, HERE])
    prefetch_size: int = option(10, "jobs that a GPU worker holds: one running, the others waiting; a CPU worker "
                                "holds two at most", SERVING, positive)
    fixed_embed_length: bool = option(False, "with -max_seq_len NONE and strategy NONE: every result is as long as the "
                                      "model's longest sequence", SERVING, needs=[TOKENS])
    report_version: str | None = option(None, "server_version in status replies, which original clients compare with "
                                        "their own version; default: 1.7.5 to clients that number their requests "
                                        "from 0, as those up to 1.7.9 do, and 1.10.0 to all others", SERVING, str)

    max_queue_mb: float = option(256, "most megabytes of requests that may wait; beyond them clients get an "
                                 "'overloaded' error", LIMITS, float)
    max_queue_size: int = option(1_000_000, "most sentences that may wait; one client's, half of that", LIMITS,
                                 positive)
    max_message_mb: float = option(64, "largest request in megabytes", LIMITS, float)
    max_held_mb: float = option(512, "most megabytes of results kept for clients that do not read", LIMITS, float)
    max_held_client_mb: float = option(64, "most megabytes of results kept for one such client", LIMITS, float)
    hold_timeout: float = option(30.0, "seconds that an undelivered result is kept", LIMITS, seconds)
    job_timeout: float | None = option(
        None, "least seconds that a worker may have a job before it counts as hung and is replaced; left out: "
        f"{HANG_FLOOR:g} ({HANG_FLOOR_GPU:g} on a GPU), and {HANG_SECONDS:g} as long as nothing is known of a worker's "
        "speed or it compiles, with -xla; and always ten times what the job should take. Texts of a job that hung are "
        "tried alone: where the least is 1.5 or 10, with half of it, and the last time with 5/3", LIMITS, seconds)
    worker_timeout: float = option(10.0, "seconds without a word after which a worker of another host counts as lost",
                                   LIMITS, seconds, needs=[REMOTE])
    drain_timeout: float = option(30.0, "seconds that a stopping server may spend on the requests it has", LIMITS,
                                  seconds)
    start_timeout: float = option(300.0, "seconds that each phase of the start may take", LIMITS, seconds)
    terminate_token: str | None = option(None, "word that lets bert-serving-terminate stop this server from another "
                                         "host; better given in the environment than where ps shows it", LIMITS, str,
                                         secret=True)
    verbose: bool = option(False, "log every request", LIMITS)

    def __post_init__(self) -> None:
        if self.host != "*":
            try:
                check_host("-host", self.host)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{error}; * opens the ports to every network") from error
        if self.port == self.port_out and self.port:
            raise ConfigError(f"-port and -port_out are both {self.port}; give them different numbers")
        for name, others in (("http_port", (self.port, self.port_out)),
                             ("worker_port", (self.port, self.port_out, self.http_port))):
            if getattr(self, name) and getattr(self, name) in others:
                raise ConfigError(f"-{name} is {getattr(self, name)}, as another port is; give them different "
                                  "numbers")
        self._check_texts()
        if self.launcher == "ray":
            self.num_worker = 1 if self.num_worker is None else self.num_worker
        elif isinstance(self.num_worker, WorkerRange):
            raise ConfigError(f"-num_worker is the range {self.num_worker}, for which workers have to come and go; "
                              "give -launcher ray, or a number")
        if self.num_worker == 0 and self.launcher == "ray":
            raise ConfigError("-num_worker is 0, and -launcher ray starts workers; give a number from 1, or a range as "
                              "1-8")
        if self.num_worker == 0 and self.worker_port is None:
            raise ConfigError("-num_worker is 0, so nobody would compute; give -worker_port for workers of other "
                              "hosts, or a number from 1")
        if self.worker_timeout < MIN_WORKER_TIMEOUT:
            raise ConfigError(f"-worker_timeout is {self.worker_timeout:g}; expected {MIN_WORKER_TIMEOUT:g} seconds or "
                              "more")
        if self.cpu and self.device_map:
            raise ConfigError("-cpu and -device_map exclude each other; give one of them")
        if self.fp16 and self.precision not in (None, "fp16"):
            raise ConfigError(f"-fp16 and -precision {self.precision} exclude each other; give one of them")
        self.precision = self.precision or ("fp16" if self.fp16 else "fp32")
        self.fp16 = self.precision == "fp16"
        self._check_needs()
        if self.priority_batch_size > self.max_batch_size:
            self.priority_batch_size = self.max_batch_size
        for name in ("max_queue_mb", "max_message_mb", "max_held_mb", "max_held_client_mb"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"-{name} is {getattr(self, name)}; expected a number above 0")

    def _check_texts(self) -> None:
        """
        Raises:
            ConfigError: one that was given is empty, as an unset variable of a start script makes it.
        """
        for f in fields(self):
            value = getattr(self, f.name)
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and not text.strip():
                    raise ConfigError(f"-{f.name} is empty; give a value, or leave it out (and unset "
                                      f"{ENVIRONMENT_PREFIX}{f.name.upper()})")

    def _check_needs(self) -> None:
        """
        Raises:
            ConfigError: an option that was given cannot be used with the others.
        """
        for f in fields(self):
            value, default = getattr(self, f.name), f.metadata.get("default")
            if isinstance(value, FromModel) or value == (default.fallback if isinstance(default, FromModel)
                                                         else default):
                continue
            for need in f.metadata.get("needs", ()):
                if not need.is_met(self):
                    raise ConfigError(f"-{f.name} {need.otherwise.format(engine=self.engine)}")

    @classmethod
    def secret_variables(cls) -> list[str]:
        """The environment variables that hold secrets."""
        return [ENVIRONMENT_PREFIX + f.name.upper() for f in fields(cls) if f.metadata.get("secret")]

    @classmethod
    def from_args(cls, args: argparse.Namespace | ServerConfig) -> ServerConfig:
        """The configuration of a parsed command line; attributes that are no options are left alone.

        Raises:
            ConfigError: options that do not go together.
        """
        if isinstance(args, cls):
            return args
        return cls(**{f.name: getattr(args, f.name) for f in fields(cls) if hasattr(args, f.name)})

    def hang_seconds(self, on_gpu: bool) -> tuple[float, float]:
        """Least seconds until a worker counts as hung, while nothing is known of its speed and when something is."""
        if self.job_timeout is not None:
            return self.job_timeout, self.job_timeout
        if self.xla:  # it compiles whenever a shape is new
            return HANG_SECONDS, HANG_SECONDS
        return HANG_SECONDS, HANG_FLOOR_GPU if on_gpu else HANG_FLOOR

    @classmethod
    def private_names(cls) -> list[str]:
        """The options that not everybody who asks for the status is shown: paths."""
        return [f.name for f in fields(cls) if f.metadata.get("private")]

    def of_the_model(self, engine: str) -> dict[str, Any]:
        """What makes the vectors what they are, as plain JSON values for another host; see ``from_the_model``.

        Args:
            engine: as the user asked for it, who may have left the choice to the host.
        """
        options = {f.name: _plain(getattr(self, f.name)) for f in fields(self)
                   if f.metadata["group"] == BERT or f.name in OF_THE_MODEL}
        # Which files are there, each host sees for itself.
        options |= {name: None for name in FILE_NAMES if isinstance(getattr(self, name), FromModel)}
        return {**options, "engine": engine}

    @classmethod
    def from_the_model(cls, options: Mapping[str, Any], **more: Any) -> ServerConfig:
        """A configuration for workers that compute what another server's do.

        Args:
            options: from ``of_the_model`` there.
            more: options of this host.
        Raises:
            ConfigError: they are no such options, or do not go together.
        """
        known = {f.name for f in fields(cls) if f.metadata["group"] == BERT} | {*OF_THE_MODEL, "engine"}
        if set(options) != known:
            raise ConfigError(f"the server's options differ from this version's: {sorted(set(options) ^ known)}")
        values = {name: value for name, value in options.items() if name not in FILE_NAMES or value is not None}
        given = options["pooling_strategy"]
        try:
            values["pooling_strategy"] = pooling_strategy(given) if isinstance(given, str) else PoolingStrategy(given)
        except argparse.ArgumentTypeError as error:
            raise ValueError(str(error)) from None
        return cls(**{**values, **more})

    def to_status(self) -> dict[str, Any]:
        """Every option as status replies show it: plain JSON values, no secrets."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if not f.metadata.get("secret")}


def _plain(value: Any) -> Any:
    if isinstance(value, FromModel):
        value = value.fallback
    if isinstance(value, WorkerRange):
        return str(value)
    return value.value if isinstance(value, Pooling) else value


# ---- the command line ------------------------------------------------------------------------------------------------

ENVIRONMENT_PREFIX = "BERT_SERVING_"


TRUTH = {**dict.fromkeys(("1", "true", "yes", "on"), True), **dict.fromkeys(("0", "false", "no", "off", ""), False)}
"""What a flag in the environment may say, in lower case."""


class Parser(argparse.ArgumentParser):
    """One that says in one line what is wrong, and not what there is: dozens of options."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            import difflib
            names = [word.split("=")[0] for word in unknown.split() if word.startswith("-")]
            alike = [found for name in names
                     for found in difflib.get_close_matches(name, self._option_string_actions, 1)]
            if alike:
                message += f"; did you mean {alike[0]}?"
            else:
                message += "; flags take no value" if unknown.lower() in TRUTH else "; -h shows all options"
        valued = re.fullmatch(r"argument (\S+): ignored explicit argument (.*)", message)
        if valued:
            flag = valued.group(1).split("/")[0]
            message = f"{flag} takes no value, and got {valued.group(2)}; give {flag} alone, or leave it out"
        self.exit(2, f"{self.prog}: error: {message}\n")


def get_args_parser(environ: Mapping[str, str] = os.environ,
                    only: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of ``bert-serving-start``; ``-x`` and ``--x`` both work, as do unambiguous prefixes.

    Args:
        environ: where defaults such as ``BERT_SERVING_PORT`` are looked up.
        only: names of the options that it has, for another command that has them too; None: all.
    """
    from . import __version__

    parser = Parser(
        prog="bert-serving-start", usage="%(prog)s [option ...]",
        description="Start a server that turns text into embeddings: encoders, rerankers and classifiers.",
        epilog=f"Every option can also be given in the environment, as {ENVIRONMENT_PREFIX}PORT=5555.",
        add_help=only is None)
    groups: dict[str, Any] = {}
    for f in fields(ServerConfig):
        if only is not None and f.name not in only:
            continue
        if f.metadata["group"] not in groups:
            groups[f.metadata["group"]] = parser.add_argument_group(f.metadata["group"])
        group = groups[f.metadata["group"]]
        given = _from_environment(parser, f.name, environ)
        if "flags" in f.metadata:
            default = f.default if given is None else _truth(parser, f.name, environ)
            exclusive = group.add_mutually_exclusive_group()
            set_by = {} if given is None else {f.name: default}
            for flag, (value, help_text) in f.metadata["flags"].items():
                exclusive.add_argument(f"-{flag}", f"--{flag}", dest=f.name, action="store_const", const=value,
                                       help=help_text)
                if _from_environment(parser, flag, environ) is not None and _truth(parser, flag, environ):
                    set_by[flag] = default = value
            if len(set(set_by.values())) > 1:
                names = [ENVIRONMENT_PREFIX + name.upper() for name in set_by]
                parser.error(" and ".join(f"{name}={environ[name]}" for name in names)
                             + " contradict each other; unset one of them")
            parser.set_defaults(**{f.name: default})
            continue
        default = copy(f.metadata["default"])
        names = [dashes + name for name in (f.name, *f.metadata["aliases"]) for dashes in ("-", "--")]
        if f.metadata["type"] is None:
            default = _truth(parser, f.name, environ) if given is not None else default
            group.add_argument(*names, dest=f.name, action="store_true", default=default, help=f.metadata["help"])
            continue
        if given is not None:
            default = _values(parser, f, given)
        shown = "those with the most free memory" if default == [] else default
        shown = "" if default is None or f.metadata["secret"] else f" (default: {shown})"
        group.add_argument(*names, dest=f.name, type=f.metadata["type"], default=default, nargs=f.metadata["nargs"],
                           choices=f.metadata["choices"], metavar=f.metadata["metavar"],
                           help=(f.metadata["help"] + shown).replace("%", "%%"))
    parser.add_argument("-version", "--version", action="version", version=f"%(prog)s {__version__}",
                        help="show the version and exit")
    return parser


def _from_environment(parser: argparse.ArgumentParser, name: str, environ: Mapping[str, str]) -> str | None:
    value = environ.get(ENVIRONMENT_PREFIX + name.upper())
    # Kubernetes sets NAME_PORT=tcp://... for every service; one called "bert-serving" does not mean this option.
    return None if value is not None and value.startswith("tcp://") else value


def _truth(parser: argparse.ArgumentParser, name: str, environ: Mapping[str, str]) -> bool:
    value = environ[ENVIRONMENT_PREFIX + name.upper()].lower()
    if value not in TRUTH:
        parser.error(f"{ENVIRONMENT_PREFIX}{name.upper()}={value} is neither true nor false; give 1 or 0")
    return TRUTH[value]


def _values(parser: argparse.ArgumentParser, option_field: Any, given: str) -> Any:
    convert, metadata = option_field.metadata["type"], option_field.metadata
    try:
        value = [convert(word) for word in given.split()] if metadata["nargs"] else convert(given)
    except (ValueError, argparse.ArgumentTypeError) as error:
        parser.error(f"{ENVIRONMENT_PREFIX}{option_field.name.upper()}={given}: {error}")
    if value == []:
        parser.error(f"{ENVIRONMENT_PREFIX}{option_field.name.upper()} is empty; give one or more values, or unset it")
    if metadata["choices"] and value not in metadata["choices"]:
        parser.error(f"{ENVIRONMENT_PREFIX}{option_field.name.upper()}={given}: choose from "
                     f"{', '.join(metadata['choices'])}")
    return value
