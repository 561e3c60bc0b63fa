"""A small HTTP server that answers as the hub does where something is gated, private, or asked for with a bad token."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """What the hub says.

    Attributes:
        status: of HTTP.
        code: X-Error-Code; "" for none.
        message: X-Error-Message; "" for none.
    """

    status: int
    code: str = ""
    message: str = ""


@dataclass
class Hub:
    """A running server.

    Attributes:
        url: for HF_ENDPOINT.
        asked: the requests, "METHOD PATH", in order.
        tokens: the Authorization headers that came with them.
    """

    url: str
    asked: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)


@contextlib.contextmanager
def hub(repositories: Mapping[str, tuple[Answer, Answer]]) -> Iterator[Hub]:
    """A running hub.

    Args:
        repositories: name -> what it says of the repository, and what to whoever wants a file of it. Any other is not
            found.
    """
    found = Hub("")
    not_found = Answer(404, "RepoNotFound", "Repository not found")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            found.asked.append(f"{self.command} {self.path}")
            found.tokens.append(self.headers.get("Authorization", ""))
            api = self.path.startswith("/api/")
            name = next((name for name in repositories if f"/{name}/" in f"{self.path}/"), None)
            about, files = (not_found, not_found) if name is None else repositories[name]
            answer = about if api and not self.path.endswith("/auth-check") else files
            body = b""
            if answer.status == 200:
                about_it = {"id": name, "sha": 40 * "a", "gated": "manual", "siblings": [], "tags": []}
                body = json.dumps([] if "/tree/" in self.path else about_it).encode()
            elif answer.message:
                body = json.dumps({"error": answer.message}).encode()
            self.send_response(answer.status)
            for header, value in (("X-Error-Code", answer.code), ("X-Error-Message", answer.message)):
                if value:
                    self.send_header(header, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET
        do_POST = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
