"""Offline loading: Neo4j's own importer, which writes a whole new database from Parquet, several times faster.

Community edition imports only into a database that is empty, so the files hold the builds of *all* sets, and the
database is replaced: it is imported beside the old one and swapped in while the server is down. Nodes get numbers as
the importer's identifiers (:data:`Plan.call` names them), since text costs it more; keys are properties as ever.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atlas.errors import NoAtlas, NoSpace, StoreError
from atlas.server import Server
from atlas.staging import Build
from atlas.stores import Progress
from atlas.stores.neo4j import clashes, importfiles
from atlas.stores.neo4j.doctor import staged
from atlas.stores.neo4j.importfiles import DATABASE, Plan
from atlas.stores.neo4j.store import Neo4jStore

ONLINE_MICROSECONDS = 25.0
OFFLINE_MICROSECONDS = 6.0
RESTART_SECONDS = 30.0
"""what each way costs, an edge and a restart, on two cores; only their ratio matters here"""


def quicker(new: int, all_of_them: int) -> tuple[str, str]:
    """``online`` or ``offline``, whichever puts new edges on a server sooner, and why in one line.

    ``all_of_them``: edges that the server will hold then; offline rewrites every one.
    """
    online = new * ONLINE_MICROSECONDS * 1e-6
    offline = all_of_them * OFFLINE_MICROSECONDS * 1e-6 + RESTART_SECONDS
    way = "online" if online <= offline else "offline"
    return way, (
        f"{way} is quicker here: online sends {new:,} new edges in about {_spoken(online)}, "
        f"offline rewrites all {all_of_them:,} and restarts the server in about {_spoken(offline)}"
    )


def advice(store: Neo4jStore, build: Build) -> str:
    """Which way is quicker for one more build, and why."""
    held = sum(count for key, count in _held(store, "ACTIVATES + a.FEEDS + a.PROMOTES").items() if key != build.set_key)
    return quicker(build.n_edges, held + build.n_edges)[1]


def together(store: Neo4jStore, build: Build) -> list[Build]:
    """A build, and those of all other sets that a server holds: what an import must be made of.

    Raises StoreError where one of them is not on this machine.
    """
    names = [name for key, name in _held(store, "build").items() if key != build.set_key]
    found = {name: staged(name) for name in names}
    if absent := sorted(name for name, one in found.items() if one is None):
        raise StoreError(
            f"an import replaces the whole database, so it needs the builds of all its sets, and {', '.join(absent)} "
            "is not on this machine; load online, or ingest it again"
        )
    return [build, *(one for one in found.values() if one is not None)]


def _held(store: Neo4jStore, column: str) -> dict[str, Any]:
    """One thing the server remembers of each set; nothing where there is no atlas yet."""
    try:
        rows = store.run(f"MATCH (a:AtlasSet) RETURN a.key AS key, a.{column} AS found")
    except NoAtlas:
        return {}
    return dict(zip(rows["key"], rows["found"], strict=True))


def write(builds: Sequence[Build], folder: Path, progress: Progress) -> Plan:
    """Write the importer's files for these builds, which must be all that the database is to hold.

    Raises BadBuild where two builds are of one set, or mean two things by the name of a model or vocabulary.
    """
    clashes.refuse_among(builds)
    folder.mkdir(parents=True, exist_ok=True)
    return importfiles.Files(builds, folder, progress).write()


def install(server: Server, builds: Sequence[Build], progress: Progress, *, keep: Path | None = None) -> Plan:
    """Replace the database of a local server by these builds; it runs afterwards if it ran before.

    The old database stays until the new one is complete. ``keep``: a folder for the importer's files, to look at.
    Raises StoreError where the server holds a set that is not among the builds, or the importer fails.
    """
    ran = server.running
    _refuse_to_lose(server, {build.set_key for build in builds})
    folder = keep or server.home.path / "import" / "atlas"
    scratch = Server(server.home.path / "import" / "scratch", version=server.home.version, auth=False)
    for old in (folder, scratch.home.path):
        shutil.rmtree(old, ignore_errors=True)
    try:
        plan = write(builds, folder, progress)
        _run(scratch, plan, progress)
        server.stop()
        _swap(scratch.home.path / "data", server.home.path / "data")
        server.start()
        with opened(server) as store:
            finish(store, builds)
    finally:
        shutil.rmtree(scratch.home.path, ignore_errors=True)
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    if not ran:
        server.stop()
    return plan


def finish(store: Neo4jStore, builds: Sequence[Build]) -> None:
    """What the importer leaves out: constraints, indexes, empty texts, descriptions. For any server, once it runs."""
    store.create()
    store.restore_empty_texts(importfiles.empty_texts(builds))
    for build in builds:
        store.describe(build)


def _refuse_to_lose(server: Server, given: set[str]) -> None:
    if not (server.home.path / "data" / "databases" / DATABASE).exists():
        return
    server.start()
    with opened(server) as store:
        held = set(_held(store, "build"))
    if lost := sorted(held - given):
        raise StoreError(
            f"importing replaces the whole database, and {', '.join(lost)} would be lost; "
            "give their builds too, or take them out first (atlas remove)"
        )


def opened(server: Server) -> Neo4jStore:
    """A local server's store, for writing."""
    return Neo4jStore(server.address, password=server.home.password, read_only=False, timeout=600)


def _run(scratch: Server, plan: Plan, progress: Progress) -> None:
    """Run the importer into an empty home beside the server's."""
    scratch.home.lay_out({})
    progress("importing", 0, plan.edges)
    done = subprocess.run(
        scratch.admin(*plan.arguments),
        env=scratch.admin_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["it said nothing"]
        if any("No space left" in line for line in lines):
            raise NoSpace(f"the disk of {scratch.home.path} is full; free some and run the same command again")
        raise StoreError(f"Neo4j's importer failed: {lines[-1][:300]} (the old database is untouched)")
    progress("importing", plan.edges, plan.edges)


def _swap(fresh: Path, data: Path) -> None:
    """Put the imported database where the server looks; what was there goes last."""
    aside: list[Path] = []
    for part in ("databases", "transactions"):
        old, new = data / part / DATABASE, fresh / part / DATABASE
        old.parent.mkdir(parents=True, exist_ok=True)
        if old.exists():
            aside.append(old.rename(old.with_name(f"{DATABASE}.old")))
        if new.exists():
            new.rename(old)
    for old in aside:
        shutil.rmtree(old)


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
