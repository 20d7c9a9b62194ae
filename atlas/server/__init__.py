"""A real Neo4j on this machine, without Docker and without installing anything but two Python packages.

::

    python -m atlas.server start          # or: make neo4j
    python -m atlas.server stop

:mod:`atlas.server.jars` downloads Neo4j once, :mod:`atlas.server.home` lays out its folder and settings,
:class:`atlas.server.process.Server` starts and stops it. It listens on the loopback interface only.
"""

from atlas.server.jars import CURRENT, LTS, VERSIONS
from atlas.server.process import Server

__all__ = ["CURRENT", "LTS", "VERSIONS", "Server"]
