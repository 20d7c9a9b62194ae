"""Everything that goes wrong, as one tree.

::

    AtlasError
    ├── BadKey            a text that is no key, or names nothing in this atlas
    │   └── Ambiguous     a short key that names several nodes
    ├── BadSource         a model or a set of transcoders that cannot be read
    │   ├── BadModel          the language model: files, family, tokenizer
    │   ├── BadTranscoder     the transcoders: files, shapes, values, conventions
    │   └── Unreachable       a hub name with no network and no cache
    ├── BadBuild          a staged build that is incomplete, altered or of another format
    ├── BadDescriptions   descriptions that cannot be read, or are of another set
    ├── BadExplainer      a language model's address that does not answer, errs or returns nonsense
    ├── StoreError        a place where graphs live
    │   ├── NoAtlas           nothing there, or not an atlas
    │   ├── StoreLocked       another process is writing
    │   ├── StoreVersion      written by another version of the engine
    │   └── StoreUnreachable  a server that does not answer, or refuses the credentials
    ├── BadQuery          Cypher that is malformed, lacks a parameter or would write
    │   ├── WriteRefused      it would change the atlas, or reach outside it
    │   └── QueryTimeout      it ran past its time
    ├── BadSetting        an option, a variable or a file of settings that makes no sense
    └── NoSpace           the disk is full

Each carries one line: what was asked, what was found, what to do next. The command line prints that line and exits 1;
whatever is not an :class:`AtlasError` is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class AtlasError(Exception):
    """Something the reader can mend; ``str(error)`` is one line that says how."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class BadKey(AtlasError):
    """A text that is no key, or names nothing in this atlas."""


class Ambiguous(BadKey):
    """A short key that names several nodes."""


class BadSource(AtlasError):
    """A model or a set of transcoders that cannot be read."""


class BadModel(BadSource):
    """The language model: its files, family or tokenizer."""


class BadTranscoder(BadSource):
    """The transcoders: their files, shapes, values or conventions."""


class Unreachable(BadSource):
    """A hub name with no network and no cache."""


class BadBuild(AtlasError):
    """A staged build that is incomplete, altered or of another format."""


class BadDescriptions(AtlasError):
    """Descriptions that cannot be read, or are of another set."""


class BadExplainer(AtlasError):
    """A language model's address that does not answer, errs or returns nonsense."""


class StoreError(AtlasError):
    """A place where graphs live."""


class NoAtlas(StoreError):
    """Nothing there, or not an atlas."""


class StoreLocked(StoreError):
    """Another process is writing."""


class StoreVersion(StoreError):
    """Written by another version of the engine."""


class StoreUnreachable(StoreError):
    """A server that does not answer, or refuses the credentials."""


class BadQuery(AtlasError):
    """Cypher that is malformed or lacks a parameter."""


class WriteRefused(BadQuery):
    """A query that would change the atlas, or reach outside it."""


class QueryTimeout(BadQuery):
    """A query that ran past its time."""


class BadSetting(AtlasError):
    """An option, a variable or a file of settings that makes no sense."""


class NoSpace(AtlasError):
    """The disk is full."""
