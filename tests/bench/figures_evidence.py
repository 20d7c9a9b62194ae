"""The figures of ``docs/evidence-figures.md`` on the bundled model, written by this and not by hand::

    python -m tests.bench.figures_evidence --out docs/evidence-figures.md [--tokens N] ...

Observes the bundled corpus whole and in halves, takes sources away, and writes the tables. Long on two cores; what is
observed already is found again under ``ATLAS_HOME``.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

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
from ingest.evidence.observe import Options, observe
from ingest.evidence.subject import Subject, open_subject

PAGE = """# Does it hold? Figures on the bundled model

What evidence says of the bundled model, and whether it is true there. Written by `{command}`, not by hand.
The text is the bundled corpus: {positions} counted positions{seconds}. How each number is defined is in
[evidence.md](evidence.md).

{layers}

## Taking a source away

For a random sample of {edges} stored connections between live features: the source is taken away at all positions where
it fires, in {windows} windows of the text, in the real model with everything behind it live, and the change of the
target's pre-activation is measured. `where`: its mean where the source fires. `overall`: over all positions.
`weighted`: weighted by the target's activation. Each cell is Spearman's rho of the predictor with the effect,
signed / by size; `sign` is the share of connections whose effect has the predictor's sign. Compare predictors within a
column only: `drive_mean` and `twera` share a factor with the effects `overall` and `weighted`.

{causal}

The measured effect over what drive predicts, for the stronger half by drive, by the layers between (quartiles):

{ratio}

## Interference

{interference}

## One half of the text and the other

{repeats}
"""
STATISTICS = ("n_both", "lift", "drive_active", "drive_mean", "era", "twera")


def edges(subject: Subject, seen: Observation) -> pd.DataFrame:
    """Every stored edge between features, by (source, target)."""
    table = pa.concat_tables(observed(subject.build, seen.name).edges("FEEDS"))
    return table.to_pandas().set_index(["source", "target"])


def interference(seen: Observation, found: pd.DataFrame) -> str:
    """How much of the weights never fires together, and how orders agree."""
    figures = seen.manifest["interference"]
    kept = found["kept_by"].str.contains("weight|z")
    never = [(layer, share) for layer, share in figures["never_together"].items() if layer != "all"]
    lines = [
        f"Of a target's 32 strongest weights {figures['never_together']['all']:.0%} join features that are never "
        f"active together on this text ({', '.join(f'layer {layer}: {share:.0%}' for layer, share in never)}); of all "
        f"kept connections {(found['n_both'][kept] == 0).mean():.0%} of {kept.sum():,}.",
    ]
    for order, called in (("twera", "TWERA"), ("drive", "drive")):
        chosen = found["kept_by"].str.contains(order)
        lines.append(f"Of each target's strongest by {called}, {(~kept)[chosen].mean():.0%} lie outside every cut.")
    agree = pd.DataFrame(
        [(*pair.split(" and "), share) for pair, share in figures["common"].items()],
        columns=["order", "and", "of 20 strongest in common"],
    )
    negative = pd.DataFrame(figures["negative"].items(), columns=["20 strongest by", "negative"])
    return "\n".join([" ".join(lines), "", markdown(agree, ".0%"), "", markdown(negative, ".0%")])


def repeats(halves: list[pd.DataFrame]) -> str:
    """Does a statistic of one half of the text repeat on the other?"""
    one, other = halves
    both = one.join(other, rsuffix="_other", how="inner")
    rows = []
    for name in STATISTICS:
        pair = both[[name, f"{name}_other"]].dropna().abs()
        rows.append((f"`{name}`", len(pair), spearmanr(pair[name], pair[f"{name}_other"]).statistic))
    table = markdown(pd.DataFrame(rows, columns=["statistic", "edges stored by both", "Spearman"]), ".3f")
    lines = []
    for order in ("twera", "drive"):
        a, b = (set(half.index[half["kept_by"].str.contains(order)]) for half in halves)
        lines.append(f"Of the strongest by {order}, {len(a & b) / min(len(a), len(b)):.0%} are the other half's too.")
    return table + "\n\n" + " ".join(lines)


def causal_table(measured: pd.DataFrame) -> str:
    """Spearman of each predictor with the measured effects, for each layer and all."""
    found = causal.table(measured)
    rows = []
    for (layer, predictor), row in found.set_index(["layer", "predictor"]).iterrows():
        pairs = [f"{row[effect]:.2f} / {row[f'{effect}_size']:.2f}" for effect in causal.EFFECTS]
        rows.append((layer, f"`{predictor}`", int(row["edges"]), f"{row['sign']:.0%}", *pairs))
    columns = ["source layer", "predictor", "edges", "sign", *causal.EFFECTS]
    return markdown(pd.DataFrame(rows, columns=columns), "")


def markdown(frame: pd.DataFrame, form: str) -> str:
    """A table; floats in ``form``, whole numbers with their thousands apart."""

    def said(value: object) -> str:
        if isinstance(value, float):
            return format(value, form)
        return f"{value:,}" if isinstance(value, int) else str(value)

    rows = [[str(name) for name in frame.columns], ["---"] * len(frame.columns)]
    rows += [[said(value) for value in row] for row in frame.astype(object).itertuples(index=False, name=None)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Where to write; printed in any case.")
@click.option("--tokens", type=int, help="At most so many positions; all if not said.")
@click.option("--sources", type=int, default=32, show_default=True, help="Taken away, of each layer.")
@click.option("--targets", type=int, default=32, show_default=True, help="Edges out of each.")
@click.option("--windows", type=int, default=48, show_default=True, help="Of the text, each source is taken away in.")
def main(out: Path | None, tokens: int | None, sources: int, targets: int, windows: int) -> None:
    """Print all figures."""
    build = ingest.build(model=str(demo.MODEL), transcoders=str(demo.TRANSCODERS), name="bunny/tc-1k")
    subject = open_subject(build, str(demo.MODEL), str(demo.TRANSCODERS))
    request = Request(text=str(demo.CORPUS), tokens=tokens)
    clock = time.process_time()
    seen = observe(subject, request, Options())
    spent = time.process_time() - clock
    asked = f" --tokens {tokens}" if tokens else ""
    asked += f" --sources {sources} --targets {targets} --windows {windows}"
    layers = seen.layers().to_pandas()[["layer", "l0", "explained", "inv_sigma", "dead", "always_on"]]
    with tempfile.TemporaryDirectory() as folder:
        text = prepare(request, subject.tokenizer, subject.weights.n_vocab, Path(folder))
        measured = causal.effects(subject, seen, text, sources=sources, targets=targets, windows=windows)
    ratio = causal.size(measured).rename(columns=lambda name: name if isinstance(name, str) else f"{name:.0%}")
    halves = [observe(subject, Request(text=request.text, tokens=tokens, part=(k, 2))) for k in (1, 2)]
    known = {
        "command": f"python -m tests.bench.figures_evidence{asked}",
        "positions": f"{seen.positions:,}",
        "seconds": f", {spent:,.0f} processor seconds" if spent > 5 else "",
        "layers": markdown(layers, ".3f"),
        "edges": f"{len(measured):,}",
        "windows": windows,
        "causal": causal_table(measured),
        "ratio": markdown(ratio, ".2f"),
        "interference": interference(seen, edges(subject, seen)),
        "repeats": repeats([edges(subject, half) for half in halves]),
    }
    page = PAGE.format(**known)
    print(page)
    if out:
        out.write_text(page)


if __name__ == "__main__":
    main()
