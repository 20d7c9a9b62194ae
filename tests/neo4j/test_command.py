"""``atlas load`` to a server, online and through the importer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from atlas.cli import main
from atlas.server import CURRENT, Server
from tests.neo4j import graphs, servers
from tests.neo4j.servers import Place
from tests.toy import Toy

pytestmark = pytest.mark.neo4j


Atlas = Callable[..., tuple[int, str]]


@pytest.fixture
def atlas(capsys: pytest.CaptureFixture[str]) -> Atlas:
    """Run a command; its exit code, and all it said."""

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.err + said.out

    return run


@pytest.fixture
def settings(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("ATLAS_STORE", place.address)
    monkeypatch.setenv("ATLAS_NEO4J_USER", place.user)
    monkeypatch.setenv("ATLAS_NEO4J_PASSWORD", place.password)
    return place


def test_an_online_load_says_first_which_way_is_quicker(settings: Place, small: Toy, atlas: Atlas):
    _, said = atlas("load", small.build.id)

    assert said.startswith(f"online is quicker here: online sends {small.n_edges:,} new edges in about 0 s")
    assert f"toy/tc-40 is in {settings.address}" in said
    assert graphs.on(settings) == graphs.of(small)


def test_for_a_server_elsewhere_the_files_are_written_and_the_call_is_printed(
    settings: Place, small: Toy, tmp_path: Path, atlas: Atlas
):
    atlas("load", "-q", small.build.id)
    newer = graphs.stage(tmp_path / "home", seed=5)

    _, said = atlas("load", "-q", newer.build.id, "--offline", "--files", tmp_path / "files")

    assert "neo4j-admin database import full neo4j" in said
    assert f"cypher-shell -f {tmp_path}/files/after.cypher" in said
    assert graphs.on(settings) == graphs.of(small)  # nothing has been done yet
    for statement in (tmp_path / "files" / "after.cypher").read_text().split(";\n")[:-1]:
        settings.query(statement)


def test_a_server_that_is_not_ours_is_not_stopped(settings: Place, small: Toy, atlas: Atlas):
    code, said = atlas("load", small.build.id, "--offline")

    assert code == 1
    assert "is not the server in" in said
    assert "--files FOLDER" in said


@pytest.mark.timeout(900)  # starts a server several times
def test_the_importer_loads_beside_what_our_server_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atlas: Atlas):
    if servers.OWN:
        pytest.skip("needs a server of its own; unset NEO4J_TEST_URI to run this")
    servers.shared(CURRENT)
    home = tmp_path / "home"
    first, second = graphs.stage(home), graphs.stage(home, model="second", seed=3)
    with Server(home / "neo4j", heap="256m") as server:
        for name, value in {
            "HOME": home,
            "STORE": server.address,
            "NEO4J_PASSWORD_FILE": server.home.password_file,
        }.items():
            monkeypatch.setenv(f"ATLAS_{name}", str(value))

        atlas("load", "-q", first.build.id)
        _, said = atlas("load", second.build.id, "--offline")

        held = Server.found(home / "neo4j")
        place = Place(held.address, "neo4j", held.home.password, held)
        assert f"{held.address} holds 2 sets" in said
        assert graphs.on(place) == graphs.of(first, second)
        held.stop()
