"""A set's whole graph as files that other tools read."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas import observations, schema
from atlas.errors import BadSetting
from atlas.exchange import graphs
from atlas.staging import ALWAYS, with_keys
from tests import toy, toy_heads
from tests.toy import Toy
from tests.unit.exchange.builds import say


@pytest.fixture
def made(tmp_path: Path) -> Toy:
    return toy.write(tmp_path / "build")


def silent(what: str, done: int, total: int) -> None:
    """Nobody watches."""


def connections(made: Toy) -> pd.DataFrame:
    parts = [
        with_keys(made.build, kind, table).to_pandas().assign(type=kind)
        for kind in ALWAYS
        for table in made.build.edges(kind)
    ]
    columns = ["source", "target", "type", "weight", "z", "share"]
    return pd.concat(parts)[columns].sort_values(["type", "source", "target"]).reset_index(drop=True)


def test_parquet_holds_every_node_connection_and_description_by_key(made: Toy, tmp_path: Path):
    say(made, "atlas", {3: "tea", 5: "queens"})
    out = graphs.parquet(made.build, tmp_path / "out", silent)
    assert pq.read_table(out / "nodes/Feature.parquet")["key"].to_pylist() == made.build.keys("Feature").to_pylist()
    tables = [pq.read_table(out / f"edges/{kind}.parquet") for kind in ALWAYS]
    assert all(t.schema.names == schema.EDGE[k].stored_arrow.names for k, t in zip(ALWAYS, tables, strict=True))
    found = pd.concat([t.to_pandas().assign(type=kind) for kind, t in zip(ALWAYS, tables, strict=True)])
    found = found.sort_values(["type", "source", "target"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(found[connections(made).columns], connections(made))
    assert pq.read_table(out / "descriptions.parquet")["text"].to_pylist() == ["tea", "queens"]


def test_graphml_holds_the_same_with_types_that_readers_of_it_know(made: Toy, tmp_path: Path):
    out = graphs.graphml(made.build, tmp_path / "set.graphml", silent)
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    root = ElementTree.parse(out).getroot()
    kinds = {key.get("id"): key.get("attr.type") for key in root.findall("g:key", space)}
    assert (kinds["node_layer"], kinds["edge_weight"], kinds["node_text"]) == ("long", "double", "string")
    keys = {node.get("id") for node in root.findall("g:graph/g:node", space)}
    assert keys == {key for label in ("Feature", "Token") for key in made.build.keys(label).to_pylist()}
    rows = [
        {"source": edge.get("source"), "target": edge.get("target")}
        | {str(data.get("key"))[5:]: data.text for data in edge}
        for edge in root.findall("g:graph/g:edge", space)
    ]
    found = pd.DataFrame(rows).sort_values(["type", "source", "target"]).reset_index(drop=True)
    expected = connections(made)
    assert found[["source", "target", "type"]].equals(
        expected[["source", "target", "type"]].astype(found["type"].dtype)
    )
    assert (found["weight"].astype(float).astype("float32") == expected["weight"]).all()


def test_both_carry_what_was_observed_of_connections_through_heads(made: Toy, tmp_path: Path):
    heads = toy_heads.add(made)
    said = toy_heads.see(heads)["FEEDS_VIA"]
    attended = {float(row[0]) for row in said.values() if row[0] is not None}

    folder = graphs.parquet(heads.build, tmp_path / "out", silent)
    file = graphs.graphml(heads.build, tmp_path / "set.graphml", silent)

    table = pq.read_table(folder / "edges/FEEDS_VIA.parquet")
    names = ["source", "target", "layer", "head", *observations.EVIDENCE_VIA.names]
    rows = {tuple(row[name] for name in names[:4]): tuple(row[name] for name in names[4:]) for row in table.to_pylist()}
    assert rows == said
    found = re.findall(r'<data key="edge_attended">([^<]+)</data>', file.read_text())
    assert attended <= {float(number) for number in found}


def test_what_is_there_already_is_left_alone_and_a_failure_leaves_nothing(made: Toy, tmp_path: Path):
    (tmp_path / "out").mkdir()
    with pytest.raises(BadSetting, match="is there already"):
        graphs.parquet(made.build, tmp_path / "out", silent)

    def fails(what: str, done: int, total: int) -> None:
        raise pa.ArrowException("no space")

    for write in (graphs.parquet, graphs.graphml):
        with pytest.raises(pa.ArrowException):
            write(made.build, tmp_path / "new", fails)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["build", "out"]
