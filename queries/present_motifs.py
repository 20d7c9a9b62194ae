"""Shapes for a terminal: their counts as a table, and each instance as its features and what joins them."""

from __future__ import annotations

import math

import pandas as pd
from rich.cells import cell_len

from queries.instances import PLACES
from queries.present_text import WIDTH, cut, number, signed, table, visible


def motifs_text(frame: pd.DataFrame, width: int = WIDTH) -> str:
    """A shape a line; expected numbers with the digits that counts are written with."""
    if frame.empty:
        return table(frame, width)
    cells = [list(frame.columns)]
    for row in frame.to_dict("records"):
        z = "" if math.isnan(row["z"]) else number(row["z"], "z")
        cells.append([row["shape"], f"{row['count']:,}", _expected(row["expected"]), z, number(row["p"])])
    rooms = [max(len(line[at]) for line in cells) for at in range(len(cells[0]))]
    lines = (
        "  ".join(
            [line[0].ljust(rooms[0]), *(text.rjust(room) for text, room in zip(line[1:], rooms[1:], strict=True))]
        )
        for line in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def instances_text(frame: pd.DataFrame, width: int = WIDTH) -> str:
    """Instances below each other: the score, then a feature a line under its letter, then the numbers of what joins
    them: z, or what they were asked by."""
    if frame.empty:
        return str(frame.attrs.get("note", "none"))
    places = PLACES[frame.attrs["shape"]]
    by = "weights" if frame.attrs["weight"] == "weight" else str(frame.attrs["weight"])
    blocks = []
    for found in frame.to_dict("records"):
        kind = "coherent" if found["sign"] == "+" else "incoherent"
        lines = [f"{found['rank']:>3}  {frame.attrs['score']} {number(found['score'])}, {kind}"]
        room = max(map(cell_len, found["keys"]))
        for letter, key, label in zip("ABCD", found["keys"], found["labels"], strict=False):
            line = f"     {letter}  {key.ljust(room)}  "
            lines.append((line + cut(visible(label), max(12, width - cell_len(line)))).rstrip())
        joined = (f"{a} → {b} {_joining(size, by)}" for (a, b), size in zip(places, found[by], strict=True))
        lines.append("     " + "   ".join(joined))
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def _joining(value: float, by: str) -> str:
    plain = by in ("z", "share", "coactivation")
    return number(value, by) if plain else signed(value)


def _expected(value: float) -> str:
    return "" if math.isnan(value) else f"{value:,.0f}" if value >= 1000 else number(value)
