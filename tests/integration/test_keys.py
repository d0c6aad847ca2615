"""Keys of the HTTP port, as callers and onlookers meet them: who has none gets nothing, and nobody gets to see one."""
from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import openai
import pytest

from .conftest import eventually
from .test_http import ask

FILE_KEY, ENVIRONMENT_KEY = "the-key-in-the-file-fhqw", "the-key-in-the-environment-gads"
TOKEN = "the-word-to-stop-mxyz"
SECRETS = (FILE_KEY, ENVIRONMENT_KEY, TOKEN)


@pytest.fixture
def server(serve_echo, tmp_path):
    (tmp_path / "keys").write_text(f"# of the tests\n{FILE_KEY}\n")
    (tmp_path / "keys").chmod(0o600)
    return serve_echo("-http_port", "0", "-verbose", "-api_key_file", str(tmp_path / "keys"), environ={
        "BERT_SERVING_API_KEY": ENVIRONMENT_KEY, "BERT_SERVING_TERMINATE_TOKEN": TOKEN})


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_no_secret_is_in_the_log_the_status_or_the_process_list(server):
    shown = []
    for key in (FILE_KEY, ENVIRONMENT_KEY, FILE_KEY + "x"):
        for path, body in (("/encode", {"id": 1, "texts": ["a"]}), ("/status/server", None), ("/status/client", None),
                           ("/metrics", None), ("/v1/models", None), ("/nowhere", None)):
            status, headers, answer = ask(server, path, body, **bearer(key))
            assert status == (401 if key.endswith("x") else 404 if path == "/nowhere" else 200)
            shown.append(f"{headers}{answer}")
    with server.client() as client:
        shown.append(json.dumps(client.server_status) + json.dumps(client.status))
    for pid in [server.process.pid, *server.children()]:
        shown.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode())
        if pid != server.process.pid:  # whose environment holds what the user put there
            shown.append(Path(f"/proc/{pid}/environ").read_bytes().decode())
    os.kill(proxy_of(server), signal.SIGKILL)  # its end is logged, too
    assert eventually(lambda: "the HTTP proxy was lost" in server.log)
    assert server.stop() == 0
    for text in [*shown, server.log]:
        for secret in SECRETS:
            assert secret not in text


def proxy_of(server):
    return next(pid for pid in server.children() if Path(f"/proc/{pid}/comm").read_text().startswith("bert-http"))


def test_a_proxy_that_was_replaced_wants_the_same_keys(server):
    first = proxy_of(server)
    os.kill(first, signal.SIGKILL)

    def is_closed_again():
        try:
            return ask(server, "/status/server")[0] == 401 and ask(server, "/livez")[0] == 200
        except OSError:
            return False

    assert eventually(is_closed_again)
    assert proxy_of(server) != first
    assert ask(server, "/status/server", **bearer(FILE_KEY))[0] == 200


def test_openai_s_client_sends_the_key_and_understands_the_refusal(server):
    base_url = f"http://127.0.0.1:{server.http_port}/v1"
    with openai.OpenAI(base_url=base_url, api_key=FILE_KEY, max_retries=0) as client:
        assert len(client.embeddings.create(model="any", input="hello").data[0].embedding) == 768
    with openai.OpenAI(base_url=base_url, api_key="a-key-of-someone-else", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="this server wants a key") as refused:
            client.embeddings.create(model="any", input="hello")
    assert refused.value.code == "unauthorized"


def test_a_large_body_without_a_key_is_answered_and_not_kept(server):
    status, headers, body = ask(server, "/encode", {"id": 1, "texts": ["a" * 30_000_000]})
    assert (status, body["code"]) == (401, "unauthorized")
    assert headers["WWW-Authenticate"] == 'Bearer realm="bert-as-service"'


@pytest.mark.parametrize("options, said", [
    (("-http_port", "0", "-api_key", "short"), "key 1 of -api_key has 5 characters, expected 16 to 512"),
    (("-http_port", "0", "-api_key_file", "/no/such/file"), "-api_key_file /no/such/file cannot be read: No such file"),
    (("-api_key", "long-enough-for-a-key"), "-api_key is for the HTTP proxy, which is not asked for")])
def test_what_cannot_be_a_key_ends_the_start(serve, options, said):
    server = serve("-engine", "echo", *options)
    assert server.process.wait(30) == 2
    assert eventually(lambda: said in server.log)
    assert server.log.strip().count("\n") == 0


def test_an_open_file_and_an_open_port_are_warned_of(serve_echo, tmp_path):
    (tmp_path / "keys").write_text(FILE_KEY)
    (tmp_path / "keys").chmod(0o644)
    server = serve_echo("-http_port", "0", "-api_key_file", str(tmp_path / "keys"))
    assert "every user of this machine can read -api_key_file" in server.log
    assert "HTTP port can use it" not in server.log
