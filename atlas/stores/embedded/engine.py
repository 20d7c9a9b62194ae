"""The embedded engine: the one place that opens it, and what its errors mean.

ladybug (https://ladybugdb.com, the continuation of Kùzu) keeps a property graph in one file. Of its versions, 0.20.4
with its plan cache off is the one that answered every query of the differential test rightly (``tests/conformance``);
newer ones return rows of earlier calls. So the version is pinned exactly, and these rules hold on every connection:

* the engine's plan cache is off, and is seen to be off; the Python package's own cache of plans is passed by;
* the buffer pool has a size (the default is four fifths of the machine's memory), and so have the addresses that a file
  may fill (the default, 8 TiB, allows some fifteen open files a process);
* every query has a time limit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ladybug
import pyarrow as pa
from ladybug.prepared_statement import PreparedStatement

from atlas.errors import AtlasError, BadQuery, NoSpace, QueryTimeout, StoreError, StoreVersion, WriteRefused

PINNED = "0.20.4"
_POOL = 1 << 30
_INT64 = 2**63
_REFUSALS = ("parser", "binder", "runtime", "conversion", "catalog", "overflow", "connection", "function", "io")


class Engine:
    """One engine file, open. ``timeout`` in seconds, for each query; 0 for none, as loading needs.

    Raises StoreVersion where another version of the engine is installed, StoreError where the file cannot be opened.
    """

    def __init__(self, path: Path, *, read_only: bool, timeout: float) -> None:
        version = str(ladybug.__version__)
        if version != PINNED:
            raise StoreVersion(
                f"ladybug {version} is installed, the atlas is tested with {PINNED}: pip install ladybug=={PINNED}"
            )
        size = path.stat().st_size if path.exists() else 0
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._path = path
        self._lock = threading.RLock()
        try:
            self._database = ladybug.Database(
                path,
                read_only=read_only,
                buffer_pool_size=min(_POOL if read_only else 2 * _POOL, memory // 4),
                max_db_size=max(1 << 36, 1 << (2 * size).bit_length()) if read_only else 1 << 40,
            )
            self._connection = ladybug.Connection(self._database)
        except RuntimeError as error:
            raise _meaning(error, path, timeout, opening=True) from error
        self.limit(timeout)
        self.table("CALL enable_cached_prepared_statement='NONE'")
        if self.values("CALL current_setting('enable_cached_prepared_statement') RETURN *") != [("NONE",)]:
            raise StoreError(f"ladybug {PINNED} kept its plan cache, with which its answers are wrong; install it anew")

    def limit(self, timeout: float) -> None:
        """Seconds that each query may take from now on; 0 for no limit."""
        self._timeout = timeout
        self._connection.set_query_timeout(int(timeout * 1000))

    def table(self, query: str, parameters: Mapping[str, Any] | None = None) -> tuple[pa.Table, list[str]]:
        """Run one statement: its rows, and the engine's own name for the type of each column.

        Parameters are text, numbers, lists and dicts of them, or an Arrow table for COPY to read.
        """
        given = {name: _parameter(name, value) for name, value in (parameters or {}).items()}
        with self._lock:
            try:
                # a statement prepared here is used once; given a text, the package would keep its plan and use it again
                prepared = PreparedStatement(self._connection, query, given)
                if not prepared.is_success():
                    raise RuntimeError(prepared.get_error_message())
                result = self._connection.execute(prepared, given)
                assert isinstance(result, ladybug.QueryResult)
                types = result.get_column_data_types()
                rows = result.get_as_arrow() if types else pa.table({})
                result.close()
            except RuntimeError as error:
                raise _meaning(error, self._path, self._timeout) from error
        names = rows.column_names
        if len(set(names)) < len(names):
            raise BadQuery(f"two columns have one name, in {', '.join(names)}; name them apart with AS")
        return rows, types

    def values(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Run one statement; its rows as tuples."""
        columns = [column.to_pylist() for column in self.table(query, parameters)[0].columns]
        return list(zip(*columns, strict=True))

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            self._database.close()


def _parameter(name: str, value: Any) -> Any:
    """A value as the engine takes it. Raises BadQuery for what it does not."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a numpy scalar
        value = value.item()
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadQuery(f"the parameter ${name} is {ascii(value)[:40]}, which is no text") from None
    elif isinstance(value, dict):
        return {key: _parameter(name, item) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        return [_parameter(name, item) for item in value]
    elif isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise BadQuery(f"the parameter ${name} is {value}, beyond 64 bits")
    elif value is not None and not isinstance(value, bool | int | float | pa.Table):
        raise BadQuery(f"the parameter ${name} is a {type(value).__name__}; give text, a number or a list of them")
    return value


def _meaning(error: RuntimeError, path: Path, timeout: float, *, opening: bool = False) -> AtlasError | RuntimeError:
    """What an error of the engine means to the reader; the error itself where it is a defect of ours."""
    text = str(error).strip().partition("\n")[0]
    lowered = text.lower()
    if "interrupted" in lowered:
        return QueryTimeout(f"the query ran past {timeout:g} s; begin it at one key, or give it longer with --timeout")
    if "read-only database" in lowered:
        return WriteRefused("the query would change the atlas; only reading is allowed here")
    if any(words in lowered for words in ("no space left", "file too large", "quota exceeded")):
        return NoSpace(f"no room for {path} ({text}); nothing was changed. Free some and run the same again")
    if "unable to allocate memory" in lowered or "bad_alloc" in lowered:
        return BadQuery("the query needs more memory than it may have; ask for less, or put a LIMIT earlier")
    if text.startswith("Parameter ") and text.endswith(" not found."):
        return BadQuery(f"the query asks for ${text.split()[1]}, which was not given")
    if opening:
        return StoreError(f"{path} cannot be opened: {text[:300]}")
    if lowered.startswith(tuple(f"{word} exception" for word in _REFUSALS)):
        return BadQuery(f"the query cannot be answered: {text[:300]}")
    return error
