"""Somebody else's Cypher runs in a process of its own, which may be lost.

The engine's time limit does not always fire, some queries take all memory, and some calls end the process. So a worker
opens the file read-only, gives up the right to open or to write any other file and to take more than some memory, and
answers; whoever asked waits for as long as was allowed and then ends it. :mod:`.readonly` is the first wall.

The two talk in lines of JSON; an answer's line is followed by as many bytes of Arrow stream as it says.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from atlas import errors
from atlas.errors import AtlasError, BadQuery, QueryTimeout

_MEMORY = 4 << 30
"""bytes that a query may take beside the engine's own buffers"""
_GRACE = 1.0
_START = 60.0
Answer = tuple[pa.Table, list[str], bool]


class Asker:
    """Questions to one engine file, each answered in time or not at all. Thread-safe; one question at a time."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None

    def ask(self, query: str, parameters: Mapping[str, Any], *, timeout: float, max_rows: int) -> Answer:
        """Rows, the engine's types of the columns, and whether these are all rows.

        Raises BadQuery, WriteRefused, QueryTimeout.
        """
        question = {"query": query, "parameters": dict(parameters), "timeout": timeout, "max_rows": max_rows}
        try:
            line = json.dumps(question, default=_number).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise BadQuery(f"a parameter is neither text nor a number nor a list of them ({error})") from None
        with self._lock:
            try:
                return self._exchange(line, timeout)
            except BaseException as error:
                if not isinstance(error, AtlasError) or isinstance(error, QueryTimeout):
                    self._end()
                if isinstance(error, EOFError | BrokenPipeError):
                    raise BadQuery(
                        "the engine gave up on the query, most likely for lack of memory; ask for less, or put a LIMIT "
                        "earlier"
                    ) from error
                raise

    def close(self) -> None:
        with self._lock:
            self._end()

    def _exchange(self, line: bytes, timeout: float) -> Answer:
        worker = self._worker or self._start()
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(line)
        worker.stdin.flush()
        answer = _Reader(worker.stdout, time.monotonic() + timeout + _GRACE, timeout)
        head = json.loads(answer.line())
        if "error" in head:
            raise getattr(errors, head["error"], BadQuery)(head["message"])
        with pa.ipc.open_stream(answer.bytes(head["bytes"])) as stream:
            return stream.read_all(), head["types"], head["whole"]

    def _start(self) -> subprocess.Popen[bytes]:
        # not the caller's working folder: -m would look there for modules first
        command = [sys.executable, "-P", "-m", "atlas.stores.embedded.asking", str(self._path)]
        paths = [str(Path(errors.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        worker = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for whoever asks
        )
        self._worker = worker
        assert worker.stdout is not None
        ready = json.loads(_Reader(worker.stdout, time.monotonic() + _START, _START).line())
        if "error" in ready:
            raise getattr(errors, ready["error"], BadQuery)(ready["message"])
        return worker

    def _end(self) -> None:
        if self._worker is None:
            return
        worker, self._worker = self._worker, None
        worker.kill()
        for pipe in (worker.stdin, worker.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        worker.wait()


class _Reader:
    """Reads from a pipe until a moment. Raises QueryTimeout then, EOFError where the other end is gone."""

    def __init__(self, pipe: Any, until: float, allowed: float) -> None:
        self._pipe, self._until, self._allowed = pipe, until, allowed
        self._held = b""

    def line(self) -> bytes:
        while b"\n" not in self._held:
            self._held += self._more()
        line, _, self._held = self._held.partition(b"\n")
        return line

    def bytes(self, count: int) -> bytes:
        parts = [self._held]
        while (missing := count - sum(map(len, parts))) > 0:
            parts.append(self._more(missing))
        return b"".join(parts)

    def _more(self, most: int = 1 << 16) -> bytes:
        if not select.select([self._pipe], [], [], max(0, self._until - time.monotonic()))[0]:
            raise QueryTimeout(
                f"the query ran past {self._allowed:g} s; begin it at one key, or give it longer with --timeout"
            )
        found = os.read(self._pipe.fileno(), most)
        if not found:
            raise EOFError
        return found


def _number(value: Any) -> Any:
    """A numpy scalar as Python's own."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"it is a {type(value).__name__}")


def _serve(path: Path, questions: BinaryIO, answers: BinaryIO) -> None:
    """The worker: one line in, one answer out, until the other end is closed."""
    from atlas.stores.embedded.engine import Engine

    def say(head: dict[str, Any], body: bytes = b"") -> None:
        answers.write(json.dumps(head).encode() + b"\n" + body)
        answers.flush()

    try:
        engine = Engine(path, read_only=True, timeout=0)
    except AtlasError as error:
        say({"error": type(error).__name__, "message": str(error)})
        return
    _lock_in()
    say({"ready": True})
    for line in questions:
        question = json.loads(line)
        # whatever becomes of the other end, this process does not outlive its time
        signal.alarm(int(question["timeout"] + 2 * _GRACE) + 1)
        try:
            engine.limit(question["timeout"])
            rows, types = engine.table(question["query"], question["parameters"])
        except Exception as error:  # the other end decides what it means
            known = isinstance(error, AtlasError)
            text = str(error).partition("\n")[0] or type(error).__name__
            signal.alarm(0)
            say({"error": type(error).__name__ if known else "BadQuery", "message": text})
            continue
        kept = rows.slice(0, question["max_rows"])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, kept.schema) as stream:
            stream.write_table(kept)
        body = sink.getvalue().to_pybytes()
        signal.alarm(0)
        say({"types": types, "whole": len(kept) == len(rows), "bytes": len(body)}, body)


def _lock_in() -> None:
    """Give up what answering does not need: other files, and most memory."""
    try:
        import resource
    except ImportError:  # no such limits on this system
        return
    highest = max(int(name) for name in os.listdir("/dev/fd"))
    while os.open(os.devnull, os.O_RDONLY) < highest:  # with every number taken, no file can be opened
        pass
    limits = {resource.RLIMIT_NOFILE: highest + 1, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * os.sysconf("SC_PAGE_SIZE") + _MEMORY
    for limit, value in limits.items():
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
