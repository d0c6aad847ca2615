"""What the proxy is told. Whoever gives it orders imports this file, which needs none of the proxy's libraries."""
from __future__ import annotations

from dataclasses import dataclass, field

from bert_serving.client.curve import Keys

from ..core.tokenizer_settings import TokenizerSettings
from ..orders import Orders


@dataclass(frozen=True, kw_only=True)
class HttpOptions(Orders):
    """The server's options that the proxy follows as the user gave them.

    config.ServerConfig says what each means and what it is by default; names and types are those. A field here is all
    that an option needs to get to the proxy, where it is read from ``orders.options``.
    """

    http_max_connect: int
    cors: str
    max_message_mb: float
    verbose: bool


@dataclass(frozen=True, kw_only=True)
class ServedModel(Orders):
    """What is served.

    Attributes:
        name: of the model.
        created: when the server started, in seconds since 1970.
        tokenizer: None if it has none.
        token_level: a text has a vector for each of its tokens, not one of its own.
        gives_scores: what a text has is no vector, but scores of a fine-tuned model's head.
        adds_special: the server adds [CLS] and [SEP] to tokenized sentences, too.
    """

    name: str = "echo"
    created: int = 0
    tokenizer: TokenizerSettings | None = None
    token_level: bool = False
    gives_scores: bool = False
    adds_special: bool = True


@dataclass(frozen=True, kw_only=True)
class ProxyOrders(Orders):
    """What the proxy is told.

    Attributes:
        ip, port, port_out: where the server is.
        host, http_port: what to bind; port 0 is any free one.
        options: of the user.
        api_keys: one of them has to come with every request; none: anybody may call.
        curve: keys for the server; None: it needs none.
        private: keys of the status reply that are there, but without their values.
        model: what is served.
        patience: seconds that a request waits for one of the ``http_max_connect`` clients before it is refused.
        timeout: longest wait for the server's answer, in seconds.
        probe_timeout: the same, when it is asked how it is.
        drain_timeout: longest time that requests may take once the proxy is to end, in seconds.
    """

    ip: str
    port: int
    port_out: int
    host: str
    http_port: int
    options: HttpOptions
    api_keys: tuple[str, ...] = field(repr=False)
    curve: Keys | None = field(repr=False)
    private: tuple[str, ...]
    model: ServedModel
    patience: float = 10
    timeout: float = 300
    probe_timeout: float = 5
    drain_timeout: float = 30
