"""Examples for a terminal: a line each, what fires in brackets."""

from __future__ import annotations

import pandas as pd
from rich.cells import cell_len

from queries.evidence import BEFORE
from queries.present_text import WIDTH, cut, number, table, visible


def examples_text(frame: pd.DataFrame, width: int = WIDTH) -> str:
    """Each example on a line: the activation, then its context with the firing token in brackets, in one column."""
    if frame.empty:
        return table(frame)
    values = [number(value) for value in frame["value"]]
    margin = max(map(len, values))
    room = width - margin - 2
    left = room * 3 // 5
    lines = []
    for value, tokens, position in zip(values, frame["tokens"], frame["position"], strict=True):
        at = min(int(position), BEFORE)
        words = [visible(str(token)) for token in tokens]
        before = _tail("".join(words[:at]), left)
        after = cut(f"[{words[at]}]" + "".join(words[at + 1 :]), room - left)
        lines.append(f"{value:>{margin}}  {' ' * (left - cell_len(before))}{before}{after}".rstrip())
    return "\n".join(lines)


def _tail(text: str, room: int) -> str:
    """The end of a text, in at most ``room`` cells."""
    if cell_len(text) <= room:
        return text
    while cell_len(text) > room - 1:
        text = text[1:]
    return "…" + text
