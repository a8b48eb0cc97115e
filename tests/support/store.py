"""A server that speaks S3 (moto, in a process of its own), and a proxy before it that can fail as a network does."""

import http.client
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER = "import sys; from moto.server import main; main(['-p', sys.argv[1]])"
BUCKET = "images"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return opened.getsockname()[1]


@dataclass
class Network:
    """``fault``: "busy" (answers 503) or "cut" (half of the body); ``times``: how many of the next reads of tars meet it."""

    port: int
    fault: str = ""
    times: int = 0

    def put(self, client: Any, folder: Path, prefix: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = f"{prefix}/{path.relative_to(folder).as_posix()}"
                client.put_object(Bucket=BUCKET, Key=name, Body=path.read_bytes())


def _handler(network: Network, server: int) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            there = http.client.HTTPConnection("127.0.0.1", server)
            there.request(self.command, self.path, self.rfile.read(length), dict(self.headers))
            answer = there.getresponse()
            body, status = answer.read(), answer.status
            fails = network.times > 0 and ".tar" in self.path and self.command == "GET"
            network.times -= fails
            if fails and network.fault == "busy":
                status, body = 503, b"<Error><Code>SlowDown</Code></Error>"
            self.send_response(status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header(
                "Content-Length", answer.headers["Content-Length"] if self.command == "HEAD" else str(len(body))
            )
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if fails and network.fault == "cut" else body)
            self.close_connection = True

        do_PUT = do_HEAD = do_POST = do_DELETE = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler


@contextmanager
def network() -> Iterator[Network]:
    """The proxy; the usual variables name it, and hold credentials."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    made = Network(0)
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(made, port))
    made.port = proxy.server_address[1]
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    before = dict(os.environ)
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{made.port}", "AWS_CONFIG_FILE": "/dev/null"}
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
        yield made
    finally:
        os.environ.clear()
        os.environ |= before
        proxy.shutdown()
        server.kill()
        server.wait()
