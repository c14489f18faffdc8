"""The Hugging Face hub on this machine, as far as its client asks when it fetches one file.

with hub({"timm/NAME/model.safetensors": b"..."}) as server:
    server.address, server.asked, server.mood

mood: a status for every answer; "short" = the body ends midway and later calls get 500; "lies" =
less is sent than was announced first; "" = as it should be.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.mood = files, ""
        self.asked: list[tuple[str, str]] = []
        """Method and path of every call."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        hub = self.server
        hub.asked.append((self.command, self.path))
        owner_and_name, resolve, file = self.path[1:].partition("/resolve/")
        data = hub.files.get(f"{owner_and_name}/{file.partition('/')[2]}") if resolve else None
        again = sum(method == "GET" for method, _ in hub.asked) > 1
        if hub.mood.isdigit():
            self._start(int(hub.mood), 0)
        elif data is None:
            self._start(404, 0, {"X-Error-Code": "EntryNotFound"})
        elif not with_body:
            self._start(200, len(data), _headers(data))
        elif hub.mood == "short" and again:
            self._start(500, 0)
        else:
            sent = data[: len(data) // 2] if hub.mood in ("short", "lies") else data
            self._start(200, len(sent) if hub.mood == "lies" else len(data), _headers(data))
            self.wfile.write(sent)
            self.close_connection = self.close_connection or hub.mood == "short"

    def _start(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Calls are kept, not printed."""


def _headers(data: bytes) -> dict[str, str]:
    etag = hashlib.sha256(data).hexdigest()
    return {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    with Hub(files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
