"""What goes wrong between a client and a server: a proxy that cuts connections, and a server that is none."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class Proxy:
    """Forwards connections to a server; :meth:`cut` breaks all that are open, :attr:`cut_every` does so by itself."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"bolt://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cut_every: int | None = None
        """bytes from the client between two cuts, in the middle of whatever is being sent"""
        self.cuts = 0
        self._sent = 0
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every open connection, both ways, without a word."""
        with self._guard:
            self.cuts += 1
            for one in self._open:
                # no lingering: the other side sees a reset, as from a machine that went away
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                return
            with self._guard:
                self._open |= {client, server}
            for source, target, counted in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, target, counted), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(1 << 16):
                if counted and self._due(len(data)):
                    target.sendall(data[: len(data) // 2])
                    self.cut()
                    return
                target.sendall(data)
        with self._guard:
            self._open -= {source, target}

    def _due(self, size: int) -> bool:
        with self._guard:
            self._sent += size
            if self.cut_every is None or self._sent < self.cut_every:
                return False
            self._sent = 0
            return True


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """A proxy before a server's port, for as long as the block runs."""
    between = Proxy(port)
    try:
        yield between
    finally:
        between.close()


_HELLO, _RUN, _PULL = 0x01, 0x10, 0x3F


class _OldServer(socketserver.BaseRequestHandler):
    """Speaks Bolt 5.4 just far enough to say that it is Neo4j 5.12."""

    _answers: ClassVar[dict[int, dict[str, object]]] = {
        _HELLO: {"server": "Neo4j/5.12.0", "connection_id": "bolt-1", "hints": {}},
        _RUN: {"t_first": 0, "fields": []},
        _PULL: {"type": "r", "db": "neo4j", "t_last": 0},
    }

    def handle(self) -> None:
        self.request.recv(20)
        self.request.sendall(bytes((0, 0, 4, 5)))
        with contextlib.suppress(OSError):
            while message := self._receive():
                body = b"\xb1\x70" + _packed(self._answers.get(message[1], {}))
                self.request.sendall(len(body).to_bytes(2, "big") + body + b"\0\0")

    def _receive(self) -> bytes:
        message = b""
        while size := self.request.recv(2):
            length = int.from_bytes(size, "big")
            if length == 0:
                return message
            message += self.request.recv(length)
        return b""


class _StrangeServer(socketserver.BaseRequestHandler):
    """Knows none of the versions of Bolt that it is offered."""

    def handle(self) -> None:
        self.request.recv(20)
        self.request.sendall(bytes(4))


@contextmanager
def old_server() -> Iterator[str]:
    """The address of something that says it is Neo4j 5.12."""
    with _serving(_OldServer) as address:
        yield address


@contextmanager
def strange_server() -> Iterator[str]:
    """The address of something whose handshake fails."""
    with _serving(_StrangeServer) as address:
        yield address


@contextmanager
def _serving(handler: type[socketserver.BaseRequestHandler]) -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"bolt://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def _packed(value: object) -> bytes:
    """PackStream, as far as it is needed here: small texts, numbers, lists and maps."""
    if isinstance(value, str):
        text = value.encode()
        return (bytes((0x80 + len(text),)) if len(text) < 16 else bytes((0xD0, len(text)))) + text
    if isinstance(value, int):
        return bytes((value,))
    if isinstance(value, list):
        return bytes((0x90 + len(value),)) + b"".join(_packed(item) for item in value)
    if isinstance(value, dict):
        return bytes((0xA0 + len(value),)) + b"".join(_packed(k) + _packed(v) for k, v in value.items())
    raise TypeError(type(value))
