"""What is said of features, beside a staged build: every run of every method a folder of its own. Read without torch.

Specification, format 1. Keywords as in RFC 2119. ::

    BUILD/descriptions/
      labels.json               a user's order of methods; absent until somebody changes it
      METHOD-RUN/
        manifest.json           written last: its presence means "finished"
        run.json                when and how long, and when it was last asked for; outside every hash
        texts.parquet           TEXTS: one row a description; what stores load
        details.parquet         what the texts rest on, one row a feature; its columns are the method's own
        work/                   parts of an unfinished run; a finished one has none
      evidence-HASH/            which tokens fire which features alone (ingest.describe.evidence)

* Descriptions are no part of the build's hash: builds stay what their inputs make them, descriptions come and go.
* A run is named by the hash of its inputs and settings. The same run again finds itself finished and changes nothing; a
  method may have several runs side by side, numbered as they came.
* The manifest names the build's run and MUST match it: a reader refuses another build's descriptions.
* A description's key is ``FEATURE#METHOD#NUMBER``, with ``.2``, ``.3`` … behind the number where one run says several
  things of one feature.

Which description becomes a feature's label: the first method in :func:`order` that says anything of it, and of that
method the newest run. The default order is :data:`ORDER`; ``tokens`` stands for the build's own label, the tokens
that stand out in the feature's weights. Methods that the order leaves out come before ``tokens``, by name.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas import schema
from atlas.errors import BadDescriptions, BadSetting
from atlas.staging import Build

FORMAT = 1
ORDER = ("user", "atlas-llm", "atlas", "weightlens-paper", "weightlens", "neuronpedia", "circuit-tracer", "tokens")
TOKENS = "tokens"
LABEL_LENGTH = 60
"""characters of a description that a label shows"""
TEXTS = pa.schema(
    [
        ("feature", pa.int32()),
        ("text", pa.string()),
        ("explainer", pa.string()),
        ("scores", pa.string()),
        ("created", pa.string()),
    ]
)
METHOD = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")


@dataclass(frozen=True)
class Descriptions:
    """One finished run of one method."""

    path: Path
    manifest: dict[str, Any]
    build: Build

    @property
    def method(self) -> str:
        return self.manifest["method"]

    @property
    def run(self) -> str:
        return self.manifest["run"]

    @property
    def number(self) -> int:
        """Which of its method's runs for this build it is, from 1."""
        return int(self.manifest["number"])

    @cached_property
    def texts(self) -> pa.Table:
        """One row a description; columns :data:`TEXTS`, features by row number of the build."""
        return self._read("texts.parquet")

    def details(self) -> pa.Table:
        """What the texts rest on; the first column is ``feature``, the others are the method's."""
        return self._read("details.parquet")

    @cached_property
    def keys(self) -> pa.Array:
        """Keys of the descriptions, in the order of :attr:`texts`."""
        features = pc.take(self.build.keys("Feature").combine_chunks(), self.texts["feature"]).to_pylist()
        seen: dict[str, int] = {}
        found = []
        for feature in features:
            seen[feature] = seen.get(feature, 0) + 1
            further = f".{seen[feature]}" if seen[feature] > 1 else ""
            found.append(f"{feature}#{self.method}#{self.number}{further}")
        return pa.array(found, pa.string())

    def nodes(self) -> pa.Table:
        """Description nodes; columns as in :data:`atlas.schema.NODES`."""
        texts = self.texts
        same = {"method": self.method, "run": self.run}
        columns = {name: pa.array([value] * len(texts), pa.string()) for name, value in same.items()}
        columns |= {name: texts[name] for name in ("text", "explainer", "scores", "created")} | {"key": self.keys}
        wanted = schema.NODE["Description"].arrow
        return pa.table({name: columns[name] for name in wanted.names}, schema=wanted)

    def edges(self) -> pa.Table:
        """DESCRIBED_BY: ``source`` (feature's key), ``target`` (description's key)."""
        source = pc.take(self.build.keys("Feature").combine_chunks(), self.texts["feature"])
        return pa.table({"source": source, "target": self.keys}, schema=schema.EDGE["DESCRIBED_BY"].arrow)

    def run_node(self) -> dict[str, str]:
        """The Run node of this run: ``key, code, inputs, settings``."""
        return self.manifest["run_node"]

    def times(self) -> dict[str, Any]:
        """When it was made, how long that took (``seconds``), and when it was last ``asked`` for."""
        try:
            return json.loads((self.path / "run.json").read_text())
        except (OSError, ValueError):
            return {}

    def _read(self, name: str) -> pa.Table:
        try:
            return pq.read_table(self.path / name)
        except (OSError, pa.ArrowException) as error:
            raise BadDescriptions(f"{self.path / name} cannot be read ({error}); describe the set again") from error


def folder(build: Build) -> Path:
    """Where a build's descriptions are."""
    return build.path / "descriptions"


def staged(build: Build) -> list[Descriptions]:
    """Every finished run, by method and number."""
    found = [_open(path.parent, build) for path in sorted(folder(build).glob("*/manifest.json"))]
    kept = [one for one in found if one is not None]
    return sorted(kept, key=lambda one: (one.method, one.number))


def find(build: Build, method: str, run: str | None = None) -> Descriptions:
    """The newest finished run of a method, or the one named. Raises :class:`atlas.errors.BadDescriptions`."""
    runs = [one for one in staged(build) if one.method == method and run in (None, one.run)]
    if not runs:
        known = ", ".join(f"{one.method} {one.run}" for one in staged(build)) or "none"
        wanted = f"{method} of run {run}" if run else method
        raise BadDescriptions(f"{build.set_key} has no descriptions by {wanted}; it has {known}")
    return runs[-1]


def next_number(build: Build, method: str) -> int:
    """The number a method's next run gets."""
    return max((one.number for one in staged(build) if one.method == method), default=0) + 1


def remove(build: Build, method: str, run: str) -> None:
    """Delete one run."""
    shutil.rmtree(find(build, method, run).path)


def table(build: Build) -> pd.DataFrame:
    """One row a run: ``method, number, run, descriptions, features, date``."""
    rows = []
    for one in staged(build):
        features = len(one.texts["feature"].unique())
        rows.append((one.method, one.number, one.run, len(one.texts), features, one.manifest["created"][:10]))
    columns = ["method", "number", "run", "descriptions", "features", "date"]
    text = dict.fromkeys(("method", "run", "date"), "str")
    return pd.DataFrame(rows, columns=columns).astype(text | dict.fromkeys(columns[1:2] + columns[3:5], "int64"))


def order(build: Build) -> tuple[str, ...]:
    """The order of methods that decides labels: a user's where there is one, else :data:`ORDER`."""
    try:
        return tuple(json.loads((folder(build) / "labels.json").read_text()))
    except FileNotFoundError:
        return ORDER
    except (OSError, ValueError, TypeError) as error:
        raise BadDescriptions(f"{folder(build)}/labels.json cannot be read ({error}); set the order again") from error


def set_order(build: Build, methods: Sequence[str]) -> None:
    """Let labels follow this order from the next load on. Raises :class:`atlas.errors.BadSetting`."""
    wrong = [name for name in methods if not METHOD.match(name)]
    if wrong or not methods or len(set(methods)) != len(methods):
        raise BadSetting(
            f"{', '.join(methods)!r} is no order of methods; write each once, such as atlas,weightlens,tokens"
        )
    folder(build).mkdir(parents=True, exist_ok=True)
    part = folder(build) / "labels.part"
    part.write_text(json.dumps(list(methods)) + "\n")
    part.replace(folder(build) / "labels.json")


def labels(build: Build, methods: Sequence[str] | None = None) -> pa.Table:
    """Every feature's label and where it comes from: ``key, label, label_source``, by row number of the build."""
    features = build.nodes("Feature")
    label, source = features["label"].to_pylist(), features["label_source"].to_pylist()
    taken = set()
    runs = staged(build)
    for method in _ranked([one.method for one in runs], methods or order(build)):
        for one in reversed([one for one in runs if one.method == method]):
            for row, text in zip(one.texts["feature"].to_pylist(), one.texts["text"].to_pylist(), strict=True):
                if row not in taken:
                    taken.add(row)
                    label[row], source[row] = shortened(text), method
    return pa.table({"key": features["key"], "label": pa.array(label, pa.string()),
                     "label_source": pa.array(source, pa.string())})  # fmt: skip


def shortened(text: str) -> str:
    """A description as a label: its first :data:`LABEL_LENGTH` characters, cut between words."""
    text = " ".join(text.split())
    if len(text) <= LABEL_LENGTH:
        return text
    cut = text[: LABEL_LENGTH - 1]
    kept = cut.rpartition(" ")[0] if " " in cut[LABEL_LENGTH // 2 :] else cut
    return kept.rstrip(" ,;") + "…"


def _ranked(present: list[str], methods: Sequence[str]) -> list[str]:
    """Methods that may give labels, first choice first. Those behind ``tokens`` never come to it: it always speaks."""
    others = sorted(set(present) - set(methods))
    if TOKENS not in methods:
        return [*methods, *others]
    before = list(methods[: list(methods).index(TOKENS)])
    return before + others if before and methods[-1] == TOKENS else before


def _open(path: Path, build: Build) -> Descriptions | None:
    if path.name.startswith("evidence-"):
        return None
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        format_, of = manifest["format"], manifest["build"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadDescriptions(f"{path}/manifest.json cannot be read ({error}); describe the set again") from error
    if format_ != FORMAT or of != build.run:
        raise BadDescriptions(
            f"{path} has format {format_} and describes build {of}, expected format {FORMAT} and build {build.run}; "
            "delete it and describe the set again"
        )
    return Descriptions(path, manifest, build)
