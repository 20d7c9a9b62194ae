"""Settings: an option wins over the environment, the environment over the file, and a wrong file is one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlas import settings
from atlas.errors import BadSetting


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ATLAS_STORE", "ATLAS_NEO4J_USER", "ATLAS_NEO4J_PASSWORD", "ATLAS_NEO4J_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_option_wins_over_the_environment_and_that_over_the_file(nowhere: Path, monkeypatch: pytest.MonkeyPatch):
    (nowhere / "atlas.toml").write_text('store = "from-file"\n[neo4j]\nuser = "me"\npassword = "secret"\n')
    assert settings.load().store == "from-file"

    monkeypatch.setenv("ATLAS_STORE", "bolt://from-environment:7687")
    assert settings.load().store == "bolt://from-environment:7687"
    assert settings.load("from-option").store == "from-option"
    assert settings.load().neo4j_user == "me"


def test_without_any_setting_the_store_lies_in_the_home(nowhere: Path):
    assert settings.load().store == str(nowhere / "home" / "atlas")
    assert settings.load().builds == nowhere / "home" / "builds"


def test_a_password_never_shows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ATLAS_NEO4J_PASSWORD", "hunter2")

    assert settings.load().neo4j_password == "hunter2"
    assert "hunter2" not in repr(settings.load())


@pytest.mark.parametrize("content", ["stroe = 1", "[neo4j]\nusr = 1", "not toml"])
def test_a_wrong_file_is_one_line(content: str, nowhere: Path):
    (nowhere / "atlas.toml").write_text(content)

    with pytest.raises(BadSetting, match=r"atlas\.toml"):
        settings.load()


@pytest.mark.parametrize("address", ["bolt://localhost:7687", "neo4j://h", "neo4j+s://h:1", "bolt+ssc://h:1"])
def test_addresses_of_servers_are_known(address: str):
    assert settings.is_address(address)


@pytest.mark.parametrize("address", ["http://localhost:7474", "bolt://", "neo4j+x://h", "bolt://user@h/x y"])
def test_an_address_no_driver_takes_is_refused(address: str):
    with pytest.raises(BadSetting, match="bolt://host"):
        settings.is_address(address)


def test_a_folder_is_no_address():
    assert not settings.is_address("some/folder")
