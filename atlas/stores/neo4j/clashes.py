"""One name, one thing: a build that means another model or vocabulary by a name than the server does is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atlas.errors import BadBuild
from atlas.staging import Build
from atlas.stores.neo4j.state import Writer

_TOKENS_AT_ONCE = 20_000
_OF_MODEL = ("n_layers", "d_model", "n_vocab", "tokenizer")
"""what may not differ between two sets of one model"""

_HELD = """
MATCH (m:Model {key: $model})
WHERE EXISTS { MATCH (s:TranscoderSet)-[:OF]->(m) WHERE s.key <> $set }
RETURN properties(m) AS model
"""
_OTHER_TEXTS = """
UNWIND $tokens AS token
MATCH (t:Token {key: token[0]}) WHERE t.text <> token[1]
RETURN count(t) AS n
"""


def refuse(writer: Writer, build: Build) -> None:
    """Raises BadBuild where the atlas holds another model or vocabulary by the same name."""
    (model,) = build.nodes("Model").to_pylist()
    for row in writer.run(_HELD, model=build.model, set=build.set_key):
        for name in _OF_MODEL:
            if row["model"].get(name) != model[name]:
                raise _another("model", build.model, name)
    tokens = build.nodes("Token").select(["key", "text"])
    for start in range(0, tokens.num_rows, _TOKENS_AT_ONCE):
        part = [*map(list, zip(*tokens.slice(start, _TOKENS_AT_ONCE).to_pydict().values(), strict=True))]
        if writer.run(_OTHER_TEXTS, tokens=part)[0]["n"]:
            raise _another("vocabulary", build.vocabulary, "text")


def refuse_among(builds: Sequence[Build]) -> None:
    """The same between builds that are to be imported together; nor may two be of one set."""
    sets: dict[str, str] = {}
    models: dict[str, dict[str, Any]] = {}
    words: dict[str, dict[str, str]] = {}
    for build in builds:
        if build.set_key in sets:
            raise BadBuild(
                f"{build.id} and {sets[build.set_key]} are two builds of {build.set_key}; a database holds one of a set"
            )
        sets[build.set_key] = build.id
        (model,) = build.nodes("Model").to_pylist()
        for name in _OF_MODEL:
            if models.setdefault(build.model, model)[name] != model[name]:
                raise _another("model", build.model, name)
        texts = dict(zip(*build.nodes("Token").select(["key", "text"]).to_pydict().values(), strict=True))
        known = words.setdefault(build.vocabulary, texts)
        if any(known.setdefault(key, text) != text for key, text in texts.items()):
            raise _another("vocabulary", build.vocabulary, "text")


def _another(what: str, name: str, differs: Any) -> BadBuild:
    return BadBuild(
        f"the atlas holds another {what} under the name {name} ({differs} differs); "
        "ingest this one under another name with --as MODEL/SET, or remove the other first"
    )
