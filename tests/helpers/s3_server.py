"""An S3 server on this machine, over HTTP, that counts what it is asked and can be made to fail.

python tests/s3_server.py            prints its address, serves until it is killed

GET  /__calls       all calls since the last time: [[method, path?query], ...]
POST /__mood        {"lose": 0.1, "wait": 0.02, "down": false, "after": 0}: from now on, after
                    so many more calls, a share of calls is lost (a 500, a 503, or a connection
                    that ends, before or after the call is done), each waits, or none is answered
"""

import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Start = Callable[..., Any]


class Moody:
    """The server's calls, in front of moto."""

    def __init__(self) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.rng, self.guard = random.Random(0), threading.Lock()
        self.mood: dict[str, Any] = {}
        self.calls: list[tuple[str, str]] = []

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        if path.startswith("/__"):
            return self._own(path, environ, start)
        with self.guard:
            self.calls.append((environ["REQUEST_METHOD"], f"{path}?{query}" if query else path))
            fate, late = self._fate()
        time.sleep(self.mood.get("wait", 0.0))
        if fate and late:
            list(self.app(dict(environ), lambda *_: None))  # done, and the answer is lost
        elif fate:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if fate:
            return _lost(fate, environ, start)
        return self.app(environ, start)

    def _fate(self) -> tuple[str, bool]:
        """(what happens to a call, whether it is done first)."""
        self.mood["after"] = self.mood.get("after", 0) - 1
        if self.mood["after"] >= 0:
            return "", False
        if self.mood.get("down") or self.mood.get("deny"):
            return "403" if self.mood.get("deny") else "503", False
        if self.rng.random() < self.mood.get("lose", 0.0):
            return self.rng.choice(("500", "503", "reset")), self.rng.random() < 0.5
        return "", False

    def _own(self, path: str, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        with self.guard:
            if path == "/__mood":
                self.mood = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
            answer, self.calls = json.dumps(self.calls).encode(), []
        start("200 OK", [("Content-Type", "application/json")])
        return [answer]


def _lost(fate: str, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    if fate == "reset":
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError
    code = {"500": "InternalError", "503": "SlowDown", "403": "InvalidAccessKeyId"}[fate]
    start(f"{fate} {code}", [("Content-Type", "application/xml")])
    text = "Access Key Id does not exist" if fate == "403" else "Please try again"
    return [f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()]


class Silent(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: Any) -> None:
        """Calls are counted, not printed."""


def main() -> None:
    server = make_server("127.0.0.1", 0, Moody(), threaded=True, request_handler=Silent)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
