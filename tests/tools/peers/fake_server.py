"""A server that speaks OpenAI's embeddings API and computes nothing; it starts a process of its own, as servers do.

    python fake_server.py PORT          writes both process ids to "pids" in its working directory
    python fake_server.py PORT deaf     the same, but its process does not listen to SIGTERM
    python fake_server.py PORT ends     ends at once, with exit code 3
"""
import base64
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHILD = "import signal, sys; signal.signal(signal.SIGTERM, signal.{}); print('up', flush=True); sys.stdin.read()"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        vector = base64.b64encode(b"\0\0\0\0").decode()
        content = json.dumps({"data": [{"embedding": vector} for _ in request["input"]]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


if sys.argv[2:] == ["ends"]:
    print("what went wrong in full")
    sys.exit(3)
child = subprocess.Popen([sys.executable, "-c", CHILD.format("SIG_IGN" if sys.argv[2:] else "SIG_DFL")],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
Path("pids").write_text(f"{os.getpid()} {child.pid}")
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
