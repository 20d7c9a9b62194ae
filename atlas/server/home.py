"""The folder a local Neo4j lives in: settings, data, password.

::

    HOME/
      server.json       version, port, whether it asks for a password; pid while it runs
      password          readable by its owner only
      conf/neo4j.conf   written at every start
      data/ logs/ import/ plugins/
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from atlas.errors import BadSetting

SETTINGS = {
    "server.default_listen_address": "127.0.0.1",
    "server.http.enabled": "false",
    "server.https.enabled": "false",
    "dbms.usage_report.enabled": "false",
    "server.memory.pagecache.size": "64m",
    "db.tx_log.rotation.retention_policy": "keep_none",
    "server.directories.import": "import",
    # the second wall behind the check of a stranger's query: no file and no address can be read
    "dbms.security.allow_csv_import_from_file_urls": "false",
    "internal.dbms.cypher_ip_blocklist": "0.0.0.0/0,::/0",
    "db.transaction.timeout": "60s",
    # otherwise a short time-out fires up to 2 s late
    "db.transaction.monitor.check.interval": "200ms",
    # otherwise a stop waits 11 s for idle connections
    "internal.server.bolt.thread_pool_shutdown_wait_time": "0s",
}

SINCE_2026 = {
    # it would call out to Neo4j's cloud, and look for its like on the network
    "dbms.fleet_manager.enabled": "false",
    "server.fleet_discovery.enabled": "false",
}


@dataclass(frozen=True)
class Home:
    """One server's folder; :func:`open_home` makes or reads it."""

    path: Path
    version: str
    port: int
    auth: bool

    @property
    def address(self) -> str:
        return f"bolt://127.0.0.1:{self.port}"

    @property
    def password_file(self) -> Path:
        return self.path / "password"

    @property
    def password(self) -> str:
        """The password of the user ``neo4j``; empty where the server asks for none."""
        return self.password_file.read_text().strip() if self.auth else ""

    @property
    def log(self) -> Path:
        return self.path / "logs" / "console.log"

    def lay_out(self, extra: dict[str, str]) -> None:
        """Make the folders and write the settings, ``extra`` over the usual ones."""
        for name in ("conf", "data", "logs", "import", "plugins"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        newer = {} if self.version.startswith("5.") else SINCE_2026
        lines = (
            SETTINGS
            | newer
            | {
                "server.bolt.listen_address": f"127.0.0.1:{self.port}",
                "dbms.security.auth_enabled": str(self.auth).lower(),
            }
        )
        text = "".join(f"{name}={value}\n" for name, value in (lines | extra).items())
        (self.path / "conf" / "neo4j.conf").write_text(text)
        if self.auth and not self.password_file.exists():
            with open(os.open(self.password_file, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(18) + "\n")

    def remember(self, pid: int | None) -> None:
        """Write ``server.json``, so that another process finds the server."""
        content = {"version": self.version, "port": self.port, "auth": self.auth, "pid": pid}
        scratch = self.path / "server.json.new"
        scratch.write_text(json.dumps(content, indent=2) + "\n")
        scratch.replace(self.path / "server.json")


def read_home(path: Path) -> tuple[Home, int | None]:
    """A home that was made before, and the pid it last ran under. Raises BadSetting where there is none."""
    try:
        content = json.loads((path / "server.json").read_text())
        return Home(path, content["version"], content["port"], content["auth"]), content["pid"]
    except FileNotFoundError:
        raise BadSetting(f"{path} holds no Neo4j server; python -m atlas.server start makes one") from None
    except (ValueError, KeyError) as error:
        raise BadSetting(f"{path}/server.json cannot be read ({error}); remove it and start again") from None
