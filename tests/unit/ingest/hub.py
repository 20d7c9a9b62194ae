"""The hub in a test: a stub of its HTTP interface on loopback, and a machine without a network with what is cached."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_API = re.compile(r"^/api/models/(\w+/\w+)(?:/revision/main)?(?:\?.*)?$")
_TREE = re.compile(r"^/api/models/(\w+/\w+)/tree/\w+(?:\?.*)?$")
_FILE = re.compile(rf"^/(\w+/\w+)/resolve/{COMMIT}/(.+)$")


def without_a_network(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The hub's library keeps its cache in ``cache`` and reaches nobody."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def cached_repository(cache: Path, repo: str, commit: str = COMMIT) -> Path:
    """The folder of a repository's files at the commit that its branch ``main`` points to."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    files = place / "snapshots" / commit
    files.mkdir(parents=True)
    return files


class Hub:
    """Repositories under ``root``, one commit each; ``asked`` lists the files that were sent, and how much of them."""

    def __init__(self, root: Path, server: ThreadingHTTPServer) -> None:
        self.root, self.server = root, server
        self.asked: list[tuple[str, str]] = []
        self.cut_short = False
        """send half of every file, then hang up"""
        self.cut_once = False
        """the same with the next file alone"""
        self.held: str | None = None
        """of this file send half, and the rest when :attr:`let_go` is set"""
        self.let_go = threading.Event()

    def answer(self, path: str, asked_range: str | None) -> tuple[int, dict[str, str], bytes]:
        if found := _API.match(path):
            files = self._files(found[1])
            if not files:
                return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
            siblings = [
                {"rfilename": name, "size": len(data), "blobId": _sha1(data), **_large(name, data, "sha256")}
                for name, data in files.items()
            ]
            return 200, {}, json.dumps({"id": found[1], "sha": COMMIT, "siblings": siblings}).encode()
        if found := _TREE.match(path):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": _sha1(data), **_large(name, data, "oid")}
                for name, data in self._files(found[1]).items()
            ]
            return 200, {}, json.dumps(entries).encode()
        found = _FILE.match(path)
        data = self._files(found[1]).get(found[2]) if found else None
        if found is None or data is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        name = found[2]
        tag = _sha256(data) if _large(name, data, "oid") else _sha1(data)
        headers = {
            "ETag": f'"{tag}"',
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(len(data)),
            "Accept-Ranges": "bytes",
        }
        if asked_range is None:
            return 200, headers, data
        begin, _, end = asked_range.removeprefix("bytes=").partition("-")
        first, last = int(begin), int(end) if end else len(data) - 1
        part = data[first : last + 1]
        return 206, headers | {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"}, part

    def _files(self, repo: str) -> dict[str, bytes]:
        place = self.root / repo
        return {p.relative_to(place).as_posix(): p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}


@contextmanager
def hub(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback that the library takes for the real one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = served.answer(self.path, self.headers.get("Range"))
            if _FILE.match(self.path) and status < 300:
                served.asked.append((self.path.rpartition("/")[2], self.headers.get("Range") or "all"))
            self._reply(status, headers, len(body))
            cut = (served.cut_short or served.cut_once) and _FILE.match(self.path)
            if cut:
                served.cut_once = False
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            elif served.held and self.path.endswith(served.held):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                served.let_go.wait(60)
                self.close_connection = True
            else:
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            status, headers, body = served.answer(self.path, None)
            self._reply(status, headers, len(body))

        def _reply(self, status: int, headers: dict[str, str], length: int) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Hub(root, server)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _large(name: str, data: bytes, key: str) -> dict[str, Any]:
    """Weights are kept by content, as git's large files are."""
    if not name.endswith(".safetensors"):
        return {}
    return {"lfs": {key: _sha256(data), "size": len(data), "pointerSize": 130}}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
