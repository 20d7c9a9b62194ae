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

import pyarrow as pa
import pyarrow.compute as pc

from atlas.errors import BadBuild, NoAtlas, NoSpace, StoreError
from atlas.observed import observed
from atlas.server import Server
from atlas.staging import NODE_FILES, Build
from atlas.stores import Progress
from atlas.stores.neo4j import importfiles
from atlas.stores.neo4j.importfiles import DATABASE, Plan
from atlas.stores.neo4j.store import Neo4jStore

ONLINE_MICROSECONDS = 25.0
OFFLINE_MICROSECONDS = 6.0
RESTART_SECONDS = 30.0
"""what each way costs, an edge and a restart, on two cores; only their ratio matters here"""


def quicker(builds: Sequence[Build], loaded: set[str]) -> tuple[str, str]:
    """``online`` or ``offline``, whichever puts these builds on a server sooner, and why in one line.

    ``loaded``: ids of the builds that the server has already; online, only the others are sent.
    """
    total = sum(build.n_edges for build in builds)
    new = sum(build.n_edges for build in builds if build.id not in loaded)
    online = new * ONLINE_MICROSECONDS * 1e-6
    offline = total * OFFLINE_MICROSECONDS * 1e-6 + RESTART_SECONDS
    way = "online" if online <= offline else "offline"
    return way, (
        f"{way} is quicker: online sends {new:,} new edges in about {_spoken(online)}; "
        f"offline rewrites all {total:,} and restarts the server in about {_spoken(offline)}"
    )


def write(builds: Sequence[Build], folder: Path, progress: Progress) -> Plan:
    """Write the importer's files for these builds, which must be all that the database is to hold.

    Raises BadBuild where two builds are of one set.
    """
    _refuse_twins(builds)
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
        with _opened(server) as store:
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
    store.restore_empty_texts({label: _empty(builds, label) for label in NODE_FILES})
    for build in builds:
        store.describe(build)


def _refuse_to_lose(server: Server, given: set[str]) -> None:
    if not (server.home.path / "data" / "databases" / DATABASE).exists():
        return
    server.start()
    try:
        with _opened(server) as store:
            held = set(store.run("MATCH (s:TranscoderSet) RETURN s.key AS key")["key"])
    except NoAtlas:
        return
    if lost := sorted(held - given):
        raise StoreError(
            f"importing replaces the whole database, and {', '.join(lost)} would be lost; "
            "give their builds too, or take them out first (atlas remove)"
        )


def _opened(server: Server) -> Neo4jStore:
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


def _empty(builds: Sequence[Build], label: str) -> dict[str, list[str]]:
    """Keys of the nodes whose texts are empty, by property: the importer takes an empty text for an absent one."""
    found: dict[str, list[str]] = {}
    for build in map(observed, builds):
        table = build.nodes(label)
        words = ("_words", *(field.name for field in table.schema if field.type == pa.string()))
        for name in words:
            column = importfiles.words_of(table, label) if name == "_words" else table[name]
            if column is not None:
                keys = table["key"].filter(pc.equal(column, "")).to_pylist()  # type: ignore[attr-defined]
                found.setdefault(name, []).extend(keys)
    return {name: keys for name, keys in found.items() if keys}


def _refuse_twins(builds: Sequence[Build]) -> None:
    seen: dict[str, str] = {}
    for build in builds:
        if build.set_key in seen:
            raise BadBuild(
                f"{build.id} and {seen[build.set_key]} are two builds of {build.set_key}; a database holds one of a set"
            )
        seen[build.set_key] = build.id


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
