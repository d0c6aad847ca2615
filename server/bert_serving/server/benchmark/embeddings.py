"""A client of servers that speak OpenAI's embeddings API: the requests of one process over one connection."""
from __future__ import annotations

import base64
import json
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from urllib.parse import urlsplit

import numpy as np

from bert_serving.client.errors import UnavailableError


class EmbeddingsClient:
    """Asks ``http://127.0.0.1:8125/v1/embeddings``, say; vectors travel as base64, as for OpenAI's own client."""

    def __init__(self, url: str, timeout_ms: int) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_ms / 1000)

    def encode(self, texts: list[str]) -> np.ndarray:
        """float32 [B, D].

        Raises:
            UnavailableError: there is no answer, or it is no vectors.
        """
        body = json.dumps({"model": "default", "input": texts, "encoding_format": "base64"})
        try:
            self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, HTTPException) as error:
            self._connection.close()                   # The next request opens it again.
            raise UnavailableError(f"no answer over HTTP: {error!r}") from error
        if response.status != 200:
            raise UnavailableError(f"the answer over HTTP is {response.status} {response.reason}: {content[:200]!r}")
        return np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4")
                         for row in json.loads(content)["data"]])

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> EmbeddingsClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
