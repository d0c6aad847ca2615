"""A small imitation of the Hugging Face Hub: what its library asks for, and the ways in which it says no."""
from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """A model of the Hub.

    Attributes:
        files: name -> content; names in ``large`` are kept as LFS keeps them.
        gated: its files are for TOKEN alone.
        breaks: name -> bytes after which the first answer with that file breaks off.
        stalls: files whose content never comes, though their headers do; "" is the description.
    """

    files: dict[str, bytes]
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main", "v1", "refs/pr/1")
    gated: bool = False
    private: bool = False
    breaks: dict[str, int] = field(default_factory=dict)
    stalls: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)


class FakeHub:
    """Attributes:
        repos: name -> what is there.
        status: answers every request with it, if it is one.
        asked: method and path of every request, and its Range.
        tokens: those that requests came with.
    """

    TOKEN = "hf_good"

    def __init__(self, monkeypatch) -> None:
        self._monkeypatch = monkeypatch
        self.repos: dict[str, Repo] = {}
        self.status: int | None = None
        self.asked: list[tuple[str, str, str | None]] = []
        self.tokens: set[str | None] = set()
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for, in order."""
        return [path.partition("/resolve/")[2].partition("/")[2] for method, path, _ in self.asked
                if method == "GET" and "/resolve/" in path]

    def offline(self) -> None:
        """As if HF_HUB_OFFLINE were set; the library reads it once."""
        self._monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def close(self) -> None:
        if self.closing.is_set():
            return
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *args) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/agent"):              # The library's own question about whom it works for.
            return self._send(404)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        self.hub.tokens.add(token)
        if self.hub.status is not None:
            return self._send(self.hub.status)
        if token not in (None, self.hub.TOKEN):
            return self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        if path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self._describe(repo, revision or "main", token)
        repo, _, rest = path.lstrip("/").partition("/resolve/")
        # The commit is one part of the path, but a reference such as refs/pr/1 is several.
        revision, _, file = rest.partition("/")
        return self._give(repo, revision, file, token)

    def _found(self, name: str, revision: str, token: str | None) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None or repo.private and token is None:
            self._send(401 if token is None else 404, {"X-Error-Code": "RepoNotFound"} if token else {})
        elif revision not in (*repo.revisions, repo.commit):
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return repo
        return None

    def _describe(self, name: str, revision: str, token: str | None) -> None:
        repo = self._found(name, revision, token)
        if repo is None:
            return
        if "" in repo.stalls:
            self.hub.closing.wait(30)
            return
        siblings = [{"rfilename": file, "size": repo.sizes.get(file, len(content)), "blobId": "0" * 40,
                     **({"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content),
                                 "pointerSize": 134}} if file.endswith((".safetensors", ".bin")) else {})}
                    for file, content in repo.files.items()]
        self._send(200, {"Content-Type": "application/json"},
                   json.dumps({"id": name, "_id": "1", "sha": repo.commit, "siblings": siblings, "private": False,
                               "tags": [], "downloads": 1, "likes": 1}).encode())

    def _give(self, name: str, revision: str, file: str, token: str | None) -> None:
        repo = self._found(name, revision, token)
        if repo is None:
            return
        if repo.gated and token is None:
            return self._send(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        if repo.gated and name != "gated/accepted":
            return self._send(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "not in the authorized list"})
        if file not in repo.files:
            return self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit})
        content = repo.files[file]
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                   "Accept-Ranges": "bytes"}
        start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        content = content[start:]
        if self.command == "HEAD":
            return self._send(200, headers, content)
        if file in repo.stalls:
            self._send(200, headers, content, 0)
            self.hub.closing.wait(30)
            return None
        return self._send(206 if start else 200, headers, content, repo.breaks.pop(file, None))

    def _send(self, status: int, headers: dict[str, str] | None = None, content: bytes = b"",
              most: int | None = None) -> None:
        try:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[:most])
                self.wfile.flush()
        except ConnectionError:                        # Who asked has gone.
            self.close_connection = True
