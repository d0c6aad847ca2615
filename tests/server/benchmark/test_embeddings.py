import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from bert_serving.client.errors import UnavailableError
from bert_serving.server.benchmark.embeddings import EmbeddingsClient


class Handler(BaseHTTPRequestHandler):
    """Answers each text with its length and the number of requests of its connection; "fail" with 500."""

    protocol_version = "HTTP/1.1"
    count = 0

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/embeddings" and request["encoding_format"] == "base64"
        self.count += 1
        vectors = [np.array([len(text), self.count], "<f4").tobytes() for text in request["input"]]
        content = json.dumps({"data": [{"embedding": base64.b64encode(vector).decode()} for vector in vectors]})
        self.send_response(500 if request["input"] == ["fail"] else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def url():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/embeddings"
        server.shutdown()
        thread.join()


def test_requests_go_over_one_connection(url):
    with EmbeddingsClient(url, 5000) as client:
        assert client.encode(["a", "bcd"]).tolist() == [[1, 1], [3, 1]]
        vectors = client.encode(["ef"])
    assert vectors.dtype == np.float32 and vectors.tolist() == [[2, 2]]


def test_a_refusal(url):
    with EmbeddingsClient(url, 5000) as client, pytest.raises(UnavailableError, match="is 500 Internal Server Error"):
        client.encode(["fail"])


def test_nobody_there():
    # Port 1 is nobody's.
    with EmbeddingsClient("http://127.0.0.1:1/v1/embeddings", 500) as client:
        for _ in range(2):
            with pytest.raises(UnavailableError, match="no answer over HTTP: ConnectionRefusedError"):
                client.encode(["a"])
