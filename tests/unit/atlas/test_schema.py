"""The declaration and what derives from it agree."""

from __future__ import annotations

import pytest

from atlas import schema


def test_every_node_begins_with_its_key_and_says_what_each_property_means():
    for node in schema.NODES:
        assert node.properties[0].name == "key"
        assert all(p.meaning for p in node.stored)
        assert len({p.name for p in node.stored}) == len(node.stored)


def test_the_ddl_names_every_property_once_nodes_before_relationships():
    ddl = schema.embedded_ddl()

    assert len(ddl) == len(schema.NODES) + len(schema.EDGES)
    for statement, node in zip(ddl, schema.NODES, strict=False):
        assert statement.startswith(f"CREATE NODE TABLE {node.label}(")
        assert all(f"{p.name} {p.type}" in statement for p in node.stored)


def test_every_relationship_joins_declared_nodes():
    for edge in schema.EDGES:
        assert {edge.source, edge.target} <= schema.NODE.keys()
        assert edge.arrow.names[:2] == ["source", "target"]


def test_every_node_is_unique_by_key_on_a_server_and_may_be_declared_again():
    ddl = schema.neo4j_ddl()

    assert all("IF NOT EXISTS" in statement for statement in ddl)
    for node in schema.NODES:
        assert any(f"(n:{node.label}) REQUIRE n.key IS UNIQUE" in statement for statement in ddl)


@pytest.mark.parametrize(
    "table", [*schema.NODES, *schema.EDGES], ids=lambda table: getattr(table, "label", None) or table.type
)
def test_import_headers_follow_the_arrow_columns(table: schema.Node | schema.Edge):
    header = schema.import_header(table)

    plain = [name.partition(":")[0] for name in header]
    if isinstance(table, schema.Node):
        assert header[0] == f"key:ID({table.label})"
        assert plain[: len(table.arrow.names)] == table.arrow.names
    else:
        assert header[:2] == [f":START_ID({table.source})", f":END_ID({table.target})"]
        assert plain[2 : len(table.arrow.names)] == table.arrow.names[2:]
