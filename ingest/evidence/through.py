"""Evidence for edges through attention heads: how the head's attention carries one end to the other.

With counted positions t, N of them, A the pattern of the head (:mod:`ingest.evidence.attention`), s the counted
positions of the same window, a the activations, V the edge's weight and n the positions at which a feature is active::

    b_i(t)          = sum_s A(t, s) a_i(s)               what the head brings of i to position t
    m_i(t)          = sum_s A(t, s) 1(a_i(s) > 0)        how much it attends to firings of i
    attended_ij     = sum_t m_i(t) 1(a_j(t) > 0)
    lift_ij         = N attended_ij / (n_j sum_t m_i(t))
    drive_active_ij = V_ij E[a_i | a_i active] f_ij
    drive_mean_ij   = V_ij E[b_i] f_ij
    ERA_ij          = V_ij E[b_i 1(a_j active)]
    TWERA_ij        = V_ij E[b_i a_j] / E[a_j]

``attended`` takes the place of ``n_both``: how often both fire, where each position t draws one position from its
pattern and looks there. Attention to BOS and to padding is attention to nothing and is not shared out anew: what a head
leaves on BOS it does not bring. A token counts as active, with activation 1, where it stands. V b_i(t) over the norms'
denominators is what the head adds to the target at t (``tests/unit/ingest/evidence/test_through_moved.py`` takes it out
of a model and looks).

f is the product of E[1 / sigma] of every norm on the way, which V leaves out: before the target's MLP (for a logit the
last one), behind the source's MLP, before the head's attention and behind it; 1 where there is none. In the model these
vary by position together with what they divide: the product of means is an approximation, as it is past the heads.
``drive_active`` is at attention 1, ``drive_mean`` at the attention there was. ERA and TWERA have no f: they rank what
reaches one target through the heads of one layer. Into a logit only drive is defined. Nothing is looked for beyond the
kept edges: an order by these is of what the weight kept.

The model runs over the text again, once for each group of heads whose sums fit into memory; what fires is read from the
files of the first pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from atlas import observations
from atlas.staging import Build
from atlas.through import VIA
from ingest.evidence.attended import KINDS, AttendedSums, Head, Part, groups
from ingest.evidence.attention import Attention
from ingest.evidence.capture import Batch, Runner
from ingest.evidence.corpus import Corpus
from ingest.evidence.relations import Relations, as_float, ratio

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Reading:
    """How the text is gone over: the same shards as in the first pass, and as many windows at once."""

    text: Corpus
    special: tuple[int | None, int | None, int]
    shards: list[tuple[int, int]]
    rows: int
    """windows in one forward pass"""
    fired: Callable[[int], Batch]
    """what fired in a shard"""


def listen(sums: AttendedSums, attention: Attention, reading: Reading, batch: Batch, first: int, last: int) -> None:
    """Run windows ``first`` to ``last - 1``, in which ``batch`` fired among others, and add what heads attend to."""
    ids = reading.text.windows(first, last)
    counted = reading.text.counted(ids, *reading.special)
    part = Part(_between(batch, first, last), first, sums.n_features, sums.n_vocab)

    def see(layer: int, pattern: Tensor) -> None:
        wanted = pattern[:, sums.numbers(layer)].float().cpu().contiguous().numpy()
        sums.add(layer, wanted, part)

    attention.run(ids, counted, list(sums.layers), see, sums.scaled)


class ThroughHeads:
    """The passes over the text for edges through heads: what is done is on disk, and goes on from there."""

    def __init__(
        self, build: Build, runner: Runner, reading: Reading, memory: int, work: Path, save: Callable[..., None]
    ) -> None:
        self.build, self.runner, self.reading, self.memory = build, runner, reading, memory
        self.work, self.save = work, save

    def run(self, found: Relations, folder: Path, checkpoint: float, progress: Progress | None) -> list[str]:
        """Write evidence for all kept edges through heads into an observation's folder; returns the files' names."""
        attention = Attention(self.runner)
        state = self._restored()
        finished = int(state.pop("finished", 0))
        left = groups(self.build, self.memory, finished)
        for number, group in enumerate(left):
            sums, done = AttendedSums(self.build, group, self.runner.weights.n_layers), 0
            if state.pop("of", 0) == len(group):  # with other memory allowed, a group begins anew
                done = int(state["done"])
                sums.arrays |= {name: state[name] for name in sums.arrays}
            state.clear()
            saved = time.monotonic()
            for shard in range(done, len(self.reading.shards)):
                batch = self.reading.fired(shard)
                for first, last in self._windows(*self.reading.shards[shard]):
                    listen(sums, attention, self.reading, batch, first, last)
                if time.monotonic() - saved > checkpoint:
                    self._note(finished, shard + 1, sums)
                    saved = time.monotonic()
                if progress:
                    windows = len(self.reading.text)
                    seen = number * windows + self.reading.shards[shard][1]
                    progress("following attention (windows)", seen, len(left) * windows)
            self._stage(found, sums, folder)
            finished += len(group)
            self._note(finished, 0, None)
        return sorted(name for kind in VIA for name in self.build.edge_files(kind))

    def _windows(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        for start in range(first, last, self.reading.rows):
            yield start, min(start + self.reading.rows, last)

    def _stage(self, found: Relations, sums: AttendedSums, folder: Path) -> None:
        for at, head in enumerate(sums.group):
            for kind in VIA:
                file = f"edges/{kind}/{head.file}.parquet"
                if file in self.build.manifest["files"]:
                    (folder / file).parent.mkdir(parents=True, exist_ok=True)
                    table = evidence(found, sums, kind, at, self.build.read(file, self.build.edge_columns))
                    pq.write_table(table, folder / file, compression="zstd", compression_level=1)

    def _note(self, finished: int, done: int, sums: AttendedSums | None) -> None:
        """What is done: heads, and of the group behind them shards, with the sums of those."""
        arrays = {"finished": np.asarray(finished)}
        if sums:
            arrays |= {"of": np.asarray(len(sums.group)), "done": np.asarray(done), **sums.arrays}
        self.save(self.work / "heads.npz", arrays)

    def _restored(self) -> dict[str, Any]:
        try:
            with np.load(self.work / "heads.npz") as stored:
                return {name: stored[name] for name in stored.files}
        except FileNotFoundError:
            return {}


def evidence(found: Relations, sums: AttendedSums, kind: str, at: int, edges: pa.Table) -> pa.Table:
    """Evidence for a head's kept edges of one kind; columns :data:`atlas.observations.EDGE_VIA`.

    ``at``: the head's place in its group. ``edges``: the build's own file of them.
    """
    head: Head = sums.group[at]
    totals, n = found.totals, found.totals.positions
    source, target = edges["source"].to_numpy(), edges["target"].to_numpy()
    weight = edges["weight"].to_numpy().astype(np.float64)
    of_token = kind == "ACTIVATES_VIA"
    mass = sums.arrays["mass_token" if of_token else "mass"][at, source]
    brought = mass if of_token else sums.arrays["brought"][at, source]
    active = np.where(totals.token_n[source] > 0, 1.0, np.nan) if of_token else found.mean_active[source]
    per_unit = weight * _around(found, sums, head.layer) * (1.0 if of_token else found.inv_out[source])
    per_unit *= found.inv_final if kind == "PROMOTES_VIA" else found.inv_in[target]
    nothing = np.full(len(source), np.nan)
    columns = dict.fromkeys(observations.EVIDENCE_VIA.names, nothing)
    columns |= {"drive_active": per_unit * active, "drive_mean": per_unit * brought / n}
    if kind in KINDS:
        attended, carried, product = sums.of(kind, at)
        columns |= {
            "attended": attended,
            "lift": ratio(n * attended, mass * totals.n[target]),
            "era": weight * carried / n,
            "twera": ratio(weight * product, totals.sum[target]),
        }
    ends = {"source": edges["source"], "target": edges["target"]}
    floats = {name: as_float(column) for name, column in columns.items()}
    return pa.table(ends | floats, schema=observations.EDGE_VIA)


def _around(found: Relations, sums: AttendedSums, layer: int) -> float:
    """E[1 / sigma] of the norm before a layer's attention, times that of the norm behind it."""
    scale = 1.0
    for name in ("in", "out"):
        total = float(sums.arrays[name][layer])
        scale *= total / found.totals.positions if total else 1.0  # no such norm was heard
    return scale


def _between(batch: Batch, first: int, last: int) -> Batch:
    """What fired in windows ``first`` to ``last - 1``."""
    low, high = np.searchsorted(batch.window, [first, last]).tolist()
    begin, end = int(batch.start[low]), int(batch.start[high])
    return Batch(
        *(getattr(batch, name)[low:high] for name in ("window", "position", "token")),
        start=batch.start[low : high + 1] - begin,
        feature=batch.feature[begin:end],
        value=batch.value[begin:end],
        inverse={},
    )
