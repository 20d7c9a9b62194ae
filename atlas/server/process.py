"""Start, wait for, stop and kill a local Neo4j.

A server outlives the Python that started it: it runs in a session of its own and is found again through its home.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import neo4j
from neo4j.exceptions import AuthError, ClientError, DriverError, Neo4jError

from atlas.errors import BadSetting, StoreUnreachable
from atlas.server import jars
from atlas.server.home import Home, read_home

PORT = 7687
_OPENS = ("java.nio", "java.io", "sun.nio.ch", "java.util.concurrent")
_DEFAULT_PASSWORD = "neo4j"
_children: list[subprocess.Popen[bytes]] = []
"""held for as long as Python runs: a server outlives its :class:`Server`, and Python warns of processes let go"""


class Server:
    """A Neo4j on the loopback interface, with its data in one folder.

    ``port=0`` takes a free one. ``auth=False`` asks for no password: for tests only.
    ``settings`` are lines of neo4j.conf, over those of :data:`atlas.server.home.SETTINGS`.
    """

    def __init__(
        self,
        home: str | Path,
        *,
        version: str = jars.CURRENT,
        port: int = 0,
        auth: bool = True,
        heap: str = "512m",
        settings: dict[str, str] | None = None,
    ) -> None:
        self.home = Home(Path(home).absolute(), version, port or free_port(), auth)
        self.pid: int | None = None
        self._heap = heap
        self._settings = settings or {}
        self._child: subprocess.Popen[bytes] | None = None

    @classmethod
    def found(cls, home: str | Path) -> Server:
        """The server of an existing home, running or not. Raises BadSetting where there is none."""
        known, pid = read_home(Path(home).absolute())
        server = cls(known.path, version=known.version, port=known.port, auth=known.auth)
        server.pid = pid if pid is not None and _is_ours(pid, known.path) else None
        return server

    @property
    def address(self) -> str:
        return self.home.address

    @property
    def running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self.pid is not None and _is_ours(self.pid, self.home.path)

    def start(self, wait: float = 180) -> Self:
        """Start and return once it answers; ``wait`` in seconds. Harmless on a running server.

        Raises StoreUnreachable with the last line of the log where it does not come up.
        """
        if self.running:
            return self
        lib = jars.fetch(self.home.version)
        self.home.lay_out(self._settings)
        main = ["org.neo4j.server.CommunityEntryPoint"]
        if not self.home.version.startswith("5."):
            main = ["org.neo4j.server.Neo4jCommunity", "--console-mode"]
        folders = [f"--home-dir={self.home.path}", f"--config-dir={self.home.path / 'conf'}"]
        options = ["-Xms64m", f"-Xmx{self._heap}", "-XX:+UseG1GC", "-Dlog4j2.disable.jmx=true", "-Dfile.encoding=UTF-8"]
        with self.home.log.open("wb") as log:
            self._child = subprocess.Popen(
                [jars.java(), *options, *opens(), "-cp", classpath(self.home, lib), *main, *folders],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home.path,
                start_new_session=True,
            )
        _children.append(self._child)
        self.pid = self._child.pid
        try:
            self.home.remember(self.pid)
            self._await(time.monotonic() + wait)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, wait: float = 60) -> None:
        """Shut down cleanly; killed if it has not ended after ``wait`` seconds. Harmless on a stopped server."""
        self._end(signal.SIGTERM, wait)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self._end(signal.SIGKILL, 10)

    def admin(self, *arguments: str, heap: str = "1g") -> list[str]:
        """The command line of ``neo4j-admin`` for this home; run it with :meth:`admin_environment`."""
        lib = jars.fetch(self.home.version)
        app_home = f"-Dapp.home={self.home.path}"
        main = [app_home, "-cp", classpath(self.home, lib), "org.neo4j.cli.AdminTool"]
        return [jars.java(), f"-Xmx{heap}", "-Dfile.encoding=UTF-8", *opens(), *main, *arguments]

    def admin_environment(self) -> dict[str, str]:
        """What ``neo4j-admin`` reads its folders from."""
        return {"NEO4J_HOME": str(self.home.path), "NEO4J_CONF": str(self.home.path / "conf")}

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _await(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if not self.running:
                raise StoreUnreachable(f"Neo4j ended as it started: {_last_line(self.home.log)} ({self.home.log})")
            if self._answers():
                return
            time.sleep(0.1)
        raise StoreUnreachable(f"Neo4j did not answer on {self.address} in time; its log is {self.home.log}")

    def _answers(self) -> bool:
        auth = ("neo4j", self.home.password) if self.home.auth else None
        try:
            self._ask(auth, "neo4j", "RETURN 1")
        except AuthError:
            return self._set_password()
        except (DriverError, Neo4jError, OSError):
            return False
        return True

    def _set_password(self) -> bool:
        """Replace the password a fresh server has; over Bolt, since a command line is open to all on the machine."""
        try:
            self._ask(
                ("neo4j", _DEFAULT_PASSWORD),
                "system",
                "ALTER CURRENT USER SET PASSWORD FROM $old TO $new",
                old=_DEFAULT_PASSWORD,
                new=self.home.password,
            )
        except AuthError:
            raise BadSetting(
                f"the server in {self.home.path} has another password than {self.home.password_file} says; "
                "put the right one into that file, or remove the folder"
            ) from None
        except (DriverError, ClientError):
            return False
        return True

    def _ask(self, auth: tuple[str, str] | None, database: str, query: str, **parameters: str) -> None:
        with (
            neo4j.GraphDatabase.driver(self.address, auth=auth, connection_timeout=2) as driver,
            driver.session(database=database) as session,
        ):
            session.run(query, parameters).consume()  # type: ignore[arg-type]

    def _end(self, how: signal.Signals, wait: float) -> None:
        if self.running and self.pid is not None:
            os.kill(self.pid, how)
            deadline = time.monotonic() + wait
            while self.running:
                if time.monotonic() > deadline:
                    os.kill(self.pid, signal.SIGKILL)
                time.sleep(0.02)
        self._child = self.pid = None
        if (self.home.path / "server.json").exists():
            with contextlib.suppress(OSError):  # on a full disk; the number of a process that has ended misleads nobody
                self.home.remember(None)


def classpath(home: Home, lib: Path) -> str:
    return f"{lib}/*:{home.path}/plugins/*"


def opens() -> Iterable[str]:
    """What Neo4j needs of Java's own packages."""
    return (*(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPENS), "--enable-native-access=ALL-UNNAMED")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of the loopback interface."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _is_ours(pid: int, home: Path) -> bool:
    """Whether the process is alive and is the server of this home, not a stranger that got its number."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (ProcessLookupError, FileNotFoundError):
        return False if Path("/proc/self").exists() else _exists(pid)
    except OSError:  # somebody else's process
        return False
    # a process that is ending has no arguments any more, and is gone only when its parent has been told
    return state != "Z" and (not arguments or f"--home-dir={home}".encode() in arguments)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "Exception" in line]
    return (errors or lines or ["its log is empty"])[-1][:300]
