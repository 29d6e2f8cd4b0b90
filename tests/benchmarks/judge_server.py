"""A server on this machine that speaks chat completions, and does whatever else servers do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What the server sends; `wait` seconds later."""

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0.0


@dataclass
class Call:
    """What the server was asked."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


def completion(content: Any, **others: Any) -> dict[str, Any]:
    """The body of a good answer."""
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "judge-2026-01-01",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}, **others,
    }  # fmt: skip


@contextmanager
def serve(answer: Callable[[list[Call]], Answer]) -> Iterator[tuple[str, list[Call]]]:
    """A running server's base URL and the calls it gets; `answer` sees all of them, the newest last."""
    calls: list[Call] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"]))
            calls.append(Call(self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(text)))
            self.send(answer(calls))

        def do_GET(self) -> None:  # where redirects lead
            self.send(Answer("<html>sign in</html>", headers={"Content-Type": "text/html"}))

        def send(self, answer: Answer) -> None:
            time.sleep(answer.wait)
            raw = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
            try:
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw.encode())))
                self.end_headers()
                self.wfile.write(raw.encode())
            except OSError:  # the judge no longer waits
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Tests print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", calls
    finally:
        server.shutdown()
        server.server_close()
