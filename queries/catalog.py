"""The named queries: Cypher in files, each held to its header.

``cypher/NAME.cypher`` holds one question in the Cypher that every store understands;
``cypher/DIALECT/NAME.cypher`` replaces it for one store, where that store cannot parse it or runs it badly.
A file begins with its contract::

    // What it answers, in a sentence.
    // $key: text        what the parameter means
    // $limit: int = 20  one with a default may be left out
    // -> key: text, layer: int, weight: float

Types are those of :data:`TYPES`. Where a meaning ends in a colon and a list of words (``what it goes by: z, weight or
share``), no other text is taken: the engine would quietly answer another question. A query pastes into Neo4j Browser as
it stands.

A sign is compared only where one is asked for: a negative weight times ``$sign`` 0 is -0.0, which is smaller than 0 to
Neo4j and not to others.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from atlas.errors import BadQuery
from queries import cuts
from queries.answers import TYPES, typed

if TYPE_CHECKING:
    from atlas.stores import Store

FOLDER = Path(__file__).parent / "cypher"
DIALECTS = ("", "embedded", "neo4j")
"""How stores name what they speak; "" is what all understand."""
_PARAMETER = re.compile(r"^\$(\w+)(?::\s*(\w+))?(?:\s*=\s*(\"[^\"]*\"|\S+))?\s{2,}(\S.*)$")
_COLUMN = re.compile(r"^(\w+)(?::\s*(\w+))?$")
_AMONG = re.compile(r":\s+((?:\w+, )+\w+ or \w+)$")
_INT64 = 2**63


@dataclass(frozen=True)
class Parameter:
    """One ``$name`` of a query. Without a default it must be given."""

    name: str
    type: str
    default: str | int | float | None
    meaning: str

    @property
    def among(self) -> tuple[str, ...]:
        """The only words it takes; none where any text will do."""
        found = _AMONG.search(self.meaning) if self.type == "text" else None
        return tuple(re.findall(r"\w+", found[1].replace(" or ", ", "))) if found else ()


@dataclass(frozen=True)
class NamedQuery:
    """One file: its contract and its text, for one dialect."""

    name: str
    answers: str
    parameters: tuple[Parameter, ...]
    columns: Mapping[str, str]
    """name to type, in the order returned"""
    text: str


def catalog() -> pd.DataFrame:
    """The named queries: ``name, answers, parameters, columns``, all text, one row a query, by name."""
    rows = [
        (
            named.name,
            named.answers,
            " ".join(p.name if p.default is None else f"[{p.name}={p.default}]" for p in named.parameters),
            ", ".join(named.columns),
        )
        for named in (find(name) for name in sorted(_files()))
    ]
    return typed(
        pd.DataFrame(rows, columns=["name", "answers", "parameters", "columns"]),
        dict.fromkeys(("name", "answers", "parameters", "columns"), "text"),
    )


def query(graph: Store, name: str, **parameters: Any) -> pd.DataFrame:
    """Answer one of the named queries: a row for each match, with the columns and types of its header.

    ``queries.catalog()`` lists them. ``attrs`` has ``query``, ``parameters`` and ``complete``, which is False where as
    many rows came back as ``limit`` allows: there may be more. A question about what was seen on a text (``by`` drive,
    twera or coactivation, or ``live``) names that text in ``attrs["observation"]``.
    Raises :class:`atlas.errors.BadQuery` for an unknown name or parameter, a missing one, or one of another type, and
    BadSetting where nothing was observed.
    """
    named = find(name, graph.dialect)
    given = _check(named, parameters)
    evidence = given.get("by") in cuts.EVIDENCE or given.get("live") == 1
    seen = _seen(graph, given, heads="attended" in named.columns) if evidence else {}
    frame = typed(graph.run(named.text, **given), named.columns)
    limit = given.get("limit")
    whole = limit is None or len(frame) < limit
    about: dict[Hashable, Any] = {"query": named.name, "parameters": given, "complete": whole, **seen}
    frame.attrs = about
    if not whole:
        frame.attrs["note"] = f"the first {limit}; there may be more: raise limit"
    elif frame.empty and (note := _absent(graph, given)):
        frame.attrs["note"] = note
    return frame


def _absent(graph: Store, given: Mapping[str, Any]) -> str:
    """Which parameter of a query without rows names nothing that is here; nothing where all do."""
    for name in ("key", "a", "b", "source", "target"):
        key = given.get(name)
        if isinstance(key, str) and not any(records(graph, kind, keys=[key]) for kind in ("labels_of", "texts_of")):
            return (
                f"no rows: there is no feature or token {ascii(key)[:80]} here; a key is written in full, such as "
                "gpt2-small/4-tc-24k/1201 or tok:gpt2/1234"
            )
    sets = [str(row["set_key"]) for row in records(graph, "sets")]
    if given.get("set") and given["set"] not in sets:
        return f"no rows: there is no set {ascii(given['set'])[:80]} here; there is {', '.join(sets[:5]) or 'none'}"
    if "source_layer" in given and given["source_layer"] >= given.get("target_layer", math.inf):
        return "no rows: features connect to later layers only; turn source_layer and target_layer round"
    return ""


def _seen(graph: Store, given: Mapping[str, Any], *, heads: bool) -> dict[str, Any]:
    """The texts that evidence rests on: of the models that a parameter names, or else of all that are here."""
    sets = [(str(row["set_key"]), cuts.kept(row["observation"])) for row in records(graph, "sets")]
    named = [
        one
        for one in sets
        if any(isinstance(text, str) and text.startswith(one[0].partition("/")[0] + "/") for text in given.values())
    ]
    texts = [observation for _, observation in named or sets if observation and (observation.get("heads") or not heads)]
    if not texts:
        for set_key, observation in named or sets:
            cuts.require_observed(set_key, observation, heads=heads)
    return {"observation": texts[0] if len(texts) == 1 else texts} if texts else {}


def query_text(name: str, dialect: str = "") -> str:
    """The Cypher of a named query, header included, as a store of this dialect (embedded, neo4j) is asked it.

    Raises BadQuery for an unknown name or dialect.
    """
    return find(name, dialect).text


def cypher(
    graph: Store,
    text: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    timeout: float = 30,
    max_rows: int = 10_000,
) -> pd.DataFrame:
    """Answer your own Cypher, which may only read. ``timeout`` is in seconds.

    At most ``max_rows`` rows come back; ``attrs["complete"]`` is False where there were more.
    Raises BadQuery, WriteRefused, QueryTimeout (:mod:`atlas.errors`).
    """
    if not isinstance(text, str) or not text.strip():
        raise BadQuery("the query is empty; `atlas query --list` shows some to begin with")
    given = dict(parameters or {})
    for name, value in given.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise BadQuery(f"{name!r} is no name of a parameter")
        _storable(name, value)
    _storable("the query", text)
    frame, whole = graph.ask(text, given, timeout=timeout, max_rows=max_rows)
    frame.attrs = {"complete": whole}
    if not whole:
        frame.attrs["note"] = f"the first {max_rows:,} rows; there are more: raise max_rows or add LIMIT"
    return frame


def ask(graph: Store, name: str, /, **parameters: Any) -> pd.DataFrame:
    """One of the named queries for the questions of this package: all parameters given, no envelope."""
    named = find(name, graph.dialect)
    defaults = {p.name: p.default for p in named.parameters if p.default is not None}
    return typed(graph.run(named.text, **{**defaults, **parameters}), named.columns)


def records(graph: Store, name: str, /, **parameters: Any) -> list[dict[str, Any]]:
    """The same as plain rows: for questions that ask often and get little, where a typed frame costs more than the
    query. What is missing is None."""
    named = find(name, graph.dialect)
    defaults = {p.name: p.default for p in named.parameters if p.default is not None}
    return graph.rows(named.text, **{**defaults, **parameters})


def find(name: str, dialect: str = "") -> NamedQuery:
    """A named query as one dialect is asked it. Raises BadQuery with the nearest name."""
    files = _files()
    if name not in files:
        near = difflib.get_close_matches(str(name), files, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`atlas query --list` names them."
        raise BadQuery(f"there is no query named {str(name)[:80]!r}; {hint}")
    if dialect not in DIALECTS:
        raise BadQuery(f"{ascii(dialect)[:40]} is no dialect; it is one of {', '.join(DIALECTS[1:])}")
    override = FOLDER / dialect / f"{name}.cypher"
    return _read(override if dialect and override.is_file() else files[name])


@cache
def _files() -> dict[str, Path]:
    return {path.stem: path for path in sorted(FOLDER.glob("*.cypher"))}


@cache
def _read(path: Path) -> NamedQuery:
    return parse(path.stem, path.read_text(encoding="utf-8"))


def parse(name: str, text: str) -> NamedQuery:
    """Read a file's header. Raises ValueError where it has none: the files are ours."""
    header: list[str] = []
    for line in text.splitlines():
        if not line.startswith("//"):
            break
        header.append(line.removeprefix("//").strip())
    starts = [i for i, line in enumerate(header) if line.startswith(("$", "->"))]
    if not starts or not header[-1] or "->" not in " ".join(header):
        raise ValueError(f"{name}.cypher: the header needs a sentence and a line '-> columns'")
    arrow = next(i for i, line in enumerate(header) if line.startswith("->"))
    columns = {}
    for column in " ".join(header[arrow:]).removeprefix("->").split(","):
        match = _COLUMN.match(column.strip())
        if match is None or (match[2] or "") not in ("", *TYPES):
            raise ValueError(f"{name}.cypher: {column.strip()!r} is no column")
        columns[match[1]] = match[2] or ""
    parameters = tuple(_parameter(name, line) for line in header[starts[0] : arrow])
    return NamedQuery(name, " ".join(header[: starts[0]]), parameters, columns, text)


def _parameter(query: str, line: str) -> Parameter:
    match = _PARAMETER.match(line)
    if match is None or (match[2] or "text") not in ("text", "int", "float", "texts"):
        raise ValueError(f"{query}.cypher: {line!r} is no parameter; write $name: type = default  meaning")
    default = json.loads(match[3]) if match[3] else None
    kind = match[2] or "text"
    return Parameter(match[1], kind, float(default) if kind == "float" and default is not None else default, match[4])


def _check(named: NamedQuery, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter with its type, defaults filled in."""
    known = {p.name: p for p in named.parameters}
    asked = "it takes " + (", ".join(known) or "none")
    if unknown := [name for name in given if name not in known]:
        raise BadQuery(f"{named.name} has no parameter {unknown[0]!r}; {asked}")
    missing = [p.name for p in named.parameters if p.default is None and p.name not in given]
    if missing:
        raise BadQuery(f"{named.name} needs {', '.join(missing)}: {known[missing[0]].meaning}; {asked}")
    return {p.name: _convert(named.name, p, given[p.name]) if p.name in given else p.default for p in known.values()}


def _convert(query: str, parameter: Parameter, value: Any) -> str | int | float | list[str]:
    match parameter.type, value:
        case "text", str() if parameter.among and value not in parameter.among:
            raise BadQuery(
                f"{query}: {parameter.name} is {ascii(value)[:40]}; it is one of {', '.join(parameter.among)}"
            )
        case "text", str():
            return _storable(parameter.name, value)
        # A shell cannot tell 12 the text from 12 the number.
        case "text", int() | float() if not isinstance(value, bool):
            return json.dumps(value)
        case "int", int() if not isinstance(value, bool) and -_INT64 <= value < _INT64:
            if parameter.name == "limit" and value < 1:
                raise BadQuery(f"{query}: limit is {value}; ask for 1 row or more")
            return value
        case "float", int() | float() if not isinstance(value, bool) and abs(value) < 1e300:
            return float(value)
        case "texts", list() | tuple() if all(isinstance(item, str) for item in value):
            return list(_storable(parameter.name, value))
    raise BadQuery(f"{query}: {parameter.name} is {str(value)[:40]!r}, which is no {parameter.type}")


def _storable(name: str, value: Any) -> Any:
    """Refuse what no engine can be handed: half a surrogate pair, a number beyond 64 bits, what is no data."""
    match value:
        case None | bool() | float():
            return value
        case int():
            if not -_INT64 <= value < _INT64:
                raise BadQuery(f"{name} is a number beyond 64 bits")
        case str():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise BadQuery(f"{name} holds half a character (a lone surrogate), which is no text") from None
        case list() | tuple():
            for item in value:
                _storable(name, item)
        case dict():
            for key, item in value.items():
                _storable(name, key)
                _storable(name, item)
        case _:
            raise BadQuery(f"{name} is a {type(value).__name__}; give text, a number, a list or a map")
    return value
