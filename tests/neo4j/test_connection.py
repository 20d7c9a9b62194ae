"""What a reader is told when there is no server, or not the right one."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas.errors import (
    AtlasError,
    BadQuery,
    NoAtlas,
    QueryTimeout,
    StoreError,
    StoreUnreachable,
    StoreVersion,
    WriteRefused,
)
from atlas.server import Server
from atlas.server.process import free_port
from atlas.stores.neo4j import Neo4jStore, connection
from tests.neo4j import graphs, servers, wires
from tests.neo4j.servers import Place
from tests.toy import Toy


def test_an_address_where_nobody_listens_is_one_clear_line():
    address = f"bolt://127.0.0.1:{free_port()}"

    with pytest.raises(StoreUnreachable, match=rf"{address} does not answer .*; is the server up\? make neo4j"):
        Neo4jStore(address)


def test_something_that_never_answers_is_one_clear_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "_ACQUIRE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.listen()
        address = f"bolt://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StoreUnreachable, match="does not answer"):
            Neo4jStore(address)


def test_a_server_that_is_too_old_is_told_so():
    with (
        wires.old_server() as address,
        pytest.raises(StoreUnreachable, match=r"is Neo4j/5\.12\.0; the atlas needs"),
    ):
        Neo4jStore(address)


def test_a_server_that_shares_no_version_of_the_protocol_is_told_so():
    with (
        wires.strange_server() as address,
        pytest.raises(StoreUnreachable, match="is no Neo4j that the driver can talk to: too old"),
    ):
        Neo4jStore(address)


@pytest.mark.neo4j
def test_a_database_that_is_not_there_is_named(place: Place):
    with pytest.raises(StoreUnreachable, match="has no database 'elsewhere'; ATLAS_NEO4J_DATABASE sets it"):
        Neo4jStore(place.address, user=place.user, password=place.password, database="elsewhere")


@pytest.mark.neo4j
def test_a_server_without_an_atlas_says_how_to_make_one(place: Place):
    with pytest.raises(NoAtlas, match="holds no atlas yet; atlas ingest or atlas load --store"):
        Neo4jStore(place.address, user=place.user, password=place.password)


@pytest.mark.neo4j
def test_an_atlas_of_a_later_format_is_left_alone(store: Neo4jStore, place: Place):
    place.query("MATCH (s:AtlasState) SET s.format = 99")

    with pytest.raises(StoreVersion, match="keeps format 99, this one keeps 1"):
        Neo4jStore(place.address, user=place.user, password=place.password)


@pytest.mark.neo4j
def test_all_stores_of_a_process_share_one_driver(store: Neo4jStore, place: Place):
    with Neo4jStore(place.address, user=place.user, password=place.password) as reader:
        assert reader._driver is store._driver
    assert store.run("RETURN 1 AS one")["one"].tolist() == [1]  # closing the reader left the driver open

    store.close()
    assert not connection._drivers


@pytest.mark.neo4j
def test_a_store_opened_for_reading_changes_nothing(store: Neo4jStore, place: Place, small: Toy):
    with Neo4jStore(place.address, user=place.user, password=place.password) as reader:
        with pytest.raises(StoreError, match="was opened for reading"):
            reader.add(small.build)
        with pytest.raises(WriteRefused):
            reader.run("CREATE (:Feature {key: 'x'})")


@pytest.mark.neo4j
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("MATCH (f:Feature RETURN f", "Invalid input"),
        ("RETURN $missing", r"asks for \$missing, which was not given"),
        ("RETURN nothing", "not defined"),
    ],
)
def test_a_malformed_query_is_the_askers_to_mend(query: str, said: str, store: Neo4jStore):
    with pytest.raises(BadQuery, match=said):
        store.run(query)


@pytest.mark.neo4j
def test_a_query_that_runs_too_long_is_stopped(place: Place, store: Neo4jStore):
    with (
        Neo4jStore(place.address, user=place.user, password=place.password, timeout=0.5) as reader,
        pytest.raises(QueryTimeout, match="narrow the query or raise --timeout"),
    ):
        reader.run("UNWIND range(1, 100000) AS a UNWIND range(1, 100000) AS b RETURN sum(a * b) AS n")


@pytest.mark.neo4j
def test_a_query_that_wants_more_memory_than_there_is_fails_at_once(store: Neo4jStore, place: Place):
    if place.server is None:
        pytest.skip("another's server may have any amount of memory; unset NEO4J_TEST_URI to run this")
    with pytest.raises(StoreError, match=r"too little memory.*dbms\.memory\.transaction\.total\.max"):
        store.run("UNWIND range(1, 100000000) AS a RETURN collect(toString(a)) AS n")


@pytest.mark.neo4j
def test_a_routing_address_loads_and_asks(store: Neo4jStore, place: Place, small: Toy):
    address = place.address.replace("bolt", "neo4j", 1)
    with Neo4jStore(address, user=place.user, password=place.password, read_only=False) as routed:
        routed.add(small.build)

        assert graphs.on(place) == graphs.of(small)
        assert len(routed.run("MATCH (f:Feature) RETURN f.key AS key")) == 40


def encrypting(folder: Path) -> dict[str, str]:
    """Settings for a server that also speaks TLS, with a certificate that it made itself; none without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return {}
    folder.mkdir(parents=True)
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-keyout", folder / "private.key", "-out", folder / "public.crt"]
    subprocess.run([*made, *files], check=True, capture_output=True)
    policy = {"enabled": "true", "base_directory": str(folder), "client_auth": "NONE"}
    return {"server.bolt.tls_level": "OPTIONAL", **{f"dbms.ssl.policy.bolt.{k}": v for k, v in policy.items()}}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with a password for all that follows; the last test but one makes it read-only for a while."""
    if servers.OWN:
        pytest.skip("needs a server of its own; unset NEO4J_TEST_URI to run this")
    folder = tmp_path_factory.mktemp("guarded")
    server = Server(folder, heap="256m", settings=encrypting(folder / "certificates"))
    try:
        server.start()
    except AtlasError as error:
        servers.absent(str(error))
    yield server
    server.stop()


@pytest.mark.neo4j
def test_its_password_is_readable_by_its_owner_only_and_on_no_command_line(guarded: Server):
    assert guarded.home.password_file.stat().st_mode & 0o777 == 0o600
    assert len(guarded.home.password) >= 20
    command = Path(f"/proc/{guarded.pid}/cmdline").read_text()
    assert guarded.home.password not in command
    assert guarded.home.password not in guarded.home.log.read_text()


@pytest.mark.neo4j
def test_the_right_password_opens_it(guarded: Server):
    with Neo4jStore(guarded.address, password=guarded.home.password, read_only=False) as store:
        store.create()
        assert store.run("RETURN 1 AS one")["one"].tolist() == [1]
        assert guarded.home.password not in repr(vars(store))


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("wrong", "refuses the password of user 'neo4j'; ATLAS_NEO4J_USER"),
        ("", "asks for a password; set ATLAS_NEO4J"),
    ],
)
@pytest.mark.neo4j
def test_a_wrong_password_and_none_are_told_apart(password: str, said: str, guarded: Server):
    with pytest.raises(StoreUnreachable, match=said) as error:
        Neo4jStore(guarded.address, password=password)
    assert not password or password not in str(error.value).replace("password", "")


@pytest.mark.neo4j
def test_an_encrypted_address_opens_it_and_a_strangers_certificate_is_not_trusted(guarded: Server):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    trusting, wary = guarded.address.replace("bolt", "neo4j+ssc"), guarded.address.replace("bolt", "bolt+s")

    with Neo4jStore(trusting, password=guarded.home.password, read_only=False) as store:
        store.create()
        assert store.run("RETURN 1 AS one")["one"].tolist() == [1]
        assert store._driver.encrypted
    with pytest.raises(StoreUnreachable, match=r"a certificate that this machine does not trust.*\+ssc://"):
        Neo4jStore(wary, password=guarded.home.password)


@pytest.mark.neo4j
def test_it_is_found_again_through_its_home(guarded: Server):
    found = Server.found(guarded.home.path)

    assert (found.address, found.pid, found.running) == (guarded.address, guarded.pid, True)


@pytest.mark.neo4j
def test_where_a_user_may_only_read_loading_says_so(guarded: Server, small: Toy):
    guarded.stop()
    read_only = Server(
        guarded.home.path, port=guarded.home.port, heap="256m", settings={"server.databases.read_only": "neo4j"}
    )
    try:
        read_only.start()
        with (
            Neo4jStore(guarded.address, password=guarded.home.password, read_only=False) as store,
            pytest.raises(StoreError, match="lets user 'neo4j' only read"),
        ):
            store.add(small.build)
        with Neo4jStore(guarded.address, password=guarded.home.password) as reader:
            assert reader.run("RETURN 1 AS one")["one"].tolist() == [1]
    finally:
        read_only.stop()
        guarded.start()
