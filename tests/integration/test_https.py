"""HTTPS as docs/security.md describes it: its nginx configuration, with a test's ports and files, before a server."""
from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest

from .conftest import eventually

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
OPENSSL = shutil.which("openssl")
PAGE = Path(__file__).parents[2] / "docs/security.md"
KEY = "the-key-behind-nginx"

pytestmark = pytest.mark.skipif(not (NGINX and OPENSSL), reason="HTTPS is NOT tested: no nginx or no openssl is on "
                                "this machine (Debian: apt-get install nginx-light openssl)")

MAIN = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{site}
}}
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def documented(folder, http_port, https_port):
    """The page's configuration, for these ports and with this folder's certificate."""
    site, = re.findall(r"^```nginx\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for there, here in (("listen 443 ssl", f"listen 127.0.0.1:{https_port} ssl"),
                        ("127.0.0.1:8125", f"127.0.0.1:{http_port}"),
                        ("/etc/ssl/bert.example.org.pem", f"{folder}/cert.pem"),
                        ("/etc/ssl/private/bert.example.org.key", f"{folder}/key.pem")):
        assert site.count(there) == 1
        site = site.replace(there, here)
    return site


@pytest.fixture
def https(serve_echo, tmp_path):
    """(address, context that trusts it, server behind it)"""
    server = serve_echo("-http_port", "0", "-max_message_mb", "64", environ={"BERT_SERVING_API_KEY": KEY})
    subprocess.run([OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost"], cwd=tmp_path, check=True, capture_output=True)
    port = free_port()
    (tmp_path / "nginx.conf").write_text(MAIN.format(
        folder=tmp_path, site=documented(tmp_path, server.http_port, port),
        user="user root;" if os.getuid() == 0 else ""))  # another one could not write to the test's folder
    # A wrong configuration ends it at once, with the reason on standard error.
    nginx = subprocess.Popen([NGINX, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "error.log"],
                             stderr=subprocess.PIPE, text=True)

    def listens():
        assert nginx.poll() is None, nginx.stderr.read()
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", port)) == 0

    try:
        assert eventually(listens)
        yield f"https://localhost:{port}", ssl.create_default_context(cafile=tmp_path / "cert.pem"), server
    finally:
        nginx.terminate()
        nginx.wait(20)
        nginx.stderr.close()


def ask(https, path, body=None, key=KEY):
    address, context, _ = https
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json",
                                                            "Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_documented_nginx_passes_on_what_is_asked_and_who_asks(https):
    status, body = ask(https, "/encode", {"id": 7, "texts": ["hello"]})
    assert status == 200 and json.loads(body)["id"] == 7
    status, body = ask(https, "/encode", {"id": 7, "texts": ["hello"]}, key="another-key-of-nobody")
    assert status == 401 and json.loads(body)["code"] == "unauthorized"
    assert ask(https, "/", key="")[0] == 200
    assert b"bert_serving_up 1.0" in ask(https, "/metrics")[1]
    assert ask(https, "/encode", {"id": 1, "texts": ["a" * 70_000_000]})[0] == 413
    assert len(json.loads(ask(https, "/encode", {"id": 1, "texts": ["a"] * 5000})[1])["result"]) == 5000


def test_openai_s_client_over_https(https):
    address, context, _ = https
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0,
                       http_client=openai.DefaultHttpxClient(verify=context)) as client:
        assert len(client.embeddings.create(model="any", input="hello").data[0].embedding) == 768


def test_nothing_unencrypted_is_served_there(https):
    address, _, _ = https
    with pytest.raises((urllib.error.HTTPError, OSError)) as refused:
        urllib.request.urlopen(address.replace("https", "http") + "/livez", timeout=20)
    if isinstance(refused.value, urllib.error.HTTPError):
        assert refused.value.code == 400
        refused.value.close()
