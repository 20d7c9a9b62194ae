"""A circuit beside its image in another set, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from queries.present_text import WIDTH, footer, table

if TYPE_CHECKING:
    from queries.translate import Translation


def translation_text(image: Translation, width: int = WIDTH) -> str:
    """Each node with what stands for it, then each connection with what it is there."""
    nodes = image.nodes.loc[:, ["key", "label", "key_there", "label_there", "score", "null_p"]]
    edges = image.edges.loc[:, ["source", "target", "z", "there", "z_there"]]
    parts = [table(nodes, width), "", table(edges, width), "", footer(image.edges)]
    return "\n".join(parts)
