"""A server that speaks OpenAI's chat completions as far as a test needs: it answers, hangs, errs or talks nonsense."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stub(ThreadingHTTPServer):
    """Counts what it is asked; ``behaviour(n)`` says what to do with the nth question."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict] = []
        self.keys: set[str] = set()
        self.behaviour = lambda n: "answer"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        self.server.keys.add(self.headers.get("Authorization", ""))
        match self.server.behaviour(len(self.server.asked)):
            case "answer":
                assert self.path == "/v1/chat/completions"
                self._say(200, {"choices": [{"message": {"content": '"small animals"\n'}}]})
            case "hang":
                time.sleep(2)
            case "err":
                self._say(503, {"error": "overloaded"})
            case "html":
                self._say(200, "<html>sign in</html>")
            case "other":
                self._say(200, {"result": "small animals"})
            case "long":
                self._say(200, {"choices": [{"message": {"content": "la " * 500}}]})

    def _say(self, status: int, content: object) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving() -> Iterator[Stub]:
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
