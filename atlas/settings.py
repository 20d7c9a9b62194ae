"""Where the data and the stores are.

Strongest first: an option or argument, the environment (``ATLAS_HOME``, ``ATLAS_STORE``, ``ATLAS_NEO4J_USER``,
``ATLAS_NEO4J_PASSWORD`` or ``ATLAS_NEO4J_PASSWORD_FILE``, ``ATLAS_NEO4J_DATABASE``), then ``atlas.toml`` in the working
folder or in ``ATLAS_HOME``::

    store = "bolt://localhost:7687"
    [neo4j]
    user = "neo4j"
    password_file = "~/.atlas-password"        # or password = "..."
    database = "neo4j"

A store is a folder, or an address that begins with ``bolt://``, ``neo4j://`` or their ``+s``, ``+ssc`` forms.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_data_path

from atlas.errors import BadSetting

_ADDRESS = re.compile(r"^(bolt|neo4j)(\+s|\+ssc)?://[^\s/]+$")
_KNOWN = {"store", "home", "neo4j"}
_KNOWN_NEO4J = {"user", "password", "password_file", "database"}


@dataclass(frozen=True)
class Settings:
    """Resolved settings; the password never shows in ``repr``."""

    home: Path
    store: str
    neo4j_user: str
    neo4j_password: str
    neo4j_database: str | None

    def __repr__(self) -> str:
        return f"Settings(home={str(self.home)!r}, store={self.store!r})"

    @property
    def builds(self) -> Path:
        """Staged builds, a folder each."""
        return self.home / "builds"


def is_address(store: str) -> bool:
    """Whether a store is a server's address rather than a folder. Raises BadSetting for an address no driver takes."""
    if "://" not in store:
        return False
    if not _ADDRESS.match(store):
        raise BadSetting(
            f"{store!r} is no address of a store; write bolt://host:7687, neo4j://host:7687 or a folder "
            "(user and password belong in ATLAS_NEO4J_USER and ATLAS_NEO4J_PASSWORD)"
        )
    return True


def load(store: str | Path | None = None, *, home: str | Path | None = None) -> Settings:
    """Resolve the settings; arguments win over the environment, the environment over ``atlas.toml``."""
    given_home = home or os.environ.get("ATLAS_HOME")
    default_home = Path(given_home) if given_home else user_data_path("feature-atlas", appauthor=False)
    file = _file(default_home)
    home_path = Path(given_home or file.get("home") or default_home).expanduser().absolute()
    server = file.get("neo4j", {})
    return Settings(
        home=home_path,
        store=str(store or os.environ.get("ATLAS_STORE") or file.get("store") or home_path / "atlas"),
        neo4j_user=os.environ.get("ATLAS_NEO4J_USER") or server.get("user") or "neo4j",
        neo4j_password=os.environ.get("ATLAS_NEO4J_PASSWORD") or _password(server),
        neo4j_database=os.environ.get("ATLAS_NEO4J_DATABASE") or server.get("database"),
    )


def _password(server: dict[str, Any]) -> str:
    """From the file that is named, else from ``atlas.toml``."""
    named = os.environ.get("ATLAS_NEO4J_PASSWORD_FILE") or server.get("password_file")
    if not named:
        return server.get("password") or ""
    try:
        return Path(named).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise BadSetting(f"the file with Neo4j's password, {named}, cannot be read: {error}") from error


def _file(home: Path) -> dict[str, Any]:
    for path in (Path("atlas.toml"), home / "atlas.toml"):
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise BadSetting(f"{path} cannot be read: {error}") from error
        server = content.get("neo4j", {})
        unknown = sorted(content.keys() - _KNOWN) + sorted(f"neo4j.{name}" for name in server.keys() - _KNOWN_NEO4J)
        if unknown:
            raise BadSetting(f"{path} sets {', '.join(unknown)}, which nothing reads; known: store, home, [neo4j]")
        return content
    return {}
