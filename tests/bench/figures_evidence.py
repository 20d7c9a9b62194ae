"""The figures of ``docs/evidence.md`` on the bundled model: ``python -m tests.bench.figures_evidence [--tokens N] ...``

Observes the bundled corpus whole and in halves, takes sources away, and prints the tables. Long on two cores; what is
observed already is found again under ``ATLAS_HOME``.
"""

from __future__ import annotations

import time

import click
import pandas as pd
import pyarrow as pa
from scipy.stats import spearmanr

import ingest
from atlas import demo
from atlas.observations import Observation
from atlas.observed import observed
from ingest.evidence import causal
from ingest.evidence.corpus import Request, prepare
from ingest.evidence.observe import Options, Subject, observe, open_subject

STATISTICS = ("n_both", "lift", "drive_active", "drive_mean", "era", "twera")


def edges(subject: Subject, seen: Observation) -> pd.DataFrame:
    """Every stored edge between features, by (source, target)."""
    table = pa.concat_tables(observed(subject.build, seen.name).edges("FEEDS"))
    return table.to_pandas().set_index(["source", "target"])


def interference(seen: Observation, found: pd.DataFrame) -> str:
    """How much of the weights never fires together, and how orders agree."""
    figures = seen.manifest["interference"]
    kept = found["kept_by"].str.contains("weight|z")
    lines = [f"- never together among a target's 32 strongest weights: {figures['never_together']}"]
    lines.append(f"- kept edges never together: {(found['n_both'][kept] == 0).mean():.1%} of {kept.sum():,}")
    for order in ("twera", "drive"):
        chosen = found["kept_by"].str.contains(order)
        lines.append(
            f"- a target's strongest by {order} that lie outside the cut by weight: {(~kept)[chosen].mean():.1%}"
        )
    lines += [f"- 20 strongest by {pair} in common: {share:.1%}" for pair, share in figures["common"].items()]
    lines += [
        f"- negative among the 20 strongest by {order}: {share:.1%}" for order, share in figures["negative"].items()
    ]
    return "\n".join(lines)


def repeats(halves: list[pd.DataFrame]) -> str:
    """Does a statistic of one half of the text repeat on the other?"""
    one, other = halves
    both = one.join(other, rsuffix="_other", how="inner")
    lines = []
    for name in STATISTICS:
        pair = both[[name, f"{name}_other"]].dropna().abs()
        rho = spearmanr(pair[name], pair[f"{name}_other"]).statistic
        lines.append(f"- {name}: Spearman {rho:.3f} over {len(pair):,} edges stored by both")
    for order in ("twera", "drive"):
        a, b = (set(half.index[half["kept_by"].str.contains(order)]) for half in halves)
        lines.append(f"- strongest by {order}: {len(a & b) / min(len(a), len(b)):.1%} are the other half's too")
    return "\n".join(lines)


@click.command()
@click.option("--tokens", type=int, help="At most so many positions; all if not said.")
@click.option("--sources", type=int, default=32, show_default=True, help="Taken away, of each layer.")
@click.option("--targets", type=int, default=32, show_default=True, help="Edges out of each.")
@click.option("--windows", type=int, default=48, show_default=True, help="Of the text, each source is taken away in.")
@click.option("--skip-halves", is_flag=True)
def main(tokens: int | None, sources: int, targets: int, windows: int, skip_halves: bool) -> None:
    """Print all figures."""
    build = ingest.build(model=str(demo.MODEL), transcoders=str(demo.TRANSCODERS), name="bunny/tc-1k")
    subject = open_subject(build, str(demo.MODEL), str(demo.TRANSCODERS))
    request = Request(text=str(demo.CORPUS), tokens=tokens)
    start = time.perf_counter()
    seen = observe(subject, request, Options())
    print(f"## {seen.positions:,} positions in {time.perf_counter() - start:.0f} s\n")
    print(seen.layers().to_pandas().round(3).to_string(index=False), "\n")
    print(interference(seen, edges(subject, seen)), "\n", flush=True)
    text = prepare(request, subject.tokenizer, subject.weights.n_vocab, build.path / "observations" / ".figures")
    measured = causal.effects(subject, seen, text, sources=sources, targets=targets, windows=windows)
    print(f"## {len(measured):,} edges, their source taken away\n")
    print(causal.table(measured).round(2).to_string(index=False), "\n")
    print(causal.size(measured).round(2).to_string(index=False), "\n", flush=True)
    if not skip_halves:
        halves = [observe(subject, Request(text=request.text, tokens=tokens, part=(k, 2))) for k in (1, 2)]
        print("## One half of the text and the other\n\n" + repeats([edges(subject, half) for half in halves]))


if __name__ == "__main__":
    main()
