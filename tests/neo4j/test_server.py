"""A Neo4j of one's own with nothing but pip, and the same in Docker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from atlas.errors import BadSetting, StoreUnreachable, Unreachable
from atlas.server import CURRENT, VERSIONS, Server, home, jars
from tests.neo4j import servers

REPOSITORY = Path(__file__).parents[2]
INSIDE_DOCKER = {"server.default_listen_address", "server.directories.import"}


def test_docker_starts_the_same_version_with_the_same_settings():
    service = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]["neo4j"]
    given = {
        name.removeprefix("NEO4J_").replace("__", "\0").replace("_", ".").replace("\0", "_"): value
        for name, value in service["environment"].items()
    }

    wanted = {k: v for k, v in (home.SETTINGS | home.SINCE_2026).items() if k not in INSIDE_DOCKER}
    assert service["image"] == f"neo4j:{CURRENT}-community"
    assert {name: given.get(name) for name in wanted} == wanted
    assert service["ports"] == ["127.0.0.1:7687:7687"]  # nobody else's machine
    assert given["AUTH"].startswith("neo4j/${ATLAS_NEO4J_PASSWORD:?")


def test_it_listens_on_the_loopback_interface_only(tmp_path: Path):
    server = Server(tmp_path, port=7999)
    server.home.lay_out({})

    lines = (tmp_path / "conf" / "neo4j.conf").read_text().splitlines()

    assert "server.default_listen_address=127.0.0.1" in lines
    assert "server.bolt.listen_address=127.0.0.1:7999" in lines
    assert "server.http.enabled=false" in lines


def test_a_version_nobody_tested_is_refused(tmp_path: Path):
    with pytest.raises(BadSetting, match=f"'4.4.0' is not one of the versions tested here: {', '.join(VERSIONS)}"):
        Server(tmp_path, version="4.4.0").start()


def test_a_folder_without_a_server_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(BadSetting, match=r"holds no Neo4j server; python -m atlas\.server start makes one"):
        Server.found(tmp_path)


def test_jars_that_cannot_be_had_are_one_line_with_a_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_network(version: str, lib: Path) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jars, "_with_jgo", no_network)
    monkeypatch.setattr(jars.shutil, "which", lambda name: None)

    with pytest.raises(Unreachable, match=r"no route to host.*feature-atlas\[server\]"):
        jars.fetch(CURRENT)
    assert not jars.folder(CURRENT).exists()  # nothing half-downloaded that the next start would take for whole


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_any_server_ci_fails_and_others_learn_how_to_get_one(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CI", ci)

    with pytest.raises(outcome, match=r"feature-atlas\[server\].*Docker.*NEO4J_TEST_URI"):
        servers.absent("nothing here")


@pytest.mark.neo4j
def test_a_server_that_cannot_start_says_what_its_log_says(tmp_path: Path):
    if servers.OWN:
        pytest.skip("needs a server of its own; unset NEO4J_TEST_URI to run this")
    with pytest.raises(StoreUnreachable, match=r"ended as it started: .*(?i:no\.such\.setting).*console\.log"):
        Server(tmp_path, settings={"no.such.setting": "1"}).start()


@pytest.mark.neo4j
def test_the_command_starts_it_tells_how_to_use_it_and_stops_it(tmp_path: Path):
    if servers.OWN:
        pytest.skip("needs a server of its own; unset NEO4J_TEST_URI to run this")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"ATLAS_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "atlas.server", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    try:
        started, again, status = run("start", "--heap", "256m"), run(), run("status")
    finally:
        stopped = run("stop")

    server = Server.found(tmp_path / "neo4j")
    exported = f"export ATLAS_STORE={server.address} ATLAS_NEO4J_PASSWORD_FILE={server.home.password_file}"
    assert exported in started.stdout
    assert "runs already" in again.stdout
    assert (status.returncode, stopped.returncode, run("status").returncode) == (0, 0, 1)
    assert server.home.password not in started.stdout + again.stdout + status.stdout
