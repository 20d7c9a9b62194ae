"""A Neo4j server as the atlas that many share: models come, are replaced and go while others ask.

===================  ==================================================================================
:mod:`.store`        the contract of :class:`atlas.stores.Store`, over Bolt
:mod:`.connection`   one driver for each process and server; what the server's errors mean
:mod:`.state`        who writes, and whether a reader may trust what it just read
:mod:`.clashes`      two things by one name
:mod:`.load`         online loading, resumable, unseen until whole
:mod:`.publish`      showing, replacing, withdrawing
:mod:`.sweep`        what loads and removals leave behind
:mod:`.offline`      the same graph through Neo4j's own importer
:mod:`.readonly`     somebody else's Cypher
:mod:`.fulltext`     what a person types
:mod:`.meaning`      what a person means: vectors of what is said
:mod:`.doctor`       what is wrong, and mending it
===================  ==================================================================================

Labels that belong to the store and not to the atlas: ``Loading`` and ``Leaving`` (nodes that readers do not see yet, or
any more), ``AtlasState``, ``AtlasSet``, ``AtlasLoad``, ``AtlasBatch``.
"""

from atlas.stores.neo4j.store import Neo4jStore

__all__ = ["Neo4jStore"]
