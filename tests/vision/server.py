"""A server of weight files on this machine that misbehaves when it is told to."""

from __future__ import annotations

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTML = b"<!DOCTYPE html><html><body>Please log in to this network.</body></html>"


class Server(ThreadingHTTPServer):
    """Serves ``files`` by the last part of the path, each request as the next word of ``script``.

    After the script every answer is as ``then`` says. ``seen`` has a row for each request: its
    path as it was sent, the byte that it began at, and how many bytes were sent. Words: whole,
    cut (half of what is left), html, stall (after 1,000 bytes), slow (about 1 s for a file),
    elsewhere (a redirect to the next word), a status such as 404, and more in ``Handler``.
    """

    rest = "0"  # seconds that it wants to be left alone after a 503
    daemon_threads = True
    block_on_close = False

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.script, self.then = files, [], "whole"
        self.seen: list[dict] = []
        self.unclear: list[str] = []
        self.over = threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}/weights/"

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    @property
    def sent(self) -> int:
        """Bytes of files that were sent in all."""
        return sum(row["sent"] for row in self.seen)

    def handle_error(self, request, client_address) -> None:
        """Clients that hang up are what is tested."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Not to the screen."""

    def do_GET(self) -> None:
        server = self.server
        word = server.script.pop(0) if server.script else server.then
        row = {"path": self.path, "from": 0, "sent": 0, "headers": dict(self.headers)}
        server.seen.append(row)
        self.close_connection = True
        if word.isdigit():
            return self.begin(int(word), 0, {"Retry-After": server.rest} if word == "503" else {})
        if word == "elsewhere":
            return self.begin(302, 0, {"Location": "/other/place/" + self.name()})
        if word == "html":
            self.begin(200, len(HTML), {"Content-Type": "text/html"})
            return self.wfile.write(HTML)
        content = server.files[self.name()]
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        tag = '"changed"' if word == "changed" else '"1"'
        fits = self.headers.get("If-Range", tag) == tag
        status, headers = 200, {} if word.startswith("no tag") else {"ETag": tag}
        if span and word != "no range" and fits:
            row["from"] = int(span[1])
            if row["from"] >= len(content):
                return self.begin(416, 0, {})
            status = 206
            said = row["from"] + (1 if word == "wrong range" else 0)
            headers["Content-Range"] = f"bytes {said}-{len(content) - 1}/{len(content)}"
        body = content[row["from"] :]
        if word == "no length cut":  # as HTTP/1.0: the end of the connection is the end of the file
            headers["Connection"] = "close"
            self.begin(status, None, headers)
        else:
            self.begin(status, len(body), headers)
        if "cut" in word:
            body = body[: len(body) // 2]
        if word == "stall":
            body = body[:1000]
        step = max(1, len(content) // 100) if word == "slow" else len(body)
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            row["sent"] += len(body[start : start + step])
            if word == "slow":
                time.sleep(0.01)
        if word == "stall":
            server.over.wait(60)

    def name(self) -> str:
        return self.path.split("?")[0].rsplit("/", 1)[-1]

    def begin(self, status: int, length: int | None, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
